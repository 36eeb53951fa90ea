"""What a run prints: a line for each task at an evaluation, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtl.display import evaluation_lines
from mtl.report import results_table
from mtl.taskdef import TaskDef

DATA = {"hub": "of/none", "columns": {"text_a": "text"}}
TASKS = {
    "a": TaskDef.model_validate({"type": "regression", "data": DATA, "metrics": ["pearson"]}),
    "long": TaskDef.model_validate({"type": "regression", "data": DATA, "metrics": ["spearman", "pearson"]}),
}


@pytest.mark.parametrize("split", ["validation", "holdout"])
def test_an_evaluation_shows_value_change_and_best(split: str) -> None:
    before: dict[str, Any] = {"a": {split: {"pearson": 0.5}}, "long": {split: {"spearman": 0.25}}}
    now: dict[str, Any] = {"a": {split: {"pearson": 0.625}}, "long": {split: {"spearman": 0.125}}}
    best = {"a": {"step": 10, "splits": before["a"]}, "long": {"step": 10, "splits": before["long"]}}
    assert evaluation_lines(10, 1000, before, best, {}, TASKS) == [
        "step 10/1,000  a     pearson 0.5000*",
        "step 10/1,000  long  spearman 0.2500*",
    ]
    best["a"] = {"step": 20, "splits": now["a"]}
    assert evaluation_lines(20, 1000, now, best, before, TASKS) == [
        "step 20/1,000  a     pearson 0.6250*  +0.1250",
        "step 20/1,000  long  spearman 0.1250  -0.1250  best 0.2500 at step 10",
    ]


@pytest.mark.parametrize("truncated", [0, 3])
def test_the_table_at_the_end_shows_the_share_that_is_truncated_where_some_is(truncated: int) -> None:
    facts = {"validation": {"rows": 24, "truncated": truncated}}
    results = {
        "tasks": {"long": {"validation": {"spearman": 0.5, "pearson": 0.25}}},
        "baselines": {"long": {"validation": {"spearman": 0.0, "pearson": 0.0}}},
        "intervals": {"long": {"validation": {"spearman": [0.375, 0.75]}}},
        "best_steps": {"long": 1200},
        "data": {"long": {"train": {"rows": 8, "truncated": 0}, **facts}},
    }
    header, _, first, second = results_table(results, TASKS, Path("runs/x")).splitlines()[1:]
    more, share = (["truncated"], ["12.5%"]) if truncated else ([], [])
    assert header.split() == [*"task split metric value 95% interval baseline best step".split(), *more, "model"]
    assert first.split() == [
        *("long", "validation", "spearman", "0.5000", "[0.3750,", "0.7500]", "0.0000", "1,200"),
        *(*share, str(Path("runs/x/best/long"))),
    ]
    assert second.split() == ["pearson", "0.2500", "–", "0.0000"]
