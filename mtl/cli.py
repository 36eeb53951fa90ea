"""The command line: words in, requests out. Nothing heavy is imported before the words are known to be right."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mtl.errors import ElsewhereError, Interrupted, NonFiniteError, StorageError, UserError
from mtl.launch import PROCESSES, RANK

if TYPE_CHECKING:
    from mtl.display import Level
    from mtl.preflight import Request
    from mtl.settings import Sourced

DONE, FAILED, WRONG_INPUT = 0, 1, 2
HERE = f" (in process {RANK})" if PROCESSES > 1 else ""
SHELLS = ("bash", "zsh", "fish")


class Parser(argparse.ArgumentParser):
    """Wrong usage is one message and status 2."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}\n{self.format_usage()}see {self.prog} --help\n")
        sys.exit(WRONG_INPUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = make_parser().parse_args(words)
    arguments.command_words = [Path(sys.argv[0]).name if argv is None else "run_mtl.py", *words]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log file can be followed
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries are told once, by our own message
    try:
        return int(arguments.function(arguments) or DONE)
    except UserError as error:
        _show_traceback(arguments)
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return WRONG_INPUT
    except ElsewhereError:
        return FAILED
    except Interrupted as error:
        if RANK == 0:
            sys.stderr.write(f"{error}\n")
        return 128 + error.signal_number
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT
    except NonFiniteError as error:  # every process finds it
        _show_traceback(arguments)
        if RANK == 0:
            sys.stderr.write(f"error: {error}\n")
        return FAILED
    except StorageError as error:
        _show_traceback(arguments)
        sys.stderr.write(f"error: {error}{HERE}\n")
        return FAILED
    except BrokenPipeError:
        return FAILED
    except Exception as error:
        _show_traceback(arguments)
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        if PROCESSES > 1 and isinstance(error, RuntimeError) and re.search("gloo|nccl|connection", str(error), re.I):
            reason = "another process of the run, or the network, is gone"
        sys.stderr.write(f"error: {reason}{HERE} (--debug shows where)\n")
        return FAILED


def _show_traceback(arguments: argparse.Namespace) -> None:
    if arguments.debug:
        traceback.print_exc()


def make_parser(program: str = "run_mtl.py") -> Parser:
    """The parser of all commands."""
    description = "Multi-task learning: one shared encoder, one standalone model per task."
    parser = Parser(prog=program, description=description)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, (function, add_arguments, help_text) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(function=function)
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        add_arguments(command)
    return parser


def _train_arguments(parser: Parser) -> None:
    parser.add_argument("task_defs", nargs="*", metavar="TASK_DEFS", help="task definition YAML files")
    parser.add_argument("--encoder", metavar="E", help="hub id, directory, or pkg:PACKAGE/SUBDIR")
    parser.add_argument(
        "--tasks", metavar="A,B", type=_names, default=[], help="tasks to train, in order (default: all)"
    )
    parser.add_argument(
        "--baselines", action="store_true", help="then train each task alone, for the steps it got, and compare"
    )
    _add_run_options(parser)


def _adapt_arguments(parser: Parser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="a run that `train` finished")
    parser.add_argument("--task", required=True, metavar="T", help="the task to adapt to")
    parser.add_argument("--task-defs", action="append", default=[], metavar="FILE", help="definitions of new tasks")
    parser.add_argument(
        "--head",
        metavar="reuse|fresh|TASK",
        help="start from the run's head of the task (default where it has one), a fresh one, or that of another task",
    )
    _add_run_options(parser)


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="RUN_OR_EXPORT_DIR", type=Path)
    parser.add_argument("--task", action="append", default=[], metavar="T", help="default: all")
    parser.add_argument("--split", default="validation", metavar="S")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the metrics as JSON")
    _add_precision(parser)
    _add_weights(parser)


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="RUN_OR_EXPORT_DIR", type=Path)
    several = "several with commas encode each row once with --weights final; may be left out where there is only one"
    parser.add_argument("--task", metavar="T[,T]", type=_names, default=[], help=several)
    parser.add_argument("--input", required=True, type=Path, metavar="FILE", help="csv, tsv, jsonl or parquet")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="JSON lines")
    _add_precision(parser)
    _add_weights(parser)


def _export_arguments(parser: Parser) -> None:
    parser.add_argument("path", metavar="RUN_OR_EXPORT_DIR", type=Path)
    parser.add_argument("--task", action="append", default=[], metavar="T", help="default: all")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="each task goes to DIR/TASK")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier exports")
    where = "also upload to this repository of the hub, private if it is new; several tasks go to REPO-TASK each"
    parser.add_argument("--push-to-hub", metavar="REPO", help=where)
    _add_weights(parser)


def _validate_arguments(parser: Parser) -> None:
    parser.add_argument("--encoder", metavar="E", help="also measure token lengths and truncation with its tokenizer")
    parser.add_argument("--dry-run", action="store_true", help="also run one training step per task (needs --encoder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("task_defs", nargs="+", metavar="TASK_DEFS")
    parser.add_argument("--tasks", metavar="A,B", type=_names, default=[])
    _add_settings(parser)


def _prepare_arguments(parser: Parser) -> None:
    parser.add_argument("task_defs", nargs="+", metavar="TASK_DEFS")
    parser.add_argument("--encoder", required=True, metavar="E")
    parser.add_argument("--tasks", metavar="A,B", type=_names, default=[])
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens of one input")
    parser.add_argument("--num-proc", type=int, metavar="N", help="processes that tokenise")


def _tasks_arguments(parser: Parser) -> None:
    parser.add_argument("task_defs", nargs="+", metavar="TASK_DEFS")
    parser.add_argument("--tasks", metavar="A,B", type=_names, default=[], help="tasks to list (default: all)")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub, whose rows are counted too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _schema_arguments(parser: Parser) -> None:
    pass


def _completion_arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=SHELLS)
    parser.add_argument("--program", metavar="NAME", default="run-mtl", help="what is typed (default: run-mtl)")


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", type=Path)
    where = "default: report.html in the directory of a single run, else in the current one"
    parser.add_argument("--output", type=Path, metavar="FILE.html", help=where)
    parser.add_argument("--png", type=Path, metavar="DIR", help="also write every chart as a PNG file")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub (default: each run's)")


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument("study", metavar="STUDY.yml", type=Path, help="arms, seeds, tasks and training sizes")
    parser.add_argument("--output", type=Path, metavar="DIR", help="directory of the study (default: runs/STUDY)")
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub, over the study's")
    parser.add_argument("--jobs", type=_count, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--arms", type=_names, default=[], metavar="A,B", help="arms to run now (default: all)")
    parser.add_argument(
        "--summary", type=Path, metavar="FILE", help="keep the summary there too; what it holds counts as finished"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--summary-only", action="store_true", help="run nothing, show what is finished")
    what.add_argument("--dry-run", action="store_true", help="run nothing, show what the study will take")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _init_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="csv, tsv, jsonl or parquet")


def _add_run_options(parser: Parser) -> None:
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="directory of the run")
    _add_settings(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print warnings, errors and the final table only")
    shown.add_argument("--verbose", action="store_true", help="also print a line each time the log is written")


def _add_settings(parser: Parser) -> None:
    """The settings of a run, each by its flag."""
    parser.add_argument("--data-root", metavar="DIR", help="local mirror of the hub")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N")
    length.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps")
    parser.add_argument("--learning-rate", type=float, metavar="X")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows of one optimizer step")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens of one input")
    parser.add_argument("--sampler", metavar="S", help="round_robin, proportional, sqrt, temperature or annealed")
    parser.add_argument("--precision", metavar="P", help="fp32, bf16 or fp16")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--no-smart", dest="smart", action="store_const", const=False, help="no adversarial term")
    parser.add_argument("--no-proximal", dest="proximal", action="store_const", const=False, help="no proximal term")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--train-size", type=int, metavar="N", help="examples (ranking: queries) of each task")
    size.add_argument("--train-fraction", type=float, metavar="F")
    parser.add_argument("--leaks", metavar="P", help="training rows found in evaluation rows: drop, warn or ignore")
    parser.add_argument("--num-proc", type=int, metavar="N", help="processes that tokenise")
    parser.add_argument("--config", metavar="FILE", help="run configuration, such as another run's run.yml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the configuration")
    parser.add_argument(
        "--trust-remote-code", action="store_const", const=True, help="let the encoder run its own code"
    )


def _add_weights(parser: Parser) -> None:
    parser.add_argument(
        "--weights",
        choices=("best", "final", "teacher"),
        default="best",
        help="of a run: each task's best step (default), the last step, or the proximal term's average",
    )


def _add_precision(parser: Parser) -> None:
    text = "of the computation (default: fp32); bf16 is faster where the processor has it"
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help=text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _typed(arguments: argparse.Namespace) -> Sourced:
    """The settings among the words."""
    from mtl.api import FLAGS
    from mtl.config import command_line

    flags = {
        key: (f"--{'no-' if getattr(arguments, name, None) is False else ''}{name.replace('_', '-')}", value)
        for name, key in FLAGS.items()
        if (value := getattr(arguments, name, None)) is not None
    }
    return command_line(flags, getattr(arguments, "set", []))


def _request(arguments: argparse.Namespace) -> Request:
    """What `validate` and `prepare` are asked, which write no run."""
    from mtl.preflight import Request

    config, names = getattr(arguments, "config", None), arguments.tasks
    return Request(Path(), arguments.task_defs, config, _typed(arguments), names)


def _run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `train` and `adapt` have in common."""
    from mtl.display import Display

    names = ("task_defs", "output", "config", "resume", "overwrite")
    level: Level = "quiet" if arguments.quiet else "verbose" if arguments.verbose else "normal"
    options = {name: getattr(arguments, name) for name in names}
    return options | {
        "settings": _typed(arguments),
        "display": Display(level),
        "command": arguments.command_words,
    }


def _train(arguments: argparse.Namespace) -> None:
    from mtl.api import train

    train(tasks=arguments.tasks, baselines=arguments.baselines, **_run_options(arguments))


def _adapt(arguments: argparse.Namespace) -> None:
    from mtl.api import adapt

    adapt(arguments.run_dir, task=arguments.task, **_run_options(arguments))


def _evaluate(arguments: argparse.Namespace) -> None:
    from mtl.inference import evaluate

    evaluate(
        arguments.path,
        names=arguments.task,
        split=arguments.split,
        data_root=arguments.data_root,
        weights=arguments.weights,
        precision=arguments.precision,
        output=arguments.output,
    )


def _predict(arguments: argparse.Namespace) -> None:
    from mtl.inference import predict

    predict(
        arguments.path,
        arguments.task,
        arguments.input,
        arguments.output,
        weights=arguments.weights,
        precision=arguments.precision,
    )


def _export(arguments: argparse.Namespace) -> None:
    from mtl.inference import export

    options = {name: getattr(arguments, name) for name in ("weights", "overwrite", "push_to_hub")}
    export(arguments.path, arguments.task, arguments.output, **options)


def _validate(arguments: argparse.Namespace) -> int:
    from mtl.validate import validate

    findings = validate(_request(arguments), dry_run=arguments.dry_run)
    print(json.dumps(findings.as_json()) if arguments.json else findings.as_text())
    return WRONG_INPUT if findings.errors else DONE


def _prepare(arguments: argparse.Namespace) -> None:
    from mtl.validate import prepare_all

    print(prepare_all(_request(arguments)))


def _report(arguments: argparse.Namespace) -> None:
    from mtl.html_report import write_report
    from mtl.report import compare_runs, read_results

    print(compare_runs({str(run_dir): read_results(run_dir) for run_dir in arguments.run_dirs}))
    data_root, png = arguments.data_root, arguments.png
    print(f"report: {write_report(arguments.run_dirs, arguments.output, data_root=data_root, png=png)}")


def _compare(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        from mtl.study_cost import cost_text

        print(cost_text(arguments.study, arguments.data_root))
        return DONE
    from mtl.compare import compare

    names = ("output", "jobs", "data_root", "arms", "summary", "summary_only")
    chosen = {name: getattr(arguments, name) for name in names}
    return DONE if compare(arguments.study, **chosen) else FAILED


def _init(arguments: argparse.Namespace) -> None:
    from mtl.propose import propose

    print(propose(arguments.file), end="")


def _tasks(arguments: argparse.Namespace) -> None:
    from mtl.describe import list_tasks, tasks_table

    tasks = list_tasks(arguments.task_defs, arguments.tasks, arguments.data_root)
    print(json.dumps(tasks) if arguments.json else tasks_table(tasks))


def _schema(arguments: argparse.Namespace) -> None:
    from mtl.describe import schema_text

    print(schema_text(), end="")


def _completion(arguments: argparse.Namespace) -> None:
    from mtl.completion import completion_script

    print(completion_script(make_parser(arguments.program), arguments.shell))


Command = tuple[Callable[[argparse.Namespace], "int | None"], Callable[[Parser], None], str]

COMMANDS: dict[str, Command] = {
    "train": (_train, _train_arguments, "Train a shared encoder on several tasks."),
    "adapt": (_adapt, _adapt_arguments, "Fine-tune a trained run on one task, known or new."),
    "evaluate": (_evaluate, _evaluate_arguments, "Score a run or an export on a split."),
    "predict": (_predict, _predict_arguments, "Predict the rows of a file, in their order."),
    "export": (_export, _export_arguments, "Write standalone Transformers models, one directory per task."),
    "validate": (_validate, _validate_arguments, "Check definitions and data, and tell everything that is wrong."),
    "prepare": (_prepare, _prepare_arguments, "Tokenise all data now, so that training starts at once."),
    "report": (_report, _report_arguments, "Write a report of runs as one HTML file, and print their results."),
    "compare": (_compare, _compare_arguments, "Run a study: arms × seeds × tasks × training sizes, with intervals."),
    "tasks": (_tasks, _tasks_arguments, "List tasks with their types, metrics and sizes."),
    "init": (_init, _init_arguments, "Propose a task definition for a data file of your own."),
    "schema": (_schema, _schema_arguments, "Print the JSON Schema of task definitions, for editors."),
    "completion": (_completion, _completion_arguments, "Print a completion script for a shell."),
}
