"""Read stored predictions.

Imports neither torch nor transformers. Legend: N rows, C classes.
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
    """Content of `predictions/T.SPLIT.jsonl`.

    Attributes:
        rows: Position of each row in its source, ascending, (N,).
        outputs: Probabilities (N, C), or values or scores (N,), as `metrics.compute` takes them.
    """

    rows: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.floating]


def predictions_file(run_dir: Path, task: str, split: str) -> Path:
    """Path at which a run stores the predictions of a task's best step on a split."""
    return run_dir / "predictions" / f"{task}.{split}.jsonl"


def read_predictions(path: Path, task: TaskDef) -> Predictions:
    """Read a file of predictions and validate each record.

    Raises:
        UserError: The file is missing or damaged, or belongs to another task.
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
            raise UserError.of(place, "is not a prediction: 'row' must be a whole number greater than the previous one")
        if not good:
            raise UserError.of(place, f"is not a prediction for this task: {key!r} is missing or has the wrong type")
        rows.append(row)
        outputs.append(output)
    if not rows:
        raise UserError.of(str(path), "holds no predictions")
    # Values and scores were written from float32; `metrics.as_values` needs the dtype to recognise its rounding.
    kind = np.float64 if task.type == "classification" else np.float32
    return Predictions(np.array(rows, dtype=np.int64), np.array(outputs, dtype=kind))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST  # False for NaN


def _in_order(shares: Any, labels: list[str]) -> list[float] | None:
    """Probabilities in the order of the labels; None unless there is one for each label and no other."""
    if not isinstance(shares, Mapping) or shares.keys() != set(labels):
        return None
    ordered = [shares[label] for label in labels]
    return ordered if all(map(_is_number, ordered)) else None
