"""The section of a report about the gradient cosines between tasks, which show alignment and conflict."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mtl.charts import SERIES, Series, line_chart
from mtl.drawing import Chart
from mtl.heat_map import cell_text, heat_chart
from mtl.html_task import Place, data_table, thinned
from mtl.markup import Html, element, group
from mtl.run_record import Gradients, RunRecord

MOST_TASKS = 12  # with more tasks, the pairs are listed but not drawn
MOST_PAIRS = 60  # maximum number of listed pairs

EXPLAINED = (
    "The cosine between the gradients of two tasks' losses with respect to the encoder's weights, on the same few "
    "training rows of each task throughout the run, without dropout and regularizers. Above 0, a small step for one "
    "task also lowers the loss of the other; below 0, it raises it; near 0, it hardly changes it."
)
LIMITS = (
    "It describes small steps at the current weights, not the outcome of training: tasks that conflict early may still "
    "help each other, and a small gradient hardly changes anything, whatever its direction. With few rows it is noisy."
)


def interaction(record: RunRecord, place: Place) -> Html:
    """The section about a run's gradient cosines; the run has at least one measurement."""
    measured = record.log.gradients
    tasks, last = measured[0].tasks, measured[-1]
    pairs = list(combinations(range(len(tasks)), 2))
    mean = [[_mean([m.cosines[i][j] for m in measured]) for j in range(len(tasks))] for i in range(len(tasks))]
    charts = []
    if len(tasks) <= MOST_TASKS:
        charts.append(heat_chart("last", f"Gradient cosines after step {last.step:,}", tasks, last.cosines))
        if len(measured) > 1:
            title = f"Gradient cosines, mean of {len(measured):,} measurements"
            charts.append(heat_chart("mean", title, tasks, mean))
            charts += _lines(measured, record.results["planned_steps"])
    shown = sorted(pairs, key=lambda pair: -(mean[pair[0]][pair[1]] or 0.0))
    if len(shown) > MOST_PAIRS:
        shown = shown[: MOST_PAIRS // 2] + shown[-MOST_PAIRS // 2 :]
    rows = [_row(measured, i, j, mean[i][j]) for i, j in shown]
    header = ("task", "with", "mean", "last", "lowest", "highest", "below 0")
    caption = "Pairs of tasks, from the most aligned to the most conflicting"
    if len(shown) < len(pairs):
        caption += f": {len(shown)} of {len(pairs):,}, the ends of the list"
    norms = [(task, _mean([m.norms[i] for m in measured]), last.norms[i]) for i, task in enumerate(tasks)]
    return group(
        element("p", EXPLAINED),
        element("p", LIMITS, class_="muted"),
        place.draw(*charts) if charts else None,
        data_table(caption, header, rows, titles=2),
        data_table(
            "Norm of each task's gradient",
            ("task", "mean", "last"),
            [(task, *("–" if n is None else f"{n:.3g}" for n in found)) for task, *found in norms],
        ),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _row(measured: Sequence[Gradients], i: int, j: int, mean: float | None) -> tuple[str, ...]:
    known = [value for m in measured if (value := m.cosines[i][j]) is not None]
    numbers = (mean, measured[-1].cosines[i][j], min(known, default=None), max(known, default=None))
    below = f"{sum(value < 0 for value in known):,} of {len(known):,}"
    return measured[0].tasks[i], measured[0].tasks[j], *map(cell_text, numbers), below


def _lines(measured: Sequence[Gradients], steps: int) -> list[Chart]:
    """Cosines over the run: charts of each task with the tasks after it, so that every pair is in one chart."""
    charts = []
    tasks = measured[0].tasks
    for i in range(len(tasks) - 1):
        others = range(i + 1, len(tasks))
        for part in range(0, len(others), SERIES):
            series = []
            for n, j in enumerate(others[part : part + SERIES]):
                points = [(float(m.step), value) for m in measured if (value := m.cosines[i][j]) is not None]
                series.append(Series(tasks[j], thinned(points), n, dots=len(points) < 40))
            title = f"{tasks[i]}: gradient cosine with the others"
            name = f"pairs-{i + 1}-{part // SERIES + 1}"
            zero = ("no interaction", 0.0)
            charts.append(line_chart(name, title, series, y_label="cosine", steps=steps, reference=zero))
    return charts
