"""Commands and flags of the command line, and the messages for wrong usage."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mtl.errors import listed, nearest, printable

WRONG_INPUT = 2
SETTING = re.compile(r"\w[\w.-]*=")
SHELLS = ("bash", "zsh", "fish")
TASK_DEFS_HELP = "YAML files with task definitions"
ENCODER_HELP = "hub id, directory, or pkg:PACKAGE/SUBDIR"
RUN_OR_EXPORT_HELP = "directory of a run, of one exported task, or of several"
TRUST_HELP = "allow the encoder to run its own code"


class Parser(argparse.ArgumentParser):
    """Argument parser that reports wrong usage in one message, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): ", r"\1: ", message)  # the form of all other messages
        message = re.sub(r"invalid int value: (.*)", r"expected a whole number, got \1", message)
        message = re.sub(r"invalid float value: (.*)", r"expected a number, got \1", message)
        message = re.sub(r"not allowed with argument (.*)", r"cannot be combined with \1; remove one of them", message)
        if match := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            allowed = re.findall(r"[\w-]+", match[2])
            told = f"got {match[1]!r}; allowed: {listed(allowed, 40)}{nearest(match[1], allowed)}"
            message = message.replace(match[0], told)
        sys.stderr.write(f"error: {printable(message)}\nsee {self.prog} --help\n")
        sys.exit(WRONG_INPUT)


class CommandParser(Parser):
    """Parser of one command; reports a misspelt flag rather than a required one that is missing because of it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        flags, args = self.flags(), _one_each(args)
        for word in args:
            flag = word.partition("=")[0]
            if word.startswith("--") and word != "--" and flag not in flags:
                self.error(f"{flag}: unknown flag{self._meant(flag)}")
        return super().parse_known_args(args, namespace)

    def flags(self) -> list[str]:
        return ["--help", *re.findall(r"--[\w-]+", self.format_usage())]

    def _meant(self, flag: str) -> str:
        others = []
        for name, (add_arguments, _) in ARGUMENTS.items():
            other = CommandParser(prog=name)
            add_arguments(other)
            others += [name] if flag in other.flags() else []
        return f"; it is a flag of: {listed(others)}" if others else nearest(flag, self.flags())


class _Version(argparse.Action):
    """Prints the installed version, which only then is looked up."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from mtl.machine import installed_version

        print(f"mtl-toolkit {installed_version('mtl-toolkit') or '(not installed)'}")
        parser.exit()


def _one_each(words: Sequence[str]) -> list[str]:
    """Words in which `--set A=1 B=2` is written as `--set A=1 --set B=2`."""
    found: list[str] = []
    value = after = False  # whether the word is a setting, or follows one
    for word in words:
        if after and SETTING.match(word):
            found.append("--set")
            value = True
        found.append(word)
        value, after = word == "--set", value or word.startswith("--set=")
    return found


def make_parser(program: str = "run_mtl.py") -> Parser:
    """Create the parser of all commands."""
    description = "Multi-task learning: one shared encoder, one standalone model per task."
    parser = Parser(prog=program, description=description, epilog=f"{program} COMMAND --help lists its flags.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, (add_arguments, help_text) in ARGUMENTS.items():
        command = commands.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        command.set_defaults(parser=command)
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        add_arguments(command)
    return parser


def _train_arguments(parser: Parser) -> None:
    parser.add_argument(
        "task_defs", nargs="*", metavar="TASK_DEFS", help=f"{TASK_DEFS_HELP} (default: those of --config)"
    )
    parser.add_argument("--encoder", metavar="E", help=ENCODER_HELP)
    _add_names(parser, "--tasks", "tasks to train, in order (default: all)")
    parser.add_argument(
        "--baselines", action="store_true", help="then train each task alone, for as many steps as it got, and compare"
    )
    _add_run_options(parser)


def _adapt_arguments(parser: Parser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="a run that `train` finished")
    parser.add_argument("--task", required=True, metavar="T", help="the task to adapt to")
    parser.add_argument(
        "--task-defs", action="append", default=[], metavar="FILE", help="definitions of new tasks; repeatable"
    )
    parser.add_argument(
        "--head",
        metavar="reuse|fresh|TASK",
        help="start from the run's head for the task (default if it has one), a fresh one, or that of another task",
    )
    _add_run_options(parser)


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="RUN_OR_EXPORT_DIR", type=Path, help=RUN_OR_EXPORT_HELP)
    _add_names(parser, "--task", "separated by commas, or repeated (default: all)", "T[,T]")
    parser.add_argument("--split", default="validation", metavar="S", help="split of the data (default: validation)")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub (default: the run's)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the metrics as JSON")
    _add_precision(parser)
    _add_loading(parser)


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="RUN_OR_EXPORT_DIR", type=Path, help=RUN_OR_EXPORT_HELP)
    several = "several, separated by commas, encode each row once with --weights final; optional if there is only one"
    _add_names(parser, "--task", several, "T[,T]")
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        metavar="FILE",
        help="csv, tsv, jsonl or parquet, in the encoding of the task's data (jsonl: UTF-8 if the task has no jsonl)",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="predictions, as JSON lines")
    _add_precision(parser)
    _add_loading(parser)


def _export_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="RUN_DIR", type=Path, help="directory of a run")
    _add_names(parser, "--task", "separated by commas, or repeated (default: all)", "T[,T]")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="each task goes to DIR/TASK")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier exports")
    where = "also upload to this repository of the hub, private if it is new; several tasks go to REPO-TASK each"
    parser.add_argument("--push-to-hub", metavar="REPO", help=where)
    _add_loading(parser)


def _validate_arguments(parser: Parser) -> None:
    parser.add_argument("--encoder", metavar="E", help="also measure token lengths and truncation with its tokenizer")
    parser.add_argument("--dry-run", action="store_true", help="also run one training step per task (needs --encoder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("task_defs", nargs="+", metavar="TASK_DEFS", help=TASK_DEFS_HELP)
    _add_names(parser, "--tasks", "tasks to check (default: all)")
    _add_settings(parser)


def _prepare_arguments(parser: Parser) -> None:
    parser.add_argument("task_defs", nargs="+", metavar="TASK_DEFS", help=TASK_DEFS_HELP)
    parser.add_argument("--encoder", required=True, metavar="E", help=ENCODER_HELP)
    _add_names(parser, "--tasks", "tasks to prepare (default: all)")
    _add_settings(parser)


def _tasks_arguments(parser: Parser) -> None:
    parser.add_argument("task_defs", nargs="+", metavar="TASK_DEFS", help=TASK_DEFS_HELP)
    _add_names(parser, "--tasks", "tasks to list (default: all)")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub, whose rows are counted too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _schema_arguments(parser: Parser) -> None:
    pass


def _completion_arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.add_argument("--program", metavar="NAME", default="run-mtl", help="name of the command (default: run-mtl)")


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", type=Path, help="directory of a run")
    where = "default: report.html in the directory of a single run, else in the current one"
    parser.add_argument("--output", type=Path, metavar="FILE.html", help=where)
    parser.add_argument("--png", type=Path, metavar="DIR", help="also write every chart as a PNG file")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub (default: each run's)")


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument("study", metavar="STUDY.yml", type=Path, help="arms, seeds, tasks and training sizes")
    parser.add_argument("--output", type=Path, metavar="DIR", help="directory of the study (default: runs/STUDY)")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub (default: the study's)")
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="runs at a time (default: 1)")
    _add_names(parser, "--arms", "arms to run now (default: all)")
    parser.add_argument(
        "--summary", type=Path, metavar="FILE", help="keep the summary there too; what it holds counts as finished"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--summary-only", action="store_true", help="run nothing, show what is finished")
    what.add_argument("--dry-run", action="store_true", help="run nothing, show what is left to do and its cost")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _init_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="csv, tsv, jsonl or parquet")
    parser.add_argument("--label", metavar="COLUMN", help="column of the label (default: guessed)")
    parser.add_argument(
        "--text", action="append", default=[], metavar="COLUMN", help="column of the text; twice for a pair"
    )


def _add_run_options(parser: Parser) -> None:
    run = parser.add_argument_group("the run")
    run.add_argument("--output", required=True, type=Path, metavar="DIR", help="directory of the run")
    found = run.add_mutually_exclusive_group()
    found.add_argument("--resume", action="store_true", help="continue the run in --output")
    found.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    shown = run.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print warnings, errors and the final table only")
    shown.add_argument("--verbose", action="store_true", help="also print a line each time the log is written")
    _add_settings(parser)


def _add_settings(parser: Parser) -> None:
    """Add the flags of a run's settings; a test compares the defaults in their help with those of the configuration."""
    over = "override --config, the task definitions and, in `adapt`, the run's settings of the task; defaults apply "
    over += "where none of these sets a value"
    training = parser.add_argument_group("training", over)
    length = training.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N", help="passes over the data (default: 5)")
    length.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps, instead of --epochs")
    training.add_argument("--learning-rate", type=float, metavar="X", help="peak, for every task (default: 5e-05)")
    rows = "rows per optimizer step, for every task (default: 32)"
    training.add_argument("--batch-size", type=int, metavar="N", help=rows)
    training.add_argument(
        "--max-length", type=int, metavar="N", help="maximum tokens per input, for every task (default: 512)"
    )
    samplers = "how tasks are sampled: round_robin (default), proportional, sqrt, temperature or annealed"
    training.add_argument("--sampler", metavar="S", help=samplers)
    training.add_argument("--precision", metavar="P", help="fp32 (default), bf16 or fp16 (on a GPU)")
    training.add_argument("--seed", type=int, metavar="N", help="seed of all random draws (default: 42)")
    for name, term in (("smart", "adversarial smoothness term R_s"), ("proximal", "proximal term D")):
        text = f"no {term} in any task"
        training.add_argument(f"--no-{name}", dest=name, action="store_const", const=False, help=text)
    data = parser.add_argument_group("data")
    data.add_argument("--data-root", metavar="DIR", help="local mirror of the hub")
    size = data.add_mutually_exclusive_group()
    rows = "of each task's training examples (ranking: queries); default: all"
    size.add_argument("--train-size", type=int, metavar="N", help=f"number {rows}")
    size.add_argument("--train-fraction", type=float, metavar="F", help=f"fraction {rows}")
    leaks = "training rows that also occur in evaluation data: warn (default), drop or ignore"
    data.add_argument("--leaks", metavar="P", help=leaks)
    data.add_argument("--num-proc", type=int, metavar="N", help="processes that tokenise (default: 1)")
    settings = parser.add_argument_group("settings")
    settings.add_argument("--config", metavar="FILE", help="run configuration, such as another run's run.yml")
    anything = "any key of the configuration, such as evaluation.every=200; repeatable"
    settings.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=anything)
    settings.add_argument("--trust-remote-code", action="store_const", const=True, help=TRUST_HELP)


def _add_loading(parser: Parser) -> None:
    parser.add_argument(
        "--weights",
        choices=("best", "final", "teacher"),
        default="best",
        help="of a run: each task's best step (default), the last step, or the proximal term's average",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help=TRUST_HELP)


def _add_names(parser: Parser, flag: str, text: str, metavar: str = "A,B") -> None:
    """Adds a flag for several names, separated by commas or repeated."""
    parser.add_argument(flag, action="extend", type=_names, default=[], metavar=metavar, help=text)


def _add_precision(parser: Parser) -> None:
    text = "of the computation (default: fp32); bf16 is faster if the processor supports it"
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help=text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"expected names separated by commas, got {text!r}")
    return names


ARGUMENTS: dict[str, tuple[Callable[[Parser], None], str]] = {
    "train": (_train_arguments, "Train a shared encoder on several tasks."),
    "adapt": (_adapt_arguments, "Fine-tune a trained run on one task, known or new."),
    "evaluate": (_evaluate_arguments, "Score a run or an export on a split."),
    "predict": (_predict_arguments, "Predict the rows of a file, in their order."),
    "export": (_export_arguments, "Write standalone Transformers models, one directory per task."),
    "validate": (_validate_arguments, "Check definitions and data, and report all problems."),
    "prepare": (_prepare_arguments, "Tokenise all data now, so that training starts at once."),
    "report": (_report_arguments, "Write a report of runs as one HTML file, and print their results."),
    "compare": (_compare_arguments, "Run a study: arms × seeds × tasks × training sizes, with intervals."),
    "tasks": (_tasks_arguments, "List tasks with their types, metrics and sizes."),
    "init": (_init_arguments, "Propose a task definition for a data file of your own."),
    "schema": (_schema_arguments, "Print the JSON Schema of task definitions, for editors."),
    "completion": (_completion_arguments, "Print a completion script for a shell."),
}
