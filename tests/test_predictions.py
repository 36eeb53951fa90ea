"""Predictions are read back as they were written, ties rank as the metrics count, and a damaged file is told."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl.error_analysis import LabelledPredictions, first_ranks, hardest
from mtl.errors import UserError
from mtl.evaluate import prediction_records
from mtl.metrics import METRICS, compute
from mtl.predictions import Predictions, read_predictions
from mtl.source import Source
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
    assert found.outputs.dtype == (np.float64 if kind == "classification" else np.float32)


def test_outputs_that_rounding_tells_apart_stay_so(tmp_path: Path) -> None:
    outputs = np.array([2.5, 2.5000002, 2.5, 2.4999998], dtype=np.float32)
    records = [{"row": row, "value": value} for row, value in enumerate(outputs.tolist())]
    found = read_predictions(written(tmp_path / "p.jsonl", records), task("regression"))
    values = partial(compute, ["pearson"], "regression", labels=np.array([1.0, 2.0, 1.0, 0.5]))
    assert values(found.outputs) == values(outputs) == {"pearson": 0.0}


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
    with pytest.raises(UserError, match=r"p\.jsonl:2: is not a prediction"):
        read_predictions(path, task(kind))


@pytest.mark.parametrize("content", ["", "\n\n", "not json\n", "[1]\n", "\x80", "[" * 50_000])
def test_what_is_no_list_of_records(content: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"p\.jsonl"):
        read_predictions(tmp_path / "p.jsonl", task("regression"))
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path / "other.jsonl", task("regression"))


def ranking_examples(relevance: list[int], groups: list[int]) -> Any:
    labels, numbers, rows = np.array(relevance, dtype=np.float64), np.array(groups), np.arange(len(groups))
    return SimpleNamespace(labels=labels, groups=numbers, rows=rows)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=20))
def test_written_ranks_are_those_that_the_metrics_count(rows: list[tuple[int, int, int]]) -> None:
    scores, relevance, groups = (list(column) for column in zip(*rows, strict=True))
    examples, outputs = ranking_examples(relevance, groups), np.array(scores, dtype=np.float32)[:, None]
    records = list(prediction_records(task("ranking"), outputs, examples))
    assert [record["score"] for record in records] == scores
    names = [name for name, metric in METRICS.items() if metric.task_type == "ranking"]
    without_ties = np.array([-record["rank"] for record in records])
    written, counted = (
        compute(names, "ranking", found, examples.labels, examples.groups) for found in (without_ties, outputs)
    )
    assert written == counted


def test_of_equal_scores_the_later_is_first() -> None:
    examples = ranking_examples([1, 0, 0, 0, 1, 0], groups=[5, 5, 5, 2, 2, 5])
    outputs = np.array([[1.0], [1.0], [2.0], [3.0], [3.0], [1.0]], dtype=np.float32)
    records = list(prediction_records(task("ranking"), outputs, examples))
    assert [record["rank"] for record in records] == [4, 3, 1, 2, 1, 2]
    predictions, groups = Predictions(examples.rows, outputs[:, 0].astype(np.float64)), np.array([0, 0, 0, 1, 1, 0])
    labelled = LabelledPredictions(task("ranking"), Source(path=Path("t.jsonl")), predictions, examples.labels, groups)
    assert first_ranks(labelled).tolist() == [4, 1]
    assert [hard.rows for hard in hardest(labelled)] == [(0, 2), (4, 4)], "first relevant, ranked first"
    (_, rank), (_, top) = hardest(labelled)[0].facts
    assert rank == "rank 4 of 4, score 1" and top == "score 2"
    assert compute(["mrr"], "ranking", outputs, examples.labels, examples.groups)["mrr"] == (1 / 4 + 1 / 1) / 2
