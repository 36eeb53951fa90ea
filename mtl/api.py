"""The toolkit from Python: `import mtl`, then `mtl.train`, `mtl.adapt` and `mtl.load`.

The command line's `train` and `adapt` are thin layers on this. Nothing is printed unless it is asked for, and what is
wrong with a request is one `UserError` with all its problems.
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
from mtl.preflight import Checked, Request, check_adapt, check_train
from mtl.settings import Sourced
from mtl.use import Model, load, names_of
from mtl.wording import Folder, in_python, words_of

Definitions: TypeAlias = "TaskDefs | Sequence[TaskDefs]"


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        path: Its directory.
        results: What its `results.json` holds.
        warnings: What a user should look at, such as training rows that stand in evaluation rows.
    """

    path: Path
    results: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def load(self, weights: str = "best", *, trust_remote_code: bool = False) -> Model:
        """The run's models; see `load`."""
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
        task_defs: Task definitions: a YAML file, a mapping of the same shape (task name to definition; file paths in it
            are relative to the working directory), or several of these. A run that is resumed has its own.
        output: Directory of the run.
        encoder: Hub id, directory, or `pkg:PACKAGE/SUBDIR`.
        tasks: Tasks to take, in order; all by default.
        data_root: Local mirror of the hub.
        config: Run configuration file, such as another run's `run.yml`.
        settings: Any key of the configuration, dotted or nested, such as
            `{"train.max_steps": 100, "tasks.rte.smart.weight": 3}`.
        resume: Whether to continue the run in `output`.
        overwrite: Whether to replace it.
        trust_remote_code: Whether the encoder may run code of its own.
        baselines: Whether to train each task alone afterwards, for the steps it got, and compare.
        verbose: Whether to print what the command line prints; by default nothing is.
        display: What shows the run instead.
        command: The command line that asked, if one did: it is recorded, and messages are in its words.

    Returns:
        The finished run.

    Raises:
        UserError: The request is wrong; nothing was started.
        Interrupted: A signal came; what was trained is in the newest checkpoint.
        NonFiniteError: A loss or gradient became NaN or infinite, and may not be skipped.
        StorageError: Something could not be written.
    """
    with words_of(command):
        typed = _typed(settings, encoder=encoder, data_root=data_root, trust_remote_code=trust_remote_code or None)
        request = _request(task_defs, output, typed, config, resume=resume, overwrite=overwrite, tasks=names_of(tasks))
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
        run_dir: A run that `train` finished.
        task: The task's name.
        output: Directory of the new run.
        task_defs: Definitions of new tasks; see `train`.
        head: `reuse` (by default, where the run has a head of the task), `fresh`, or the name of another task of the
            run with the same type and number of outputs, whose head it starts from.
        data_root: Local mirror of the hub; by default the run's.
        config: Run configuration file.
        settings: Any key of the configuration; see `train`.
        resume: Whether to continue the run in `output`.
        overwrite: Whether to replace it.
        trust_remote_code: Whether the encoder may run code of its own.
        verbose: Whether to print what the command line prints.
        display: What shows the run instead.
        command: The command line that asked, if one did.

    Returns:
        The finished run.

    Raises:
        UserError: The request is wrong; nothing was started. Others are those of `train`.
    """
    with words_of(command):
        typed = _typed(settings, head=head, data_root=data_root, trust_remote_code=trust_remote_code or None)
        request = _request(task_defs, output, typed, config, resume=resume, overwrite=overwrite, run_dir=Path(run_dir))
        return _run(lambda: check_adapt(request, task), request, display or _display(verbose), command)


def _typed(settings: Mapping[str, Any] | Sourced | None, **named: Any) -> Sourced:
    """Settings, with what has an argument of its own over them."""
    base = settings if isinstance(settings, Sourced) else from_mapping({} if settings is None else settings)
    own = {key: value if value is True else os.fspath(value) for key, value in named.items() if value is not None}
    return Sourced(own, {(key,): key for key in own}).over(base)


def _request(task_defs: Definitions, output: Folder, typed: Sourced, config: Folder | None, **more: Any) -> Request:
    named = [task_defs] if isinstance(task_defs, (str, os.PathLike, Mapping)) else list(task_defs)
    return Request(Path(output), named, None if config is None else os.fspath(config), typed, **more)


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
    """What a check gives, in all processes or in none; nothing heavy is imported for a single one."""
    if PROCESSES == 1:
        return check()
    from mtl.processes import Processes

    return Processes.current().together(check)


def _display(verbose: bool) -> Display:
    return Display("normal" if verbose else "silent", words=in_python)
