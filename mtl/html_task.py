"""The section of a report about one task: learning curves, regularizers, predictions and hardest examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl.charts import Series, bar_chart, line_chart, scatter_chart
from mtl.checks import Row
from mtl.drawing import Chart, svg
from mtl.error_analysis import HardExample, LabelledPredictions, confusion, first_ranks, hardest, texts
from mtl.markup import Html, element, group
from mtl.report import interval, number
from mtl.run_record import Points, RunRecord

MOST_CLASSES = 15  # with more classes, the most frequent confusions are listed instead of a matrix
MOST_CONFUSIONS = 20
MOST_POINTS = 200  # points per line
LONGEST_TEXT = 600  # characters shown of an example's text
# Counts among a split's metrics.
COUNTS = {"n": "rows", "queries": "queries", "queries_without_relevant": "of them without a relevant candidate"}
RANKS = 10  # ranks with a bar of their own
DECIDING = {"validation": "validation", "holdout": "held-out training"}  # split → name of its rows

# Charts of the regularizers' terms: name, title, term → label, axis label, whether the axis is logarithmic.
TELEMETRY: tuple[tuple[str, str, dict[str, str], str, bool], ...] = (
    (
        "smoothness",
        "Smoothness R_s and its parts",
        {"smart": "R_s", "smart_adversarial": "of the perturbation", "smart_dropout": "of dropout"},
        "R_s",
        False,
    ),
    ("gain", "Gain of the ascent over the initial noise", {"smart_gain": "R_s / R_s at the noise"}, "factor", True),
    ("length", "Length of the perturbation", {"smart_length": "‖δ‖ / ε"}, "radii", False),
    ("boundary", "Coordinates at the boundary", {"smart_boundary": "share"}, "share", False),
    ("proximal", "Divergence from the teacher D", {"proximal": "D"}, "D", False),
)


@dataclass
class Place:
    """A section of the page.

    Attributes:
        id: Its id.
        level: Level of its headings.
        charts: The charts drawn in it so far.
    """

    id: str
    level: int
    charts: list[Chart]

    def heading(self, text: str, *, below: int = 0) -> Html:
        return element(f"h{min(6, self.level + below)}", text)

    def draw(self, *charts: Chart) -> Html:
        self.charts += charts
        return element("div", [svg(chart, self.id) for chart in charts], class_="charts")


def data_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Any]], *, titles: int = 1) -> Html:
    """A table in a scrollable region; the first `titles` cells of each row are row headers."""
    head = element("tr", [element("th", cell, scope="col") for cell in header])
    body = [
        element(
            "tr",
            [element("th", cell, scope="row") if i < titles else element("td", cell) for i, cell in enumerate(row)],
        )
        for row in rows
    ]
    inner = element("table", element("caption", caption), element("thead", head), element("tbody", body))
    return element("div", inner, class_="scroll", role="region", aria_label=caption, tabindex=0)


def task_section(record: RunRecord, name: str, labelled: LabelledPredictions | str, place: Place) -> Html:
    """The section about one task of a run."""
    task = record.run.tasks.get(name) if record.run else None
    best = record.results.get("best_steps", {}).get(name)
    facts = [task.type if task else None, None if best is None else f"best step {best:,}"]
    return element(
        "section",
        place.heading(name),
        element("p", ", ".join(fact for fact in facts if fact), class_="facts"),
        _learning(record, name, place),
        _regularizers(record, name, place),
        place.heading(f"Predictions on {rows_of(record)} rows", below=1),
        element("p", f"Not shown: {labelled}.", class_="note")
        if isinstance(labelled, str)
        else _predicted(name, labelled, place),
        _examples(labelled, rows_of(record), place) if isinstance(labelled, LabelledPredictions) else None,
        id=place.id,
    )


def rows_of(record: RunRecord) -> str:
    """Name of the rows on which a run's best steps were chosen."""
    return DECIDING.get(record.selection_split, record.selection_split)


def thinned(points: Points) -> Points:
    """At most `MOST_POINTS` points, each the mean of a block of consecutive points."""
    size = -(-len(points) // MOST_POINTS)
    if size <= 1:
        return points
    array = np.array(points)
    return [tuple(array[start : start + size].mean(axis=0).tolist()) for start in range(0, len(array), size)]


def smoothed(points: Points, window: int) -> Points:
    """Centred moving average over `window` points (fewer at the ends), ignoring NaN."""
    found = []
    for i, (step, _) in enumerate(points):
        around = [value for _, value in points[max(0, i - window // 2) : i + window // 2 + 1] if value == value]
        found.append((step, sum(around) / len(around) if around else float("nan")))
    return found


def _learning(record: RunRecord, name: str, place: Place) -> Html:
    charts = []
    steps = record.results["planned_steps"]
    loss = thinned(record.log.terms.get(name, {}).get("loss", []))
    if loss:
        window = max(3, len(loss) // 10) | 1
        series = [
            Series("each step" if len(loss) <= MOST_POINTS else "means", loss, "faint", dots=len(loss) < 30),
            Series(f"moving average of {window}", smoothed(loss, window), 0),
        ]
        charts.append(line_chart("loss", f"{name}: training loss", series, y_label="loss", steps=steps))
    splits, deciding = record.log.metrics.get(name, {}), record.selection_split
    metric = _selecting(record, name, splits.get(deciding, {}))
    if metric is not None:
        series = [
            Series(split, values[metric], i, dots=len(values[metric]) < 40)
            for i, (split, values) in enumerate(splits.items())
            if metric in values
        ]
        guess = record.results.get("baselines", {}).get(name, {}).get(deciding, {}).get(metric)
        best_step = record.results.get("best_steps", {}).get(name)
        best = next((point for point in splits[deciding][metric] if point[0] == best_step), None)
        chart = line_chart(
            "metric",
            f"{name}: {metric} at each evaluation",
            series[:4],
            y_label=metric,
            steps=steps,
            reference=None if guess is None else ("baseline", guess),
            best=best,
        )
        charts.append(chart)
    drawn = place.draw(*charts) if charts else element("p", "No training log.", class_="note")
    return group(place.heading("Learning curves", below=1), drawn)


def _selecting(record: RunRecord, name: str, metrics: Mapping[str, Any]) -> str | None:
    if record.run and name in record.run.tasks and record.run.tasks[name].metrics[0] in metrics:
        return record.run.tasks[name].metrics[0]
    return next((metric for metric in metrics if metric not in COUNTS), None)


def _regularizers(record: RunRecord, name: str, place: Place) -> Html | None:
    """Telemetry of R_s and D, if there is any."""
    terms = record.log.terms.get(name, {})
    charts, rows = [], []
    for key, title, labels, axis, log in TELEMETRY:
        present = [(term, label) for term, label in labels.items() if terms.get(term)]
        if not present:
            continue
        series = [Series(label, thinned(terms[term]), i) for i, (term, label) in enumerate(present)]
        steps = record.results["planned_steps"]
        charts.append(line_chart(key, f"{name}: {title}", series, y_label=axis, steps=steps, log=log))
        for term, label in present:
            values = np.array([value for _, value in terms[term]])
            finite = values[np.isfinite(values)]
            if len(finite):
                numbers = (finite.mean(), np.median(finite), finite[-1])
                rows.append((f"{title}: {label}", f"{len(finite):,}", *(f"{float(n):.3g}" for n in numbers)))
    if not charts:
        return None
    header = ("term", "steps", "mean", "median", "last")
    return group(
        place.heading("Regularizers", below=1),
        place.draw(*charts),
        data_table(f"{name}: regularizers over the run", header, rows),
    )


def _predicted(name: str, labelled: LabelledPredictions, place: Place) -> Html:
    if labelled.task.type == "classification":
        return _confusion_table(labelled)
    if labelled.task.type == "regression":
        points = list(zip(labelled.labels.tolist(), labelled.predictions.outputs.tolist(), strict=True))
        return place.draw(scatter_chart("scatter", f"{name}: predicted against true", points))
    ranks = first_ranks(labelled)
    numbers = Counter(ranks.tolist())
    bars = [(str(rank), numbers[rank]) for rank in range(1, RANKS + 1)]
    bars += [(f">{RANKS}", int((ranks > RANKS).sum())), ("none", numbers[0])]
    label = "rank of the first relevant candidate (none: there is none)"
    return place.draw(bar_chart("ranks", f"{name}: queries by first relevant rank", bars, x_label=label))


def _confusion_table(labelled: LabelledPredictions) -> Html:
    counts, labels = confusion(labelled), labelled.task.labels
    if len(labels) > MOST_CLASSES:
        wrong = counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong.ravel(), kind="stable")[:MOST_CONFUSIONS]
        pairs = [(divmod(int(cell), len(labels)), int(wrong.ravel()[cell])) for cell in order]
        rows = [(labels[true], labels[predicted], f"{n:,}") for (true, predicted), n in pairs if n]
        return data_table("Most frequent confusions", ("true", "predicted", "rows"), rows, titles=2)
    head = element(
        "tr",
        element("th", "true ↓ predicted →", scope="col"),
        [element("th", element("bdi", label), scope="col") for label in labels],
        element("th", "recall", scope="col"),
    )
    body = []
    for true, label in enumerate(labels):
        whole = int(counts[true].sum())
        cells = [
            element(
                "td",
                f"{int(count):,}",
                class_="hit" if true == predicted else "miss",
                style=f"--share:{int(count) / max(whole, 1):.3f}",
            )
            for predicted, count in enumerate(counts[true])
        ]
        share = f"{counts[true, true] / whole:.1%}" if whole else "–"
        body.append(element("tr", element("th", element("bdi", label), scope="row"), cells, element("td", share)))
    precision = [f"{counts[i, i] / total:.1%}" if (total := counts[:, i].sum()) else "–" for i in range(len(labels))]
    foot = element("tr", element("th", "precision", scope="row"), [element("td", p) for p in precision], element("td"))
    caption = "Confusion matrix: rows of each true class (down) by predicted class (across), coloured by share"
    table = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", body),
        element("tfoot", foot),
        class_="confusion",
    )
    return element("div", table, class_="scroll", role="region", aria_label="Confusion matrix", tabindex=0)


def _examples(labelled: LabelledPredictions, kind: str, place: Place) -> Html | None:
    """The hardest examples with their texts."""
    found = hardest(labelled)
    if not found:
        return None
    rows = texts(labelled, {row for example in found for row in example.rows})
    return group(
        place.heading(f"The {len(found)} hardest {kind} examples", below=1),
        element("p", "Rows are counted from 0, as in the predictions.", class_="muted"),
        element("ol", [element("li", _example(example, rows, labelled)) for example in found], class_="hard"),
    )


def _example(example: HardExample, rows: Mapping[int, Row], labelled: LabelledPredictions) -> Html:
    facts = element(
        "p",
        [group(element("span", f"{key}: "), element("bdi", value), " ") for key, value in example.facts],
        element("span", f"(row {', '.join(f'{row:,}' for row in dict.fromkeys(example.rows))})", class_="muted"),
        class_="facts",
    )
    columns = labelled.task.data.columns
    first = rows[example.rows[0]]
    if labelled.task.type != "ranking":
        return group(facts, _text(columns.text_a, first.text_a), _text(columns.text_b, first.text_b))
    top = rows[example.rows[1]]
    if columns.text_b is None:
        shown = [_text("first relevant", first.text_a), _text("ranked first", top.text_a)]
    else:
        shown = [
            _text(columns.text_a, first.text_a),
            _text("first relevant", first.text_b),
            _text("ranked first", top.text_b),
        ]
    return group(facts, shown)


def _text(label: str | None, text: str | None) -> Html | None:
    if label is None or text is None:
        return None
    more = None
    if len(text) > LONGEST_TEXT:
        more = element("span", f" … ({len(text):,} characters in all)", class_="muted")
        text = text[:LONGEST_TEXT]
    return element("p", element("span", f"{label} ", class_="muted"), element("bdi", text), more, class_="text")


@dataclass(frozen=True)
class Result:
    """One metric of a split: at the task's best step, for the baseline, and at the last evaluation."""

    task: str
    split: str
    metric: str
    value: float | None
    interval: Sequence[float] | None
    baseline: float | None
    last: float | None
    rows: str

    @property
    def place(self) -> str:
        return self.task if self.split == "validation" else f"{self.task} ({self.split})"

    def cells(self) -> tuple[str, ...]:
        numbers = number(self.value), interval(self.interval), number(self.baseline), number(self.last)
        return self.place, self.metric, *numbers, self.rows


def results_of(results: Mapping[str, Any], spread: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """Every metric of a run's results; `spread` has the intervals by task and split."""
    found = []
    for name, splits in results["tasks"].items():
        for split, values in splits.items():
            counts = [f"{values[count]:,} {words}" for count, words in COUNTS.items() if values.get(count) is not None]
            for metric, value in values.items():
                if metric not in COUNTS:
                    base, last = (
                        results.get(key, {}).get(name, {}).get(split, {}).get(metric) for key in ("baselines", "last")
                    )
                    bounds = spread.get(name, {}).get(split, {}).get(metric)
                    found.append(Result(name, split, metric, value, bounds, base, last, ", ".join(counts)))
    return found
