"""Predictions are read back as they were written, and a damaged file is told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl.errors import UserError
from mtl.predictions import read_predictions
from mtl.taskdef import Columns, DataSource, TaskDef

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings and a good record
    "classification": ({"labels": ["yes", "no"]}, {"probabilities": {"no": 0.25, "yes": 0.75}, "label": "yes"}),
    "regression": ({}, {"value": 1.5}),
    "ranking": ({}, {"score": -2.0, "rank": 1}),
}


def task(kind: Any) -> TaskDef:
    return TaskDef(type=kind, data=DataSource(columns=Columns(text_a="a")), **KINDS[kind][0])


def written(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    records = [{"row": row, **KINDS[kind][1]} for row in (0, 1, 7)]
    found = read_predictions(written(tmp_path / "p.jsonl", records), task(kind))
    assert found.rows.tolist() == [0, 1, 7]
    expected = {"classification": [[0.75, 0.25]] * 3, "regression": [1.5] * 3, "ranking": [-2.0] * 3}[kind]
    assert found.outputs.tolist() == expected
    assert found.outputs.dtype == np.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        {"row": 3},
        {"row": 2},
        {"row": -1},
        {"row": True},
        {"row": 1 << 62},
        {"row": "4"},
        {"probabilities": {"yes": 1.0}, "value": None, "score": "1"},
        {"probabilities": {"yes": 1.0, "no": "0"}, "value": True, "score": []},
        {"probabilities": [0.5, 0.5], "value": {}, "score": float("nan")},
        {"probabilities": {"yes": float("inf"), "no": 0}, "value": 1e308, "score": 10**400},
        {"probabilities": None, "value": "<b>", "score": float("-inf")},
    ],
)
def test_damage_is_told_with_its_line(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    good = KINDS[kind][1]
    path = written(tmp_path / "p.jsonl", [{"row": 3, **good}, {"row": 4, **good, **change}])
    with pytest.raises(UserError, match=r"p\.jsonl:2: is no prediction"):
        read_predictions(path, task(kind))


@pytest.mark.parametrize("content", ["", "\n\n", "not json\n", "[1]\n", "\x80", "[" * 50_000])
def test_what_is_no_list_of_records(content: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"p\.jsonl"):
        read_predictions(tmp_path / "p.jsonl", task("regression"))
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path / "other.jsonl", task("regression"))
