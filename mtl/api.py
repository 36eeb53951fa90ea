"""The toolkit from Python: `import mtl`, then `mtl.train`, `mtl.adapt` and `mtl.load`.

The commands `train` and `adapt` are thin wrappers around these functions. Nothing is printed unless `verbose` is set.
Invalid input raises one `UserError` that lists all problems.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mtl.config import from_mapping
from mtl.definitions import TaskDefs
from mtl.display import Display
from mtl.launch import PROCESSES
from mtl.predictor import Model, load, names_of
from mtl.preflight import Checked, Request, check_adapt, check_train
from mtl.settings import Sourced
from mtl.wording import Folder, in_python, words_of

Definitions: TypeAlias = "TaskDefs | Sequence[TaskDefs]"


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        path: The run directory.
        results: The contents of `results.json`.
        warnings: Warnings about the run, such as training rows that are also evaluation rows.
    """

    path: Path
    results: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def load(self, weights: str = "best", *, trust_remote_code: bool = False) -> Model:
        """Loads the run's models; see `load`."""
        return load(self.path, weights, trust_remote_code=trust_remote_code)


def train(
    task_defs: Definitions = (),
    *,
    output: Folder,
    encoder: str | None = None,
    tasks: Sequence[str] | None = None,
    data_root: Folder | None = None,
    config: Folder | None = None,
    settings: Mapping[str, Any] | Sourced | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    baselines: bool = False,
    verbose: bool = False,
    display: Display | None = None,
    command: Sequence[str] | None = None,
) -> Trained:
    """Trains one shared encoder on several tasks.

    Args:
        task_defs: Task definitions: a YAML file, a mapping of the same shape (task name → definition; file paths in it
            are relative to the working directory), or several of these. Not needed with `resume`.
        output: Directory of the run.
        encoder: Hub id, directory, or `pkg:PACKAGE/SUBDIR`.
        tasks: Tasks to train, in this order; all by default.
        data_root: Local mirror of the hub.
        config: Run configuration file, such as another run's `run.yml`.
        settings: Any key of the configuration, dotted or nested, such as
            `{"train.max_steps": 100, "tasks.rte.smart.weight": 3}`.
        resume: Whether to continue the run in `output`.
        overwrite: Whether to replace the run in `output`.
        trust_remote_code: Whether the encoder may run its own code.
        baselines: Whether to train each task alone afterwards, for its number of steps in the run, and compare.
        verbose: Whether to print what the command line prints; by default nothing is printed.
        display: Shows the run instead of the default display.
        command: The command line, if called from one: it is recorded, and messages then refer to its flags.

    Returns:
        The finished run.

    Raises:
        UserError: Invalid input; training did not start.
        Interrupted: A signal was received; the training state is in the newest checkpoint.
        NonFiniteError: A loss or gradient became NaN or infinite, and could not be skipped.
        StorageError: A file could not be written.
    """
    with words_of(command):
        overrides = _overrides(
            settings, encoder=encoder, data_root=data_root, trust_remote_code=trust_remote_code or None
        )
        request = _request(
            task_defs, output, overrides, config, resume=resume, overwrite=overwrite, tasks=names_of(tasks)
        )
        shown = display or _display(verbose)
        return _run(lambda: check_train(request), request, shown, command, baselines=baselines)


def adapt(
    run_dir: Folder,
    *,
    task: str,
    output: Folder,
    task_defs: Definitions = (),
    head: str | None = None,
    data_root: Folder | None = None,
    config: Folder | None = None,
    settings: Mapping[str, Any] | Sourced | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    verbose: bool = False,
    display: Display | None = None,
    command: Sequence[str] | None = None,
) -> Trained:
    """Fine-tunes a trained run on one task, known or new.

    Args:
        run_dir: A finished run of `train`.
        task: Name of the task.
        output: Directory of the new run.
        task_defs: Definitions of new tasks; see `train`.
        head: `reuse` (the default if the run has a head for the task), `fresh`, or the name of another task of the run
            with the same type and number of outputs, whose head is used as initialization.
        data_root: Local mirror of the hub; by default the run's.
        config: Run configuration file.
        settings: Any key of the configuration; see `train`.
        resume: Whether to continue the run in `output`.
        overwrite: Whether to replace the run in `output`.
        trust_remote_code: Whether the encoder may run its own code.
        verbose: Whether to print what the command line prints.
        display: Shows the run instead of the default display.
        command: The command line, if called from one; see `train`.

    Returns:
        The finished run.

    Raises:
        UserError: Invalid input; training did not start. Other errors are as for `train`.
    """
    with words_of(command):
        overrides = _overrides(settings, head=head, data_root=data_root, trust_remote_code=trust_remote_code or None)
        request = _request(
            task_defs, output, overrides, config, resume=resume, overwrite=overwrite, run_dir=Path(run_dir)
        )
        return _run(lambda: check_adapt(request, task), request, display or _display(verbose), command)


def _overrides(settings: Mapping[str, Any] | Sourced | None, **named: Any) -> Sourced:
    """Settings, overridden by those that have their own argument."""
    base = settings if isinstance(settings, Sourced) else from_mapping({} if settings is None else settings)
    named = {key: os.fspath(v) if isinstance(v, os.PathLike) else v for key, v in named.items()}
    own = {key: value for key, value in named.items() if value is not None}
    return Sourced(own, {(key,): key for key in own}).over(base)


def _request(task_defs: Definitions, output: Folder, overrides: Sourced, config: Folder | None, **more: Any) -> Request:
    named = [task_defs] if isinstance(task_defs, (str, os.PathLike, Mapping)) else list(task_defs)
    return Request(Path(output), named, None if config is None else os.fspath(config), overrides, **more)


def _run(
    check: Callable[[], Checked],
    request: Request,
    display: Display,
    command: Sequence[str] | None,
    *,
    baselines: bool = False,
) -> Trained:
    checked = _checked(check)
    from mtl.baselines import require_several, train_baselines
    from mtl.phases import run_phase

    if baselines:
        require_several(checked)
    flags = {"resume": request.resume, "overwrite": request.overwrite}
    results = run_phase(checked, request.output, **flags, command=command, display=display)
    if baselines:
        results = train_baselines(checked, request.output, results, command=command, display=display)
    return Trained(request.output, results, tuple(display.warnings))


def _checked(check: Callable[[], Checked]) -> Checked:
    """Result of a check, which fails in all processes or in none; a single process avoids the heavy imports.

    One process of each machine reads the data; the others find in the cache what it found.
    """
    if PROCESSES == 1:
        return check()
    from mtl.processes import Processes

    return Processes.current().main_first(check)


def _display(verbose: bool) -> Display:
    return Display("normal" if verbose else "silent", words=in_python)
