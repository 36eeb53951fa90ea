"""What a study came to: per task and size every arm's seeds and spread, and its paired difference to the first."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.errors import counted
from mtl.files import write_file
from mtl.metrics import METRICS
from mtl.outcomes import Outcomes, outcome_key
from mtl.paired import LEVEL, compare_pairs, describe, spread_ratio
from mtl.report import number, table
from mtl.rundir import RECORDED_PACKAGES, git_revision, installed_version, processor
from mtl.study import ALL, Study
from mtl.study_chart import draw

SUMMARY_FILE = "summary.json"
CHART_FILE = "summary.svg"
Values = dict[str, dict[int, float]]  # arm to seed to value


def summarize(study: Study, outcomes: Outcomes) -> dict[str, Any]:
    """Puts the finished cells together.

    Returns:
        The study's design; `groups`, one for each task, size and metric, with every arm's `values` by seed, `n`,
        `mean`, `std`, `t`, `seconds` of its own runs and `shared_seconds` of those they start from, and but for the
        first arm `difference` and `spread_ratio`; `across`, for each size the same over the mean of the tasks by their
        first metrics; how many cells are `finished`; `runs`, the outcomes themselves, with which a study goes on.
    """
    config = study.config
    scores: dict[tuple[str, int | None, str], Values] = {}
    seconds: dict[tuple[str, int | None, str], list[tuple[float, float]]] = {}
    finished = 0
    for cell in study.cells:
        outcome = outcomes.get(outcome_key(cell))
        if outcome is None:
            continue
        finished += 1
        for metric in study.tasks[cell.task].metrics:
            by_arm = scores.setdefault((cell.task, cell.size, metric), {})
            by_arm.setdefault(cell.arm, {})[cell.seed] = outcome.metrics[metric]
        times = seconds.setdefault((cell.task, cell.size, cell.arm), [])
        times.append((outcome.seconds, outcome.shared_seconds))
    groups = []
    for (task, size, metric), values in scores.items():
        taken = {arm: seconds[task, size, arm] for arm in values}
        group = {"task": task, "size": size, "metric": metric, "first": metric == study.tasks[task].metrics[0]}
        group |= {"higher_is_better": METRICS[metric].higher_is_better}
        groups.append(group | {"arms": _arms(study, values, taken, higher_is_better=METRICS[metric].higher_is_better)})
    return {
        "study": study.name,
        "encoder": config.encoder,
        "tasks": config.tasks,
        "train_sizes": config.train_sizes,
        "seeds": config.seeds,
        "arms": {arm: [phase.model_dump() for phase in phases] for arm, phases in config.arms.items()},
        "settings": config.settings,
        "select": config.select,
        "step": config.step,
        "level": LEVEL,
        "cells": len(study.cells),
        "finished": finished,
        "groups": groups,
        "across": [_across(study, size, scores) for size in config.train_sizes],
        "machine": {"cores": os.cpu_count(), "processor": processor(), "system": platform.platform()},
        "versions": {package: installed_version(package) for package in RECORDED_PACKAGES},
        "processors": sorted({outcome.processor for outcome in outcomes.values()}),
        "git_revision": git_revision(),
        "runs": {key: outcome.model_dump() for key, outcome in outcomes.items()},
    }


def _arms(
    study: Study, values: Values, taken: Mapping[str, Sequence[tuple[float, float]]], *, higher_is_better: bool
) -> dict[str, Any]:
    """Every arm of one task, size and metric."""
    first = next(iter(study.config.arms))
    result = {}
    for arm in study.config.arms:
        own, base = values.get(arm, {}), values.get(first, {})
        ordered = {str(seed): own[seed] for seed in study.config.seeds if seed in own}
        facts: dict[str, Any] = {"values": ordered, **describe(list(ordered.values()))}
        for key, position in (("seconds", 0), ("shared_seconds", 1)):
            times = [pair[position] for pair in taken.get(arm, ())]
            facts[key] = math.fsum(times) / len(times) if times else None
        if arm != first:
            seeds = [seed for seed in study.config.seeds if seed in own and seed in base]
            pairs = [own[seed] for seed in seeds], [base[seed] for seed in seeds]
            facts["difference"] = compare_pairs(*pairs, higher_is_better=higher_is_better)
            facts["spread_ratio"] = spread_ratio([pairs[0]], [pairs[1]])
        result[arm] = facts
    return result


def _across(study: Study, size: int | None, scores: Mapping[tuple[str, int | None, str], Values]) -> dict[str, Any]:
    """The mean over tasks, seed by seed, of seeds that every task has; tasks whose metric is an error are left out."""
    first = next(iter(study.config.arms))
    metrics = {name: task.metrics[0] for name, task in study.tasks.items()}
    tasks = [name for name, metric in metrics.items() if METRICS[metric].higher_is_better]
    arms = {}
    for arm in study.config.arms:
        found = [(scores.get((t, size, metrics[t]), {})) for t in tasks]
        seeds = [s for s in study.config.seeds if all(s in v.get(arm, {}) and s in v.get(first, {}) for v in found)]
        own, base = ([[v[a][s] for s in seeds] for v in found] if seeds else [] for a in (arm, first))
        means, others = ([math.fsum(column) / len(column) for column in zip(*p, strict=True)] for p in (own, base))
        arms[arm] = {"values": {str(s): m for s, m in zip(seeds, means, strict=True)}, **describe(means)}
        if arm != first:
            arms[arm] |= {"difference": compare_pairs(means, others), "spread_ratio": spread_ratio(own, base)}
    return {"size": size, "tasks": tasks, "left_out": [t for t in metrics if t not in tasks], "arms": arms}


def store_summary(study: Study, outcomes: Outcomes, folder: Path, copy: Path | None = None) -> dict[str, Any]:
    """Writes `summary.json` and `summary.svg` to a study's directory, and the former to a file elsewhere too."""
    summary = summarize(study, outcomes)
    for path in (folder / SUMMARY_FILE, *([copy] if copy else [])):
        write_file(path, json.dumps(summary, indent=1))
    write_file(folder / CHART_FILE, chart(summary))
    return summary


def chart(summary: Mapping[str, Any]) -> str:
    """The picture of a summary: a panel for each task and size by the task's first metric, and one for their mean."""
    panels = []
    for group in summary["groups"]:
        if group["first"]:
            panels.append(
                {"title": f"{group['task']}, {size_words(group['size'])}: {group['metric']}", **_drawn(group)}
            )
    if len(summary["tasks"]) > 1:
        for group in summary["across"]:
            panels.append(
                {"title": f"mean of {len(group['tasks'])} tasks, {size_words(group['size'])}", **_drawn(group)}
            )
    return draw(panels, f"{summary['study']}: {counted_rows(summary)}")


def _drawn(group: Mapping[str, Any]) -> dict[str, Any]:
    return {"arms": {arm: {**facts, "values": list(facts["values"].values())} for arm, facts in group["arms"].items()}}


def size_words(size: int | None) -> str:
    return f"{ALL} rows" if size is None else f"{size:,} rows"


def counted_rows(summary: Mapping[str, Any]) -> str:
    """Which rows and which step a summary's figures are of."""
    rows = "validation rows" if summary["select"] == "validation" else "held-out training rows"
    if summary["step"] == "last":
        return f"{rows} after the last step"
    return f"{rows} at the step that is best on them, which is optimistic"


def summary_text(summary: Mapping[str, Any], folder: Path) -> str:
    """The summary for people: a row for each task, size and arm."""
    header = (
        "task",
        "size",
        "metric",
        "arm",
        "n",
        "mean",
        "std",
        "difference",
        "t",
        "bootstrap",
        "w/t/l",
        "std ratio",
        "s",
    )
    rows = []
    for group in [group for group in summary["groups"] if group["first"]]:
        rows += _lines(group["task"], group["metric"], group)
    if len(summary["tasks"]) > 1:
        for group in summary["across"]:
            rows += _lines("mean of tasks", "", group)
    done = f"{summary['finished']:,} of {counted(summary['cells'], 'cell')} finished"
    first = next(iter(summary["arms"]))
    lines = [f"\n{counted_rows(summary)}; differences to {first!r}, paired by seed, with {LEVEL:.0%} intervals"]
    if rows:
        lines.append(table(header, rows))
    return "\n".join([*lines, f"{done}; {folder / SUMMARY_FILE}, {folder / CHART_FILE}"])


def _lines(task: str, metric: str, group: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    lines = []
    for index, (arm, facts) in enumerate(group["arms"].items()):
        difference = facts.get("difference", {"mean": None, "t": None, "bootstrap": None, "n": 0})
        counts = "/".join(str(difference[key]) for key in ("wins", "ties", "losses")) if difference["n"] else ""
        seconds, ratio = facts.get("seconds"), facts.get("spread_ratio")
        lines.append(
            (
                *((task, group["size"] or ALL, metric) if index == 0 else ("", "", "")),
                arm,
                facts["n"],
                number(facts["mean"]),
                number(facts["std"]),
                signed(difference["mean"]),
                interval(difference["t"]),
                interval(difference["bootstrap"]),
                counts,
                "" if ratio is None else f"{ratio:.2f}",
                "" if seconds is None else f"{seconds:.0f}",
            )
        )
    return lines


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
