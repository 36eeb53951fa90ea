"""The log of a run: `metrics.jsonl`, TensorBoard event files and trackers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from mtl.best import Best
from mtl.errors import UserError
from mtl.files import append, storing
from mtl.heat_map import heat_chart
from mtl.pictures import pixels
from mtl.run_record import METRICS_FILE
from mtl.trackers import Scalar, Trackers

BOARD = "tensorboard"
LAST = ".hparams"  # suffix of the event file with a finished run's hyperparameters
# Keys of a step's record → TensorBoard tags.
TAGS = {
    "loss": "loss/{task}",
    "smart": "smart/{task}/r_s",
    "smart_adversarial": "smart/{task}/adversarial_part",
    "smart_dropout": "smart/{task}/dropout_part",
    "smart_gain": "smart/{task}/gain_over_noise",
    "smart_length": "smart/{task}/length_in_radii",
    "smart_boundary": "smart/{task}/share_at_boundary",
    "proximal": "proximal/{task}/d",
    "cost": "cost/{task}",
    "skipped": "skipped/{task}",
}


class Log:
    """Interface of a log. This one discards everything, for all processes except the main one and for tests."""

    def step(self, record: Mapping[str, Any]) -> None: ...

    def evaluation(self, record: Mapping[str, Any]) -> None: ...

    def gradients(self, record: Mapping[str, Any]) -> None: ...

    def finished(self, hyperparameters: Mapping[str, Scalar], best: Mapping[str, Best], step: int) -> None: ...

    def position(self) -> int:
        return 0

    def close(self) -> None: ...


def _date_later(events: Path) -> None:
    """Name the file of hyperparameters as if it were a second younger.

    TensorBoard reads files in the order of their names. In those of one second, a counter follows, in which 10 comes
    before 9: it would take the earlier file for a restarted run, and drop what it had read.
    """
    for path in events.glob(f"*{LAST}"):
        before, seconds, after = re.split(r"(?<=tfevents\.)([0-9]+)", path.name, maxsplit=1)
        path.rename(path.with_name(f"{before}{int(seconds) + 1:010}{after}"))


class RunLog(Log):
    """Appends records to the run's log files; a resumed run discards what was logged after its checkpoint.

    Args:
        folder: The run directory.
        position: Size in bytes of `metrics.jsonl` at the checkpoint from which a run resumes; 0 for a new run.
        step: Steps done at that checkpoint.
        trackers: Receive the same values as TensorBoard; closed together with the log.

    Raises:
        UserError: `metrics.jsonl` is shorter than `position`.
    """

    def __init__(self, folder: Path, position: int = 0, step: int = 0, trackers: Trackers | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS_FILE
        self._trackers, self._events = trackers, folder / BOARD
        with storing(path):
            path.touch()
            if path.stat().st_size < position:
                raise UserError.of(str(path), f"is shorter than at step {step:,}, where the run would continue")
            os.truncate(path, position)
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self._events), purge_step=step + 1)

    def step(self, record: Mapping[str, Any]) -> None:
        """Logs one optimizer step: step, task, terms, learning rate and gradient norm."""
        record = self._write("step", record)
        values = {tag.format(task=record["task"]): record.get(name) for name, tag in TAGS.items()}
        values |= {name: record[name] for name in ("learning_rate", "gradient_norm")}
        self._scalars({tag: value for tag, value in values.items() if value is not None}, record["step"])

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Logs one evaluated split: step, task, split, metrics."""
        self._write("evaluation", record)
        self._scalars(metric_tags("eval", record["task"], record["split"], record["metrics"]), record["step"])

    def gradients(self, record: Mapping[str, Any]) -> None:
        """Logs the gradient cosines: step, tasks, cosine of every pair, norms."""
        self._write("gradients", record)
        tasks, cosines, step = record["tasks"], record["cosines"], record["step"]
        values = {f"cosine/{tasks[i]}/{tasks[j]}": cosines[i][j] for i, j in combinations(range(len(tasks)), 2)}
        values |= {f"probe_norm/{task}": norm for task, norm in zip(tasks, record["norms"], strict=True)}
        self._scalars({tag: value for tag, value in values.items() if value is not None}, step)
        drawn = pixels(heat_chart("cosines", f"Gradient cosines after step {step:,}", tasks, cosines))
        self._board.add_image("cosine", drawn, step, dataformats="HWC")

    def finished(self, hyperparameters: Mapping[str, Scalar], best: Mapping[str, Best], step: int) -> None:
        """Logs hyperparameters and best values of a finished run, for TensorBoard's HPARAMS tab.

        The tab shows the last value of a tag, which need not be the best; hence the tags `best/…` beside `eval/…`. They
        go to a separate event file in the run's TensorBoard directory, so that the run is one session; a resumed run
        rewrites this file. No list of metrics is declared: TensorBoard would take one run's list for all runs, and
        hide the metrics of tasks that this run does not have.

        Args:
            hyperparameters: Settings that affect the result.
            best: Task → its best step.
            step: Steps of the run.
        """
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        values: dict[str, float] = {}
        for task, found in best.items():
            for split, metrics in found.splits.items():
                values |= metric_tags("best", task, split, metrics)
        described = {key: str(value) if isinstance(value, bool) else value for key, value in hyperparameters.items()}
        _, start, end = hparams(described, {})
        with storing(self._events):
            for path in self._events.glob(f"*{LAST}"):
                path.unlink()
            with SummaryWriter(str(self._events), filename_suffix=LAST) as board:
                board.file_writer.add_summary(start, step)
                for tag, value in values.items():
                    board.add_scalar(tag, value, step)
                board.file_writer.add_summary(end, step)
            _date_later(self._events)
        if self._trackers is not None:
            self._trackers.log(values, step)

    def position(self) -> int:
        """Size of `metrics.jsonl` in bytes, after syncing everything logged so far to disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # close each, even if another fails
            if self._trackers is not None:
                closing.callback(self._trackers.finish)
            closing.callback(self._board.close)
            closing.callback(self._file.close)

    def _write(self, event: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Appends a record to `metrics.jsonl`; returns the record as written."""
        stored = _without_nan(record)
        append(self._file, json.dumps({"event": event, **stored}, allow_nan=False) + "\n")
        return stored

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._board.add_scalar(tag, value, step)
        if self._trackers is not None:
            self._trackers.log(values, step)


def metric_tags(root: str, task: str, split: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by tag: `ROOT/TASK/METRIC` for the validation split, `ROOT/TASK/SPLIT/METRIC` for others."""
    prefix = f"{root}/{task}" if split == "validation" else f"{root}/{task}/{split}"
    return {f"{prefix}/{name}": value for name, value in metrics.items() if isinstance(value, float)}


def _without_nan(value: Any) -> Any:
    """The value with NaN and infinities replaced by None, because JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
