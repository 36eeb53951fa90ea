"""A study's summary from outcomes made by hand: three tasks, one in mse, with a seed that is missing."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import variance
from typing import Any

import pytest

from mtl import paired
from mtl.outcomes import Outcome, outcome_key
from mtl.study import Study, read_study
from mtl.summary import chart, summarize, summary_text

STUDY = """\
encoder: {encoder}
task_defs: [{corpus}]
tasks: [mood, strength, answer]
seeds: [1, 2, 3]
train_sizes: [null, 8]
arms:
  plain: [{{phase: train}}]
  joint: [{{phase: train, tasks: all}}]
  first: [{{phase: train, tasks: all}}, {{phase: adapt}}]
contrasts: [[first, joint]]
"""
# Task to arm to what its first metric is with each seed; None where the cell is not finished.
VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "mood": {"plain": (0.5, 0.75, 0.625), "joint": (0.75, 0.75, 0.5), "first": (1.0, 0.875, 0.75)},
    "strength": {"plain": (2.0, 4.0, 3.0), "joint": (1.0, 4.0, 5.0), "first": (0.5, 1.0, 1.5)},
    "answer": {"plain": (0.25, 0.5, 0.5), "joint": (0.5, 0.0, 1.0), "first": (0.5, 0.75, None)},
}
SECONDS = {"plain": (10.0, 20.0, 60.0), "joint": (30.0, 30.0, 60.0), "first": (1.0, 2.0, 6.0)}


@pytest.fixture(scope="module")
def study(encoder_dir: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Only cells with all rows are finished; the corpus' regression counts by its mse first."""
    path = tmp_path_factory.mktemp("study") / "tiny.yml"
    path.write_text(STUDY.format(encoder=encoder_dir, corpus=corpus), encoding="utf-8")
    made = read_study(path)
    strength = made.tasks["strength"].model_copy(update={"metrics": ["mse", "pearson"]})
    return replace(made, tasks={**made.tasks, "strength": strength})


@pytest.fixture(scope="module")
def summary(study: Study) -> Iterator[dict[str, Any]]:
    """With ratios of spreads although there are only three seeds."""
    outcomes = {}
    for cell in study.cells:
        at = study.config.seeds.index(cell.seed)
        value = VALUES[cell.task][cell.arm][at] if cell.size is None else None
        if value is not None:
            first, second = study.tasks[cell.task].metrics
            seconds, shared = SECONDS[cell.arm][at], 100.0 * cell.seed if cell.arm == "first" else 0.0
            outcomes[outcome_key(cell)] = Outcome(
                metrics={first: value, second: -value}, seconds=seconds, shared_seconds=shared, processor=f"p{at}"
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired, "FEWEST", 2)
        yield summarize(study, outcomes)


def group(summary: dict[str, Any], task: str, metric: str) -> dict[str, Any]:
    (found,) = [g for g in summary["groups"] if (g["task"], g["metric"]) == (task, metric)]
    assert isinstance(found, dict)
    return found


def counts(difference: dict[str, Any]) -> tuple[int, int, int]:
    return difference["wins"], difference["ties"], difference["losses"]


def test_every_task_and_metric_is_a_group(summary: dict[str, Any]) -> None:
    of = {(g["task"], g["metric"]): (g["size"], g["first"], g["higher_is_better"]) for g in summary["groups"]}
    assert of == {
        ("mood", "accuracy"): (None, True, True),
        ("mood", "macro_f1"): (None, False, True),
        ("strength", "mse"): (None, True, False),
        ("strength", "pearson"): (None, False, True),
        ("answer", "mrr"): (None, True, True),
        ("answer", "map"): (None, False, True),
    }
    assert (summary["cells"], summary["finished"]) == (2 * 3 * 3 * 3, 3 * 3 * 3 - 1)
    assert platform.system() in summary["machine"]["system"] and platform.release() not in str(summary["machine"])
    assert len(summary["runs"]) == summary["finished"] and summary["processors"] == ["p0", "p1", "p2"]


def test_differences_are_paired_by_seed(summary: dict[str, Any]) -> None:
    found = group(summary, "mood", "accuracy")
    arms, (contrast,) = found["arms"], found["contrasts"]
    assert arms["plain"]["values"] == {"1": 0.5, "2": 0.75, "3": 0.625} and "difference" not in arms["plain"]
    assert arms["joint"]["mean"] == (0.75 + 0.75 + 0.5) / 3
    difference = arms["joint"]["difference"]
    assert difference["mean"] == pytest.approx((0.25 + 0.0 - 0.125) / 3, rel=1e-12) and counts(difference) == (1, 1, 1)
    assert (contrast["arm"], contrast["base"]) == ("first", "joint")
    assert contrast["difference"]["mean"] == pytest.approx((0.25 + 0.125 + 0.25) / 3, rel=1e-12)
    second = group(summary, "mood", "macro_f1")["arms"]["joint"]
    assert second["values"] == {"1": -0.75, "2": -0.75, "3": -0.5} and counts(second["difference"]) == (1, 1, 1)


def test_an_error_is_better_when_it_is_smaller(summary: dict[str, Any]) -> None:
    found = group(summary, "strength", "mse")
    arms, (contrast,) = found["arms"], found["contrasts"]
    assert counts(arms["joint"]["difference"]) == (1, 1, 1)
    assert counts(arms["first"]["difference"]) == (3, 0, 0) and counts(contrast["difference"]) == (3, 0, 0)
    mean = ((0.5 - 2) + (1 - 4) + (1.5 - 3)) / 3
    assert arms["first"]["difference"]["mean"] == mean, "the difference itself has no direction"
    assert counts(group(summary, "strength", "pearson")["arms"]["first"]["difference"]) == (3, 0, 0), "of −mse"


def test_a_missing_seed_is_left_out_of_pairs(summary: dict[str, Any]) -> None:
    found = group(summary, "answer", "mrr")
    arms, (contrast,) = found["arms"], found["contrasts"]
    assert [arm["n"] for arm in arms.values()] == [3, 3, 2]
    assert arms["first"]["difference"]["mean"] == ((0.5 - 0.25) + (0.75 - 0.5)) / 2
    assert counts(contrast["difference"]) == (1, 1, 0)
    assert contrast["difference"]["mean"] == ((0.5 - 0.5) + (0.75 - 0.0)) / 2
    assert contrast["spread_ratio"] == pytest.approx((0.75 - 0.5) / (0.5 - 0.0), rel=1e-12), "of the seeds of both"


def test_the_mean_over_tasks_leaves_errors_out(summary: dict[str, Any]) -> None:
    found, unfinished = summary["across"]
    assert (found["size"], found["tasks"], found["left_out"]) == (None, ["mood", "answer"], ["strength"])
    arms, (contrast,) = found["arms"], found["contrasts"]
    assert arms["plain"]["values"] == {"1": (0.5 + 0.25) / 2, "2": (0.75 + 0.5) / 2, "3": (0.625 + 0.5) / 2}
    assert arms["first"]["values"] == {"1": (1.0 + 0.5) / 2, "2": (0.875 + 0.75) / 2}, "seeds that all tasks have"
    difference = arms["joint"]["difference"]
    of_mood, of_answer = (0.25, 0.0, -0.125), (0.25, -0.5, 0.5)
    expected = sum((mood + answer) / 2 for mood, answer in zip(of_mood, of_answer, strict=True)) / 3
    assert difference["mean"] == pytest.approx(expected, rel=1e-12) and counts(difference) == (2, 0, 1)
    joint, plain = (sum(variance(VALUES[task][arm]) for task in ("mood", "answer")) for arm in ("joint", "plain"))
    assert arms["joint"]["spread_ratio"] == pytest.approx(sqrt(joint / plain), rel=1e-12)
    assert contrast["difference"]["n"] == 2 and counts(contrast["difference"]) == (2, 0, 0)
    assert unfinished["size"] == 8 and [arm["n"] for arm in unfinished["arms"].values()] == [0, 0, 0]


def test_seconds_are_means_over_seeds(summary: dict[str, Any]) -> None:
    for metric in ("mse", "pearson"):
        arms = group(summary, "strength", metric)["arms"]
        assert arms["plain"]["seconds"] == (10 + 20 + 60) / 3 and arms["plain"]["shared_seconds"] == 0
        assert arms["first"]["seconds"] == (1 + 2 + 6) / 3 and arms["first"]["shared_seconds"] == (100 + 200 + 300) / 3
    arms = group(summary, "answer", "mrr")["arms"]
    assert arms["first"]["seconds"] == (1 + 2) / 2 and arms["first"]["shared_seconds"] == (100 + 200) / 2


def test_text_and_picture_say_the_same(summary: dict[str, Any], tmp_path: Path) -> None:
    lines = [line.split() for line in summary_text(summary, tmp_path).splitlines()]
    (errors,) = [number for number, line in enumerate(lines) if line[:3] == ["strength", "all", "mse"]]
    assert lines[errors][3:6] == ["plain", "3", "3.0000"] and lines[errors][-1] == "30"
    assert lines[errors + 2][:2] == ["first", "3"] and "3/0/0" in lines[errors + 2], "wins"
    assert lines[errors + 3][:4] == ["first", "over", "joint", "3"] and "3/0/0" in lines[errors + 3]
    assert lines[-1][:5] == ["26", "of", "54", "cells", "finished;"]
    drawn = chart(summary)
    for title in ("mood, all rows: accuracy", "strength, all rows: mse", "answer, all queries: mrr"):
        assert f">{title}<" in drawn
    assert ">mean of mood, answer, all rows or queries<" in drawn and "macro_f1" not in drawn
    assert any(line[:4] == ["mean", "of", "mood,", "answer"] for line in lines), "strength is better when lower"
    alone = {**summary, "across": [{**group, "tasks": ["mood"]} for group in summary["across"]]}
    assert "mean of" not in chart(alone) + summary_text(alone, tmp_path), "one task has no mean"
