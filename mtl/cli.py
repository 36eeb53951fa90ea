"""The command line: parses arguments and calls the API. Heavy packages are imported only for valid arguments."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.arguments import WRONG_INPUT, make_parser
from mtl.errors import ElsewhereError, Interrupted, NonFiniteError, Problem, StorageError, UserError, first_line, listed
from mtl.launch import PROCESSES, RANK
from mtl.stop import handling

if TYPE_CHECKING:
    from mtl.display import Level
    from mtl.preflight import Request
    from mtl.settings import Sourced

DONE, FAILED = 0, 1
OUT_OF_MEMORY = (
    "; to save memory, use --set train.accumulation=4, --set train.gradient_checkpointing=true, "
    "a smaller batch_size or a smaller evaluation.batch_tokens"
)
SHARED = ("train", "adapt")  # commands that a launcher may start as several processes
HERE = f" (in process {RANK})" if PROCESSES > 1 else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    program = "run_mtl.py" if argv is not None else _program(sys.argv[0])
    parser = make_parser(Path(program).name)
    if not words:
        parser.error(f"no command given; available: {listed(list(COMMANDS), 40)}")
    if words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        parser.error(f"{words[0]}: the command comes first, then its flags")
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.parser.error(f"{unknown[0]}: unexpected argument")
    if PROCESSES > 1 and arguments.command not in SHARED:
        shared = " and ".join(SHARED)
        arguments.parser.error(f"runs as one process; only {shared} share their work among those of a launcher")
    arguments.command_words = [program, *words]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log file can be followed
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # our own message reports failed downloads once
    try:
        with _terminable():
            return int(COMMANDS[arguments.command](arguments) or DONE)
    except UserError as error:
        _show_traceback(arguments)
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return WRONG_INPUT
    except ElsewhereError:
        return FAILED
    except Interrupted as error:
        if PROCESSES > 1:  # a launcher forwards the signal again: ignore it while shutting down
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if RANK == 0:
            sys.stderr.write(f"{error}\n")
        return 128 + error.signal_number
    except KeyboardInterrupt as error:
        terminated = isinstance(error, _Terminated)
        sys.stderr.write("terminated\n" if terminated else "interrupted\n")
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except NonFiniteError as error:  # raised by every process
        _show_traceback(arguments)
        if RANK == 0:
            sys.stderr.write(f"error: {error}\n")
        return FAILED
    except StorageError as error:
        _show_traceback(arguments)
        sys.stderr.write(f"error: {error}{HERE}\n")
        return _failed_alone()
    except BrokenPipeError:
        return _failed_alone()
    except Exception as error:
        _show_traceback(arguments)
        reason = f"{type(error).__name__}: {first_line(error)}"
        if PROCESSES > 1 and isinstance(error, RuntimeError) and re.search("gloo|nccl|connection", str(error), re.I):
            reason = f"another process of the run, or the network, failed ({reason})"
        if type(error).__name__ == "OutOfMemoryError":  # without importing torch
            reason += OUT_OF_MEMORY
        sys.stderr.write(f"error: {reason}{HERE} (--debug shows where)\n")
        return _failed_alone()


class _Terminated(KeyboardInterrupt):
    """SIGTERM was received; like Ctrl-C, it ends a command in order, so that unfinished files are removed."""


def _terminable() -> contextlib.AbstractContextManager[None]:
    """Raise `_Terminated` at SIGTERM, except in runs of several processes, which their launcher stops."""

    def stop(number: int, frame: Any) -> None:
        raise _Terminated

    return handling(stop, *([signal.SIGTERM] if PROCESSES == 1 else []))


def _failed_alone() -> int:
    """Return the status for an error that may affect this process only; with several processes, exit immediately.

    The others notice that this process is gone. An orderly shutdown could block, because it may wait for them.
    """
    if PROCESSES > 1:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(FAILED)
    return FAILED


def _program(path: str) -> str:
    """The program as the user invokes it: the path of a script, or the name of an installed command."""
    return path if path.endswith(".py") else Path(path).name


def _show_traceback(arguments: argparse.Namespace) -> None:
    if arguments.debug:
        traceback.print_exc()


def _overrides(arguments: argparse.Namespace) -> Sourced:
    """The settings among the arguments."""
    from mtl.config import command_line
    from mtl.wording import FLAGS

    flags = {
        key: (f"--{'no-' if getattr(arguments, name, None) is False else ''}{name.replace('_', '-')}", value)
        for name, key in FLAGS.items()
        if (value := getattr(arguments, name, None)) is not None
    }
    return command_line(flags, getattr(arguments, "set", []))


def _request(arguments: argparse.Namespace) -> Request:
    """The request of `validate` or `prepare`, which have no run directory."""
    from mtl.preflight import Request

    config, names = getattr(arguments, "config", None), arguments.tasks
    return Request(Path(), arguments.task_defs, config, _overrides(arguments), names)


def _run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments that `train` and `adapt` share."""
    from mtl.display import Display

    names = ("task_defs", "output", "config", "resume", "overwrite")
    level: Level = "quiet" if arguments.quiet else "verbose" if arguments.verbose else "normal"
    options = {name: getattr(arguments, name) for name in names}
    return options | {
        "settings": _overrides(arguments),
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
    from mtl.trained_tasks import check_evaluation

    path, names, split, output = arguments.path, arguments.task, arguments.split, arguments.output
    options = {"data_root": arguments.data_root, "weights": arguments.weights}
    trained, data = check_evaluation(path, names, split, output=output, **options)
    from mtl.inference import evaluate

    evaluate(trained, data, split, output=output, **_inference_options(arguments))


def _predict(arguments: argparse.Namespace) -> None:
    from mtl.trained_tasks import check_prediction

    file, output = arguments.input, arguments.output
    trained = check_prediction(arguments.path, arguments.task, file, output, weights=arguments.weights)
    from mtl.inference import predict

    predict(trained, file, output, **_inference_options(arguments))


def _inference_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("precision", "trust_remote_code")}


def _export(arguments: argparse.Namespace) -> None:
    from mtl.trained_tasks import check_export

    options = {name: getattr(arguments, name) for name in ("weights", "overwrite", "push_to_hub")}
    trained, repositories = check_export(arguments.path, arguments.task, arguments.output, **options)
    from mtl.inference import export

    trust = arguments.trust_remote_code
    export(trained, arguments.output, repositories=repositories, trust_remote_code=trust)


def _validate(arguments: argparse.Namespace) -> int:
    from mtl.validate import Findings, validate

    try:
        findings = validate(_request(arguments), dry_run=arguments.dry_run)
    except UserError as error:  # in the command line itself
        if not arguments.json:
            raise
        findings = Findings(error.problems)
    print(json.dumps(findings.as_json()) if arguments.json else findings.as_text())
    return WRONG_INPUT if findings.errors else DONE


def _prepare(arguments: argparse.Namespace) -> None:
    from mtl.validate import prepare_all

    print(prepare_all(_request(arguments)))


def _report(arguments: argparse.Namespace) -> None:
    from mtl.html_report import write_report
    from mtl.report import compare_runs
    from mtl.run_files import RESULTS_FILE, RUN_FILE, read_results, run_needed

    runs = [path for path in arguments.run_dirs if (path / RESULTS_FILE).is_file() or (path / RUN_FILE).is_file()]
    if others := [path for path in arguments.run_dirs if path not in runs]:
        raise UserError([Problem(str(path), run_needed(path, "report")) for path in others])
    results = {str(run_dir): read_results(run_dir) for run_dir in arguments.run_dirs}
    data_root, png = arguments.data_root, arguments.png
    written = write_report(arguments.run_dirs, arguments.output, data_root=data_root, png=png)
    print(compare_runs(results))
    print(f"report: {written}")


def _compare(arguments: argparse.Namespace) -> int:
    chosen = {name: getattr(arguments, name) for name in ("output", "data_root", "arms", "summary")}
    if arguments.dry_run:
        from mtl.study_cost import cost_text

        print(cost_text(arguments.study, **chosen))
        return DONE
    from mtl.compare import compare

    done = compare(arguments.study, **chosen, jobs=arguments.jobs, summary_only=arguments.summary_only)
    return DONE if done else FAILED


def _init(arguments: argparse.Namespace) -> None:
    from mtl.propose import propose

    print(propose(arguments.file, arguments.label, arguments.text), end="")


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


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": _train,
    "adapt": _adapt,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "validate": _validate,
    "prepare": _prepare,
    "report": _report,
    "compare": _compare,
    "tasks": _tasks,
    "init": _init,
    "schema": _schema,
    "completion": _completion,
}
