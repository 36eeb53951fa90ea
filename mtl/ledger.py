"""The runs in a study's directory: which are finished, how long they took, and which of their files are kept.

DIR/runs/NAME/        a run directory
DIR/runs/NAME.json    its record: fingerprint, seconds, whether it is finished, the message of a failure
DIR/runs/NAME.log     its output
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.display import WARNING
from mtl.errors import UserError
from mtl.files import entries, remove, storing, write_file
from mtl.precedence import leaves
from mtl.run_files import BEST_DIR, CHECKPOINTS_DIR, MODEL_DIR, RUN_FILE, TEACHER_DIR, read_results
from mtl.settings import Settings
from mtl.study import StudyRun

STUDY_FILE = "study.yml"
RUNS = "runs"
HEAVY = {  # directories that are deleted when a run is finished, by `keep`
    "results": (CHECKPOINTS_DIR, MODEL_DIR, TEACHER_DIR, BEST_DIR),
    "best": (CHECKPOINTS_DIR, MODEL_DIR, TEACHER_DIR),
    "model": (CHECKPOINTS_DIR, TEACHER_DIR, BEST_DIR),
    "all": (),
}


class Record(Settings):
    """The record of a run, stored in `NAME.json`.

    Attributes:
        fingerprint: Fingerprint of its node.
        seconds: Wall-clock time so far, summed over interrupted and resumed executions.
        finished: Whether the run is finished.
        message: Error message of the last execution, if it failed.
    """

    fingerprint: str
    seconds: float = 0.0
    finished: bool = False
    message: str | None = None


@dataclass(frozen=True)
class Ledger:
    """The runs in a study's directory."""

    folder: Path

    def begin(self, study_file: Path) -> None:
        """Creates the study's directory, or accepts an existing one, and copies the study file to it.

        Raises:
            UserError: The directory holds something other than a study.
        """
        known = (self.folder / STUDY_FILE).is_file()
        if self.folder.exists() and not known and entries(self.folder):
            raise UserError.of(
                "--output", f"{self.folder} is in use by something that is no study; name another directory"
            )
        write_file(self.folder / STUDY_FILE, study_file.read_text(encoding="utf-8"))

    def run_dir(self, node: StudyRun) -> Path:
        """Directory of a node's run, found by fingerprint, because the label may have changed since it was started."""
        found = sorted((self.folder / RUNS).glob(f"*-{node.fingerprint[:12]}.json"))
        return found[0].with_suffix("") if found else self.folder / RUNS / node.name

    def record(self, node: StudyRun) -> Record | None:
        """The node's record; None if it is missing or damaged."""
        try:
            stored = Record.model_validate_json(_beside(self.run_dir(node), ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stored if stored.fingerprint == node.fingerprint else None

    def results(self, node: StudyRun) -> dict[str, Any] | None:
        """The results of a finished run; None if it is not finished."""
        stored = self.record(node)
        if stored is None or not stored.finished:
            return None
        try:
            results = read_results(self.run_dir(node))
        except UserError:
            return None
        return results if results.get("finished") else None

    def has_model(self, node: StudyRun) -> bool:
        """Whether the run's model still exists, so that an adaptation can start from it."""
        return (self.run_dir(node) / MODEL_DIR).is_dir()

    def to_do(self, node: StudyRun) -> list[StudyRun]:
        """Runs that a cell's result needs: none if it is there, else the cell's and those before without a model."""
        chain = node.chain()
        if self.results(node) is not None:
            return []
        first = len(chain) - 1
        while first > 0 and not (self.has_model(chain[first - 1]) and self.results(chain[first - 1]) is not None):
            first -= 1
        return chain[first:]

    def start(self, node: StudyRun) -> bool:
        """Prepares a run's directory: keeps an unfinished run, removes anything else.

        Returns:
            Whether there is an unfinished run to resume.
        """
        folder, stored = self.run_dir(node), self.record(node)
        resumable = stored is not None and not stored.finished and (folder / RUN_FILE).is_file()
        if not resumable:
            with storing(folder):
                remove(folder)
            self.store(node, Record(fingerprint=node.fingerprint))
        return resumable

    def store(self, node: StudyRun, record: Record) -> None:
        write_file(_beside(self.run_dir(node), ".json"), record.model_dump_json(indent=1))

    def log(self, node: StudyRun) -> Path:
        """The file that receives a run's output."""
        return _beside(self.run_dir(node), ".log")

    def warnings(self, nodes: Iterable[StudyRun]) -> Counter[str]:
        """Warnings in the runs' logs, each with the number of runs that gave it."""
        found: Counter[str] = Counter()
        for node in nodes:
            with suppress(OSError):
                lines = self.log(node).read_text(encoding="utf-8", errors="replace").splitlines()
                found.update({line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)})
        return found

    def drop_weights(self, node: StudyRun, keep: str) -> None:
        """Deletes the directories of a finished run that the study does not keep."""
        for name in HEAVY[keep]:
            shutil.rmtree(self.run_dir(node) / name, ignore_errors=True)

    def strangers(self, nodes: Iterable[StudyRun]) -> list[Path]:
        """Runs that no cell needs, from earlier versions of the study."""
        wanted = {self.run_dir(node) for node in nodes}
        found = (path.with_suffix("") for path in (self.folder / RUNS).glob("*.json"))
        return sorted(path for path in found if path not in wanted)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def run_arguments(node: StudyRun, folder: Path, parent: Path | None, *, resume: bool) -> list[str]:
    """Command-line arguments of a run."""
    overrides = dict(node.overrides.data)
    if parent is None:
        words = ["train", *node.task_defs, "--tasks", ",".join(node.run.tasks), "--encoder", overrides.pop("encoder")]
    else:
        words = ["adapt", str(parent), "--task", next(iter(node.run.tasks))]
        words += [word for file in node.task_defs for word in ("--task-defs", file)]
    words += ["--output", str(folder)]
    words += [f"--set={key}={json.dumps(value, ensure_ascii=False)}" for key, value in leaves(overrides)]
    return [*words, "--resume"] if resume else words


def failure(log: Path, status: int, start: int) -> str:
    """Error message of a failed run: its last errors, or else its last line, in the log from byte `start` on."""
    try:
        text = log.read_bytes()[start:].decode(errors="replace")
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return "; ".join(errors[-3:]) or (lines[-1] if lines else f"ended with status {status}")
