"""What a run writes down while it goes: `metrics.jsonl` and TensorBoard event files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mtl.errors import UserError
from mtl.files import append, storing

METRICS_FILE = "metrics.jsonl"
# How a step's terms are laid out in TensorBoard.
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


class Writer(Protocol):
    """What the trainer needs of a log; tests hand in a list-like one."""

    def step(self, record: Mapping[str, Any]) -> None: ...

    def evaluation(self, record: Mapping[str, Any]) -> None: ...

    def position(self) -> int: ...

    def close(self) -> None: ...


class Silence:
    """The log of a process that writes none."""

    def step(self, record: Mapping[str, Any]) -> None: ...

    def evaluation(self, record: Mapping[str, Any]) -> None: ...

    def position(self) -> int:
        return 0

    def close(self) -> None: ...


class RunLog:
    """Appends records to the run's log files; a resumed run drops what was logged after its checkpoint.

    Args:
        folder: The run directory.
        position: Size in bytes of `metrics.jsonl` where a resumed run continues; 0 for a new run.
        step: Steps done then.

    Raises:
        UserError: The log is shorter than that.
    """

    def __init__(self, folder: Path, position: int = 0, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS_FILE
        with storing(path):
            path.touch()
            if path.stat().st_size < position:
                raise UserError.of(str(path), f"is shorter than at step {step:,}, where the run would continue")
            os.truncate(path, position)
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def step(self, record: Mapping[str, Any]) -> None:
        """Logs one optimizer step: step, task, terms, learning rate and gradient norm."""
        record = {key: value if _is_finite(value) else None for key, value in record.items()}  # JSON has no NaN
        self._write({"event": "step", **record})
        for name, tag in TAGS.items():
            if record.get(name) is not None:
                self._board.add_scalar(tag.format(task=record["task"]), record[name], record["step"])
        self._board.add_scalar("learning_rate", record["learning_rate"], record["step"])
        if record["gradient_norm"] is not None:
            self._board.add_scalar("gradient_norm", record["gradient_norm"], record["step"])

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Logs one evaluated split: step, task, split, metrics."""
        self._write({"event": "evaluation", **record})
        prefix = f"eval/{record['task']}" + ("" if record["split"] == "validation" else f"/{record['split']}")
        for name, value in record["metrics"].items():
            if isinstance(value, float):
                self._board.add_scalar(f"{prefix}/{name}", value, record["step"])

    def position(self) -> int:
        """Size of `metrics.jsonl` in bytes, everything logged so far included and on the disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        append(self._file, json.dumps(record) + "\n")


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
