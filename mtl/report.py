"""Text tables of a run's plan, of its results, and of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.errors import counted, printable
from mtl.run_files import BEST_DIR
from mtl.taskdef import TaskDef


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a table as text: columns as wide as their widest cell, those of numbers aligned to the right."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, cells)])


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).removeprefix("-").removesuffix("%").isdigit() or cell == "–"


def number(value: Any) -> str:
    """A metric with four decimals, a count with thousands separators, `–` for None."""
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def interval(bounds: Sequence[float] | None) -> str:
    """`[low, high]` with four decimals, `–` for None."""
    return "–" if bounds is None else f"[{bounds[0]:.4f}, {bounds[1]:.4f}]"


def plan_table(rows: Sequence[Mapping[str, Any]], steps: int, epoch_steps: int) -> str:
    """Table of a run's plan: batches, passes and tokens of each task."""
    total = sum(r["steps"] for r in rows)  # more than `steps` if a step holds several tasks
    header = ("task", "type", "rows", "batch", "steps", "share", "passes", "tokens")
    body = [
        (
            r["task"],
            r["type"],
            f"{r['rows']:,}",
            f"{r['batch']:,}" if r["batch"] else f"{r['batch_tokens']:,} tokens",
            f"{r['steps']:,}",
            f"{r['steps'] / total:.1%}",
            f"{r['passes']:.2f}",
            f"{r['tokens']:,}",
        )
        for r in rows
    ]
    each = f" of {total // steps} batches" if total > steps else ""
    return f"{table(header, body)}\n{counted(steps, 'step')}{each}; an epoch is {epoch_steps:,}"


def dry_run_text(facts: Mapping[str, Any]) -> str:
    """Text summary of what `dryrun.try_steps` returned."""
    rows = [
        (r["task"], _shape(r), f"{r['loss']:.3f}", ", ".join(r["terms"]), f"{r['seconds']:.2f}") for r in facts["tasks"]
    ]
    minutes, memory = facts["seconds"] / 60, facts["peak_memory"] / 2**30
    return "\n".join(
        [
            plan_table(facts["plan"], facts["steps"], facts["epoch_steps"]),
            table(("task", "largest batch", "loss", "terms", "seconds"), rows),
            f"about {minutes:.1f} minutes of training; peak memory so far {memory:.1f} GiB",
        ]
    )


def _shape(row: Mapping[str, Any]) -> str:
    return "×".join(map(str, row["batch"])) + (f" in {row['parts']} parts" if row["parts"] > 1 else "")


def results_table(results: Mapping[str, Any], tasks: Mapping[str, TaskDef], output: Path) -> str:
    """Table at the end of a run: every metric at the task's best step, with its interval and baseline.

    If inputs were truncated, a column shows the fraction of them.
    """
    shares = {
        (name, split): facts["truncated"] / facts["rows"]
        for name, splits in results["data"].items()
        for split, facts in splits.items()
    }
    cut = any(shares.values())
    rows = []
    for name, splits in results["tasks"].items():
        for split, values in splits.items():
            for index, metric in enumerate(tasks[name].metrics):
                first = index == 0
                cells = (
                    name if first else "",
                    split if first else "",
                    metric,
                    number(values[metric]),
                    interval(results.get("intervals", {}).get(name, {}).get(split, {}).get(metric)),
                    number(results["baselines"][name][split][metric]),
                    f"{results['best_steps'][name]:,}" if first else "",
                    *([f"{shares[name, split]:.1%}" if first else ""] if cut else []),
                    str(output / BEST_DIR / name) if first and split == next(iter(splits)) else "",
                )
                rows.append(cells)
    header = ("task", "split", "metric", "value", "95% interval", "baseline", "best step")
    return "\n" + table((*header, *(["truncated"] if cut else []), "model"), rows)


def compare_runs(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Runs side by side: one row per task, split and metric, one column per run, and the baseline if it is one."""
    keys = dict.fromkeys(
        (name, split, metric)
        for results in runs.values()
        for name, splits in results["tasks"].items()
        for split, values in splits.items()
        for metric in values
        if isinstance(values[metric], float)
    )
    rows = []
    for name, split, metric in keys:
        values = [results["tasks"].get(name, {}).get(split, {}).get(metric) for results in runs.values()]
        guesses = [results.get("baselines", {}).get(name, {}).get(split, {}).get(metric) for results in runs.values()]
        known = {guess for guess in guesses if guess is not None}  # it depends on the training rows
        baseline = known.pop() if len(known) == 1 else None
        rows.append((name, split, metric, number(baseline), *map(number, values)))
    footer = [
        f"{run}: {results['steps']:,} of {results['planned_steps']:,} steps"
        + ("" if results["finished"] else ", unfinished")
        for run, results in runs.items()
    ]
    return table(("task", "split", "metric", "baseline", *runs), rows) + "\n" + "\n".join(footer)
