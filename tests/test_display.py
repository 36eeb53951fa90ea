"""What a run prints: a line for each task at an evaluation, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtl.best import Best
from mtl.display import Display, evaluation_lines
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
    best = {"a": Best(10, before["a"]), "long": Best(10, before["long"])}
    assert evaluation_lines(10, 1000, before, best, {}, TASKS) == [
        "step 10/1,000  a     pearson 0.5000*",
        "step 10/1,000  long  spearman 0.2500*",
    ]
    best["a"] = Best(20, now["a"])
    assert evaluation_lines(20, 1000, now, best, before, TASKS) == [
        "step 20/1,000  a     pearson 0.6250*  +0.1250",
        "step 20/1,000  long  spearman 0.1250  -0.1250  best 0.2500 at step 10",
    ]


def test_an_evaluation_names_the_splits_that_decide_nothing() -> None:
    splits = {"validation": {"pearson": 0.5}, "test": {"pearson": 0.25}, "far": {"pearson": -0.5}}
    best = {"a": Best(10, splits)}
    (line,) = evaluation_lines(10, 20, {"a": splits}, best, {}, TASKS)
    assert line == "step 10/20  a  pearson 0.5000* (test 0.2500, far -0.5000)"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("silent", []), ("quiet", []), ("normal", [60, 120, 180]), ("verbose", list(range(10, 201, 10)))],
)
def test_without_a_terminal_a_line_a_minute_says_how_far_a_run_is(level: Any, shown: list[int]) -> None:
    """Steps take a second, the log is written every ten of them; 140 of 200 steps remain after 60 s."""
    now, lines = 1000.0, list[str]()
    display = Display(level, lines.append, clock=lambda: now)
    with display.bar(200, 0):
        for step in range(10, 201, 10):
            now = 1000.5 + step  # a little late
            display.logged([{"step": step, "task": "a", "loss": 0.5, "learning_rate": 1e-4}], 200)
    assert [int(line.split()[1].partition("/")[0]) for line in lines] == shown
    if level == "normal":
        assert lines[0] == "step 60/200  loss a 0.500  learning rate 0.0001  02:21 left"


def test_a_resumed_run_estimates_by_its_own_steps() -> None:
    now, lines = 0.0, list[str]()
    display = Display("normal", lines.append, clock=lambda: now)
    with display.bar(200, 100):
        now = 60.0  # for 20 steps: 80 remain
        display.logged([{"step": 120, "task": "a", "loss": 0.5, "learning_rate": 1e-4}], 200)
    assert lines[0].endswith("  04:00 left")


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
