"""The summary of a study: for each task and size, every arm's values and their paired differences to the first arm."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.errors import counted, listed
from mtl.files import write_file
from mtl.intervals import LEVEL
from mtl.machine import RECORDED_PACKAGES, git_revision, installed_version, processor, system
from mtl.metrics import METRICS
from mtl.outcomes import Outcomes, outcome_key
from mtl.paired import compare_pairs, describe, spread_ratio
from mtl.report import number, table
from mtl.study import ALL, Study
from mtl.study_chart import draw

SUMMARY_FILE = "summary.json"
CHART_FILE = "summary.svg"
Values = dict[str, dict[int, float]]  # arm → seed → value


def summarize(study: Study, outcomes: Outcomes) -> dict[str, Any]:
    """Summarizes the finished cells.

    Returns:
        The study's design, versions and hardware, and:

        - `groups`, one for each task, size and metric. Its `arms` have `values` by seed, `n`, `mean`, `std`, `t`, the
          mean `seconds` of their own runs and `shared_seconds` of the runs these start from, and, except for the first
          arm, `difference` and `spread_ratio` to the first; `contrasts` has the latter two for further pairs of arms.
        - `across`, one for each size: the same for the mean of the tasks' first metrics; those better when lower are
          `left_out`.
        - `cells` and `finished`, the numbers of all cells and of finished ones.
        - `runs`, all outcomes, including those of cells that the study no longer has; a study can continue from them.
    """
    config = study.config
    scores: dict[tuple[str, int | None, str], Values] = {}
    seconds: dict[tuple[str, int | None, str], list[tuple[float, float]]] = {}
    counted_keys = [key for cell in study.cells if (key := outcome_key(cell)) in outcomes]
    for cell in study.cells:
        outcome = outcomes.get(outcome_key(cell))
        if outcome is None:
            continue
        for metric in study.tasks[cell.task].metrics:
            by_arm = scores.setdefault((cell.task, cell.size, metric), {})
            by_arm.setdefault(cell.arm, {})[cell.seed] = outcome.metrics[metric]
        times = seconds.setdefault((cell.task, cell.size, cell.arm), [])
        times.append((outcome.seconds, outcome.shared_seconds))
    groups = []
    for (task, size, metric), values in scores.items():
        upwards = METRICS[metric].higher_is_better
        group: dict[str, Any] = {"task": task, "size": size, "metric": metric, "higher_is_better": upwards}
        group |= {"first": metric == study.tasks[task].metrics[0]}
        group |= _compared(study, [values], higher_is_better=upwards)
        for arm, facts in group["arms"].items():
            times = seconds.get((task, size, arm), [])
            for position, key in enumerate(("seconds", "shared_seconds")):
                facts[key] = math.fsum(pair[position] for pair in times) / len(times) if times else None
        groups.append(group)
    across = [_across(study, size, scores) for size in config.train_sizes]
    return {
        "study": study.name,
        "encoder": config.encoder,
        "tasks": config.tasks,
        "train_sizes": config.train_sizes,
        "seeds": config.seeds,
        "arms": {
            arm: [phase.model_dump() | {"sizes": config.sizes_of(phase)} for phase in phases]
            for arm, phases in config.arms.items()
        },
        "settings": config.settings,
        "select": config.select,
        "step": config.step,
        "level": LEVEL,
        "cells": len(study.cells),
        "finished": len(counted_keys),
        "groups": groups,
        "across": across,
        "machine": {"cores": os.cpu_count(), "processor": processor(), "system": system()},
        "versions": {package: installed_version(package) for package in RECORDED_PACKAGES},
        "processors": sorted({outcomes[key].processor for key in counted_keys}),
        "git_revision": git_revision(),
        "runs": {key: outcome.model_dump() for key, outcome in outcomes.items()},
    }


def _compared(study: Study, tasks: Sequence[Values], *, higher_is_better: bool = True) -> dict[str, Any]:
    """Describes and compares arms by the mean of their values over some tasks, seed by seed."""

    def common(*names: str) -> tuple[list[int], list[list[list[float]]]]:
        """Seeds for which all named arms have a value on every task; and these values, by arm, task and seed."""
        seeds = [
            seed for seed in study.config.seeds if tasks and all(seed in t.get(n, {}) for t in tasks for n in names)
        ]
        return seeds, [[[task[name][seed] for seed in seeds] for task in tasks] for name in names]

    def difference(arm: str, base: str) -> dict[str, Any]:
        _, (own, others) = common(arm, base)
        pairs = compare_pairs(_means(own), _means(others), higher_is_better=higher_is_better)
        return {"difference": pairs, "spread_ratio": spread_ratio(own, others)}

    arms: dict[str, dict[str, Any]] = {}
    for arm in study.config.arms:
        seeds, (own,) = common(arm)
        means = _means(own)
        facts = {"values": {str(seed): mean for seed, mean in zip(seeds, means, strict=True)}, **describe(means)}
        arms[arm] = facts | (difference(arm, next(iter(arms))) if arms else {})
    contrasts = [{"arm": arm, "base": base, **difference(arm, base)} for arm, base in study.config.contrasts]
    return {"arms": arms, "contrasts": contrasts}


def _means(tasks: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(column) / len(column) for column in zip(*tasks, strict=True)]


def _across(study: Study, size: int | None, scores: Mapping[tuple[str, int | None, str], Values]) -> dict[str, Any]:
    """Comparison on the mean over tasks, excluding tasks whose first metric is better when lower."""
    metrics = {name: task.metrics[0] for name, task in study.tasks.items()}
    tasks = [name for name, metric in metrics.items() if METRICS[metric].higher_is_better]
    units = {"queries" if METRICS[metrics[task]].per_query else "rows" for task in tasks}
    facts: dict[str, Any] = {"size": size, "tasks": tasks, "left_out": [t for t in metrics if t not in tasks]}
    facts["unit"] = " or ".join(sorted(units, reverse=True))
    return facts | _compared(study, [scores.get((task, size, metrics[task]), {}) for task in tasks])


def store_summary(study: Study, outcomes: Outcomes, folder: Path, copy: Path | None = None) -> dict[str, Any]:
    """Writes `summary.json` and `summary.svg` to a study's directory, and the summary also to the file `copy`."""
    summary = summarize(study, outcomes)
    for path in (folder / SUMMARY_FILE, *([copy] if copy else [])):
        write_file(path, json.dumps(summary, indent=1))
    write_file(folder / CHART_FILE, chart(summary))
    return summary


def chart(summary: Mapping[str, Any]) -> str:
    """The chart of a summary: a panel per task and size, for its first metric, and one per size for the tasks' mean."""
    panels = []
    for group in summary["groups"]:
        if group["first"]:
            panels.append({"title": f"{group['task']}, {size_words(group)}: {group['metric']}", **_drawn(group)})
    for group in task_means(summary):
        panels.append({"title": f"{mean_words(group)}, {size_words(group)}", **_drawn(group)})
    return draw(panels, f"{summary['study']}: {counted_rows(summary)}")


def task_means(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The comparisons on a mean over tasks; none unless it is over two at least."""
    return [group for group in summary["across"] if len(group["tasks"]) > 1]


def mean_words(group: Mapping[str, Any]) -> str:
    """The mean over tasks on which a group compares arms, in words."""
    return f"mean of {listed(group['tasks'])}"


def _drawn(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group's first arm, and all arms that have values, in the form for `draw`."""
    first, arms = next(iter(group["arms"])), group["arms"].items()
    return {
        "arms": {
            a: {**facts, "values": list(facts["values"].values())} for a, facts in arms if facts["n"] or a == first
        }
    }


def size_words(group: Mapping[str, Any]) -> str:
    """Training size of a group in words, in rows or, for rankings, in queries."""
    metric = METRICS.get(group.get("metric", ""))
    unit = "queries" if metric is not None and metric.per_query else group.get("unit", "rows")
    return f"{ALL} {unit}" if group["size"] is None else f"{group['size']:,} {unit}"


def counted_rows(summary: Mapping[str, Any]) -> str:
    """The rows and the step on which a summary's metrics were computed, in words."""
    rows = "validation rows" if summary["select"] == "validation" else "held-out training rows"
    if summary["step"] == "last":
        return f"{rows} after the last step"
    return f"{rows} at the step that is best on them, which is optimistic"


def summary_text(summary: Mapping[str, Any], folder: Path) -> str:
    """The summary as a printable table with one row per task, size and arm."""
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
        "spread ratio",
        "s",
    )
    rows = []
    for group in [group for group in summary["groups"] if group["first"]]:
        rows += _lines(group["task"], group["metric"], group)
    for group in task_means(summary):
        rows += _lines(mean_words(group), "", group)
    done = f"{summary['finished']:,} of {counted(summary['cells'], 'cell')} finished"
    first = next(iter(summary["arms"]))
    lines = [f"\n{counted_rows(summary)}; differences to {first!r}, paired by seed, with {LEVEL:.0%} intervals"]
    if rows:
        lines.append(table(header, rows))
    return "\n".join([*lines, f"{done}; {folder / SUMMARY_FILE}, {folder / CHART_FILE}"])


def _lines(task: str, metric: str, group: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    lines: list[tuple[Any, ...]] = []
    for arm, facts in group["arms"].items():
        place = ("", "", "") if lines else (task, group["size"] or ALL, metric)
        seconds = facts.get("seconds")
        own = (arm, facts["n"], number(facts["mean"]), number(facts["std"]))
        lines.append((*place, *own, *difference_cells(facts), "" if seconds is None else f"{seconds:.0f}"))
    for pair in group["contrasts"]:
        own = (f"{pair['arm']} over {pair['base']}", pair["difference"]["n"], "", "")
        lines.append(("", "", "", *own, *difference_cells(pair), ""))
    return lines


def difference_cells(facts: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Cells for a difference's mean, its t and bootstrap intervals, wins/ties/losses, and the ratio of standard
    deviations; all empty if there is no difference.
    """
    difference, ratio = facts.get("difference"), facts.get("spread_ratio")
    if not difference or not difference["n"]:
        return ("", "", "", "", "")
    counts = "/".join(str(difference[key]) for key in ("wins", "ties", "losses"))
    intervals = interval(difference["t"]), interval(difference["bootstrap"])
    return (signed(difference["mean"]), *intervals, counts, "" if ratio is None else f"{ratio:.2f}")


def signed(value: float | None) -> str:
    """A number with sign and four decimals; empty for None."""
    return "" if value is None else f"{value:+.4f}"


def interval(bounds: Sequence[float] | None) -> str:
    """`low to high` with signs and four decimals; empty for None."""
    return "" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
