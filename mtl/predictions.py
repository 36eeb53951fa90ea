"""Reading predictions back: what a model said of every row, without the model.

Needs neither torch nor transformers. Legend: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtl.errors import UserError
from mtl.source import Source, read_rows
from mtl.taskdef import TaskDef

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Predictions:
    """What `predictions/T.SPLIT.jsonl` holds.

    Attributes:
        rows: Position of each row in its source, ascending, (N,).
        outputs: Probabilities (N, C), values or scores (N,): what `metrics.compute` takes.
    """

    rows: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.floating]


def predictions_file(run_dir: Path, task: str, split: str) -> Path:
    """Where a run keeps what a task's best step said of a split."""
    return run_dir / "predictions" / f"{task}.{split}.jsonl"


def read_predictions(path: Path, task: TaskDef) -> Predictions:
    """Reads a file of predictions, each record checked.

    Raises:
        UserError: There is none, or it is damaged or of another task.
    """
    if not path.is_file():
        raise UserError.of(str(path), "there is no such file")
    rows: list[int] = []
    outputs: list[Any] = []
    key = {"classification": "probabilities", "regression": "value", "ranking": "score"}[task.type]
    for place, record in read_rows(Source(path=path)):
        row, output = record.get("row"), record.get(key)
        if task.type == "classification":
            output = _in_order(output, task.labels)
            good = output is not None
        else:
            good = _is_number(output)
        if not isinstance(row, int) or isinstance(row, bool) or not (rows[-1] if rows else -1) < row < 1 << 62:
            raise UserError.of(place, "is no prediction: 'row' has to be a whole number, greater than the one before")
        if not good:
            raise UserError.of(place, f"is no prediction of this task: {key!r} is missing or of another kind")
        rows.append(row)
        outputs.append(output)
    if not rows:
        raise UserError.of(str(path), "holds no predictions")
    # Values and scores were written from float32: by its rounding a metric tells noise from differences.
    kind = np.float64 if task.type == "classification" else np.float32
    return Predictions(np.array(rows, dtype=np.int64), np.array(outputs, dtype=kind))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST  # NaN is not


def _in_order(shares: Any, labels: list[str]) -> list[float] | None:
    """Probabilities in the order of the labels, if there is one for each."""
    if not isinstance(shares, Mapping) or shares.keys() != set(labels):
        return None
    ordered = [shares[label] for label in labels]
    return ordered if all(map(_is_number, ordered)) else None
