"""The files of a run directory by which other commands know it, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from mtl.config import Run, RunConfig, read_run_config, resolve
from mtl.definitions import read_task_defs
from mtl.errors import Problem, UserError, listed, nearest
from mtl.settings import Sourced, check
from mtl.taskdef import TaskDef

RUN_FILE = "run.yml"
TASKS_FILE = "task_defs.yml"
TASK_FILE = "task.yml"
PROVENANCE_FILE = "provenance.json"
RESULTS_FILE = "results.json"
MODEL_DIR, TEACHER_DIR = "model", "teacher"  # shared encoder and heads after the last step
BEST_DIR = "best"  # a model for each task, of its best step
CHECKPOINTS_DIR = "checkpoints"
# Sections that are already merged into the task definitions of a resolved run.
FOLDED: dict[str, Any] = {"defaults": {}, "tasks": {}}


def run_needed(path: Path, command: str, instead: str = "") -> str:
    """Explain to a command that needs a run why a path is none, and suggest one nearby.

    Args:
        path: The path that was given.
        command: Name of the command, such as `report`.
        instead: How the message goes on for an export.
    """
    within = [parent for parent in list(path.parents)[:2] if (parent / RUN_FILE).is_file()]
    if within and path.is_dir():
        return f"is part of a run; name the run itself, {within[0]}"
    if (path / TASK_FILE).is_file():
        return f"is an export; {command} needs a run{instead}"
    if any(path.glob(f"[!.]*/{TASK_FILE}")) and not any(path.glob(f"[!.]*/{RUN_FILE}")):
        return f"holds exports; {command} needs a run{instead}"
    return no_run(path)


def no_run(path: Path) -> str:
    """Explain why a path is neither a run nor an export, and suggest one nearby."""
    if not path.is_dir():
        siblings = (str(p) for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else ()
        return f"there is no such directory{nearest(path, siblings, cutoff=0.8)}"
    places = (f"{folders}/{name}" for folders in ("[!.]*", "runs/*") for name in (RUN_FILE, TASK_FILE))  # of a study
    inside = sorted(str(p.parent) for place in places for p in path.glob(place))
    hint = f"; it holds {listed(inside, 4)}: name one of them" if inside else ""
    return f"is neither a run (no {RUN_FILE}) nor an export (no {TASK_FILE}){hint}"


def read_config(path: str | None) -> tuple[Sourced, list[Problem]]:
    """Read the settings of a run configuration (none without a path), and all problems with the file."""
    if path is None:
        return Sourced(), []
    try:
        return read_run_config(path)
    except UserError as error:
        return Sourced(), error.problems


def read_run(run_dir: Path) -> Run:
    """Read the resolved configuration and tasks of a run directory.

    Raises:
        UserError: They are missing or damaged.
    """
    file, problems = read_config(str(run_dir / RUN_FILE))
    if not file.data:
        raise UserError(problems)
    definitions, found = read_task_defs([run_dir / TASKS_FILE])
    # The overrides of `adapt` are already merged into the tasks of a resolved run.
    config, wrong = check(RunConfig, file)
    _, tasks, more = resolve(definitions, Sourced({"encoder": "resolved"}), Sourced())
    problems += found + wrong + more
    if problems or config is None:
        raise UserError(problems)
    return Run(config.model_copy(update={"task_defs": [TASKS_FILE], **FOLDED}), tasks)


def read_task(path: Path) -> dict[str, TaskDef]:
    """Read the resolved definition in an export's `task.yml`."""
    definitions, problems = read_task_defs([path])
    _, tasks, found = resolve(definitions, Sourced({"encoder": "resolved"}), Sourced())
    if problems + found:
        raise UserError(problems + found)
    return tasks


def earlier_runs(encoder: str) -> Iterator[Run]:
    """The runs that trained an encoder, the last one first, as far back as they can be read."""
    seen = set[Path]()
    while (folder := _run_with(Path(encoder))) is not None and folder not in seen:
        seen.add(folder)
        try:
            run = read_run(folder)
        except UserError:
            return
        yield run
        encoder = run.config.encoder


def _run_with(model: Path) -> Path | None:
    """The run that a model's directory lies in, if any: as its model, its teacher or a task's best step."""
    folders = [model.parent] if model.name in (MODEL_DIR, TEACHER_DIR) else []
    folders += [model.parent.parent] if model.parent.name == BEST_DIR else []
    return next((folder for folder in folders if model.is_absolute() and (folder / RUN_FILE).is_file()), None)


def read_results(run_dir: Path) -> dict[str, Any]:
    """Read a run's `results.json`.

    Raises:
        UserError: It is missing or damaged.
    """
    path = run_dir / RESULTS_FILE
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = "holds no results.json: it is not a run, or was never evaluated"
        raise UserError.of(str(run_dir), what if run_dir.is_dir() else "there is no such directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError.of(str(path), f"cannot be read: {error}") from None
    try:
        _Results.model_validate(results)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError.of(
            str(path), f"is not a run's results: {where or 'it'} is missing or has the wrong type"
        ) from None
    return results


_BySplit = dict[str, dict[str, dict[str, float | None]]]
_Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]


class TaskPlan(BaseModel, strict=True, frozen=True):
    """What a run does on one task; a row of the printed plan.

    Attributes:
        task: Name of the task.
        type: Its type.
        rows: Training rows.
        batch: Rows per batch, or None if batches are limited by tokens.
        batch_tokens: Tokens per batch, padding included, or None.
        steps: Batches in the run.
        passes: Passes over the rows.
        tokens: Tokens in all these passes.
    """

    task: str
    type: str
    rows: int
    batch: int | None
    batch_tokens: int | None
    steps: int
    passes: float
    tokens: int


class _Gain(BaseModel, strict=True):
    difference: float
    interval: _Bounds | None


class _Results(BaseModel, strict=True):
    """The fields of `results.json` that readers rely on."""

    tasks: _BySplit
    intervals: dict[str, dict[str, dict[str, _Bounds]]] = {}
    best_steps: dict[str, int] = {}
    task_steps: dict[str, int] = {}
    single: _BySplit = {}
    over_single: dict[str, dict[str, dict[str, _Gain]]] = {}
    last: _BySplit = {}
    baselines: _BySplit = {}
    data: dict[str, dict[str, dict[str, int]]] = {}
    plan: list[TaskPlan] = []
    steps: int
    planned_steps: int
    skipped_steps: int = 0
    nonfinite_steps: int = 0
    finished: bool
