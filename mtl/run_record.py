"""Reading of run directories that need not be trusted: nothing is executed, everything is checked.

A missing file leads to a note, as a run may be unfinished or may have been moved in parts; a damaged file is an error
that names it. Needs neither torch nor transformers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from mtl.config import Run
from mtl.errors import Problem, UserError
from mtl.file_formats import MAX_LINE
from mtl.files import LOCK_FILE
from mtl.origin import Origin
from mtl.run_files import (
    BEST_DIR,
    CHECKPOINTS_DIR,
    MODEL_DIR,
    PROVENANCE_FILE,
    RUN_FILE,
    TASK_FILE,
    TASKS_FILE,
    TEACHER_DIR,
    read_results,
    read_run,
)

METRICS_FILE = "metrics.jsonl"
LARGEST = 1e100  # larger numbers count as damage; they would overflow the charts
MAX_STEP = 1 << 40

Points = list[tuple[float, float]]

RUN_FOLDERS = (BEST_DIR, MODEL_DIR, TEACHER_DIR, CHECKPOINTS_DIR, "tensorboard")
RUN_NAMES = (
    *(RUN_FILE, TASKS_FILE, PROVENANCE_FILE, METRICS_FILE, LOCK_FILE, "results.json"),
    *("predictions", "predictions/*.*.jsonl", *RUN_FOLDERS, *(f"{folder}/*" for folder in RUN_FOLDERS)),
)
EXPORT_NAMES = (
    *(TASK_FILE, "README.md", "config.json", "model*.safetensors*", "tokenizer*.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "vocab.*", "merges.txt", "*.model", "*.py"),
)
# Kind of directory, the files that identify it, and patterns of the names that we or Transformers write there.
OWN_NAMES = (("a run", (PROVENANCE_FILE,), RUN_NAMES), ("an export", (TASK_FILE, "config.json"), EXPORT_NAMES))


class Provenance(BaseModel):
    """The fields of `provenance.json` that are read."""

    command: list[str] | None = None  # None for a run from Python
    seed: int | None = None
    python: str | None = None
    platform: str | None = None
    device: str | None = None
    processes: int | None = None
    versions: dict[str, str | None] = {}
    git_revision: str | None = None
    origin: Origin | None = None
    data: dict[str, str] = {}
    contents: dict[str, str] = {}
    sources: dict[str, str] = {}
    leaks: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(frozen=True)
class Gradients:
    """Gradients of the tasks after a step: cosines of each pair and norms, None where undefined; see `probe`."""

    step: int
    tasks: list[str]
    cosines: list[list[float | None]]
    norms: list[float | None]


@dataclass
class Log:
    """Contents of `metrics.jsonl`.

    Attributes:
        steps: Task to the steps done on it, ascending; a step with several of its batches is listed as often.
        terms: Task to term (loss, smart, …) to its (step, value).
        metrics: Task to split to metric to its (step, value).
        skipped: Task to the number of its skipped steps.
        gradients: Measurements of the tasks' gradients, ascending, all of the same tasks.
    """

    steps: dict[str, list[int]] = field(default_factory=dict)
    terms: dict[str, dict[str, Points]] = field(default_factory=dict)
    metrics: dict[str, dict[str, dict[str, Points]]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    gradients: list[Gradients] = field(default_factory=list)


@dataclass
class RunRecord:
    """A run, as its directory describes it.

    Attributes:
        path: The directory.
        results: `results.json`, checked by `run_files.read_results`.
        run: Configuration and tasks, None if their files are missing.
        provenance: Where the run comes from, empty if its file is missing.
        log: Steps and evaluations, empty if the file is missing.
        notes: What is missing, as text.
    """

    path: Path
    results: dict[str, Any]
    run: Run | None
    provenance: Provenance
    log: Log
    notes: list[str]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have results, in the order of the run."""
        return list(self.results["tasks"])

    @property
    def selection_split(self) -> str:
        """The split that selects each task's best step; without a configuration, the first one in the results."""
        if self.run is not None:
            return self.run.selection_split
        return next((split for splits in self.results["tasks"].values() for split in splits), "validation")


def read_record(run_dir: Path) -> RunRecord:
    """Read a run directory.

    Raises:
        UserError: It is not a run, or one of its files is damaged.
    """
    results, notes = read_results(run_dir), []
    run = None
    if (run_dir / RUN_FILE).is_file() and (run_dir / TASKS_FILE).is_file():
        run = read_run(run_dir)
    else:
        notes.append(f"{RUN_FILE} or {TASKS_FILE} is missing: tasks and data of this run are unknown")
    provenance = read_provenance(run_dir)
    if provenance is None:
        notes.append(f"{PROVENANCE_FILE} is missing: where this run comes from is unknown")
    log = Log()
    if (run_dir / METRICS_FILE).is_file():
        log = read_log(run_dir / METRICS_FILE)
    else:
        notes.append(f"{METRICS_FILE} is missing: there are no learning curves to draw")
    if not results["tasks"]:
        notes.append("nothing was evaluated yet")
    return RunRecord(run_dir, results, run, provenance or Provenance(), log, notes)


def output_problems(output: Path, inputs: Iterable[Path] = ()) -> list[Problem]:
    """Problems, if any, that an output would overwrite one of its inputs, or a part of a run or an export."""
    if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        return [Problem("--output", f"{output} is one of the inputs; name another file")]
    owner = _owner(output.resolve()) or _owner(output.parent.resolve() / output.name)  # a link's target, and the link
    return [Problem("--output", f"{output} is a part of {owner}; name another")] if owner else []


def file_problems(output: Path, inputs: Iterable[Path] = ()) -> list[Problem]:
    """Problems of `output_problems`, or that an output file is a directory, standard output or another device."""
    if output.is_dir():
        return [Problem("--output", f"{output} is a directory; name a file")]
    device = str(output) == "-" or str(output.absolute().parent) in ("/dev", "/dev/fd")
    if device or (output.exists() and not output.is_file()):
        return [Problem("--output", f"{output} is no regular file; name another")]
    return output_problems(output, inputs)


def _owner(path: Path) -> str | None:
    """The run or export that a path is a part of, if its name is one that is used there."""
    for folder in path.parents:
        for kind, marks, names in OWN_NAMES:
            if all((folder / mark).is_file() for mark in marks):
                own = any(fnmatch(path.relative_to(folder).as_posix(), name) for name in names)
                return f"{kind}, {folder}" if own else None
    return None


def read_provenance(run_dir: Path) -> Provenance | None:
    """Read a run's `provenance.json`, if there is one.

    Raises:
        UserError: It is damaged.
    """
    path = run_dir / PROVENANCE_FILE
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Provenance).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError.of(str(path), f"is damaged: {where or 'it'} has the wrong type ({first['msg']})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError.of(str(path), f"cannot be read: {error}") from None


def read_log(path: Path) -> Log:
    """Read a run's log. An incomplete last line, as a killed run leaves it, is ignored.

    Raises:
        UserError: A line is damaged.
    """
    log = Log()
    try:
        with path.open(encoding="utf-8") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if not line.endswith("\n"):
                    if len(line) == MAX_LINE:
                        raise UserError.of(f"{path}:{number}", f"is longer than {MAX_LINE:,} characters")
                    break
                try:
                    _add(log, json.loads(line))
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise UserError.of(f"{path}:{number}", "is not a record of a run's log: it is damaged") from None
    except (OSError, UnicodeError) as error:
        raise UserError.of(str(path), f"cannot be read: {error}") from None
    return log


def _add(log: Log, record: Mapping[str, Any]) -> None:
    """Add a record to the log.

    Raises:
        ValueError, KeyError, TypeError: The record is invalid.
    """
    event, step = record["event"], record["step"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 < step < MAX_STEP:
        raise ValueError
    if event == "gradients":
        log.gradients.append(_gradients(record, log.gradients))
        return
    task = record["task"]
    if not isinstance(task, str):
        raise ValueError
    if event == "step":
        steps = log.steps.setdefault(task, [])
        if steps and steps[-1] > step:  # equal if a step holds several batches of the task
            raise ValueError
        steps.append(step)
        log.skipped[task] = log.skipped.get(task, 0) + ("skipped" in record)
        for key, value in record.items():
            if key not in ("event", "step", "task") and value is not None:
                log.terms.setdefault(task, {}).setdefault(key, []).append((step, _number(value)))
    elif event == "evaluation":
        if not isinstance(record["split"], str):
            raise ValueError
        split = log.metrics.setdefault(task, {}).setdefault(record["split"], {})
        for key, value in dict(record["metrics"]).items():
            split.setdefault(key, []).append((step, _number(value)))
    else:
        raise ValueError


def _gradients(record: Mapping[str, Any], before: Sequence[Gradients]) -> Gradients:
    """Check a measurement, which has to be of the same tasks as those before and of a later step.

    Raises:
        ValueError, KeyError, TypeError: The record is invalid.
    """
    tasks = list(record["tasks"])
    cosines = [[None if value is None else _number(value) for value in row] for row in record["cosines"]]
    norms = [None if value is None else _number(value) for value in record["norms"]]
    sizes = {len(tasks), len(cosines), len(norms), *map(len, cosines)}
    flat = [value for row in cosines for value in row if value is not None]
    if len(sizes) != 1 or not tasks or not all(isinstance(task, str) for task in tasks):
        raise ValueError
    if not all(-1 <= value <= 1 for value in flat) or any(n is not None and not n >= 0 for n in norms):
        raise ValueError
    if before and (before[-1].tasks != tasks or before[-1].step >= record["step"]):
        raise ValueError
    return Gradients(record["step"], tasks, cosines, norms)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or (abs(value) >= LARGEST):
        raise ValueError
    return float(value) if math.isfinite(value) else math.nan
