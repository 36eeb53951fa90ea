"""Charts as lists of marks, computed from numbers and rendered by `drawing.svg` and `pictures.png`.

All charts are `WIDTH` wide, so that a page can place them side by side or, on a phone, below each other, without
scaling the text. Series differ in colour and in dash pattern. Lengths are in pixels of the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mtl.drawing import WIDTH, Box, Chart, Dot, Line, Mark, Point, Words, fit, width_of

HEIGHT = 220.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 14.0, 22.0, 34.0
SERIES = 4  # styles s0 to s3
MOST_DOTS = 1500
SLOTS = 120  # columns of a strip chart


@dataclass(frozen=True)
class Series:
    """Values over steps.

    Attributes:
        label: Label in the legend.
        points: (x, y); points whose y is not finite are omitted.
        style: Index of a series style, or the name of a style.
        dots: Whether to mark each point.
    """

    label: str
    points: Sequence[Point]
    style: int | str = 0
    dots: bool = False

    @property
    def named(self) -> str:
        return f"s{self.style % SERIES}" if isinstance(self.style, int) else self.style


@dataclass
class _Axes:
    """Maps values to positions in the drawing, and collects its marks, first those of the axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = HEIGHT
    log: bool = False
    left: float = LEFT
    marks: list[Mark] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        low, high = self.y
        if self.log:
            y, low, high = math.log10(y), math.log10(low), math.log10(high)
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - low) / (high - low)
        return self.left + across * (WIDTH - self.left - RIGHT), self.height - BOTTOM - up * (
            self.height - TOP - BOTTOM
        )

    def frame(self, x_label: str, y_label: str, *, whole: bool = False) -> None:
        for tick in _powers(*self.y) if self.log else ticks(*self.y):
            x, y = self.at(self.x[0], tick)
            self.marks.append(Line(((x, y), (WIDTH - RIGHT, y)), "grid"))
            self.marks.append(Words(self.left - 5, y + 4, short(tick), "end"))
        for tick in ticks(*self.x):
            if whole and tick != int(tick):
                continue
            x, y = self.at(tick, self.y[0])
            self.marks.append(Line(((x, y), (x, y + 4)), "axis"))
            self.marks.append(Words(x, y + 15, short(tick), "middle"))
        corner = self.at(self.x[0], self.y[0])
        self.marks.append(Line((corner, (WIDTH - RIGHT, corner[1])), "axis"))
        self.marks.append(Words((self.left + WIDTH - RIGHT) / 2, self.height - 4, x_label, "middle", "muted"))
        self.marks.append(Words(2, 11, y_label, "start", "muted"))


def short(value: float) -> str:
    """A number in few characters: 0.25, 1,200, 15k, 3e-8."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.0f}" if size >= 1e3 else f"{value:.3g}"


def round_step(span: float, about: int) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that divides a span into at most `about` steps."""
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """About `about` round numbers between two bounds."""
    step = round_step(high - low, about)
    first = math.ceil(low / step - 1e-9)
    return [0.0 if n == 0 else float(f"{n * step:.12g}") for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**n for n in range(first, last + 1, max(1, (last - first) // 4))]


def _bounds(values: Iterable[float]) -> tuple[float, float]:
    """The range of some values with a margin of 5 %; never empty."""
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    size = max(abs(low), abs(high), 1e-12)
    air = (high - low if high - low > 1e-3 * size else size) * 0.05  # differences of rounding count as equal
    return low - air, high + air


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    steps: int,
    log: bool = False,
    reference: tuple[str, float] | None = None,
    best: Point | None = None,
) -> Chart:
    """Values over the steps of a run.

    Args:
        name: Used in file names and ids.
        title: Title of the chart.
        series: At most `SERIES` series.
        y_label: Label of the vertical axis.
        steps: End of the horizontal axis.
        log: Whether the vertical axis is logarithmic; values ≤ 0 are then omitted.
        reference: Label and value of a horizontal reference line.
        best: The best point, which is marked.
    """

    def shown(value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not log)

    kept = [Series(s.label, [p for p in s.points if shown(p[1])], s.style, s.dots) for s in series]
    values = [y for s in kept for _, y in s.points] + ([reference[1]] if reference else [])
    if log:
        low, high = min(values, default=1.0), max(values, default=10.0)
        bounds = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9)
        bounds = bounds if bounds[0] < bounds[1] else (bounds[0], bounds[0] * 10)
    else:
        bounds = _bounds(values)
    axes = _Axes((0.0, float(max(steps, 1))), bounds, log=log)
    axes.frame("step", y_label, whole=True)
    for s in kept:
        points = tuple(axes.at(*point) for point in s.points)
        if len(points) > 1:
            axes.marks.append(Line(points, s.named))
        if s.dots or len(points) == 1:
            axes.marks += [Dot(x, y, 3, s.named) for x, y in points]
    legend = [(s.label, s.named) for s in kept]
    if reference:
        ends = [axes.at(x, reference[1]) for x in axes.x]
        axes.marks.append(Line((ends[0], ends[1]), "reference"))
        legend.append((reference[0], "reference"))
    if best and shown(best[1]):
        axes.marks.append(Dot(*axes.at(*best), 5.5, "ring"))
        legend.append((f"best: {short(best[1])} at step {best[0]:,.0f}", "ring"))
    keys, height = _legend(legend, axes.height)
    told = "; ".join(_in_words(s) for s in kept)
    more = f"; {reference[0]}: {short(reference[1])}" if reference else ""
    return Chart(name, title, f"{y_label} over {steps:,} steps. {told}{more}.", height, (*axes.marks, *keys))


def _in_words(series: Series) -> str:
    values = [y for _, y in series.points]
    if not values:
        return f"{series.label}: nothing to show"
    first, last, low, high = map(short, (values[0], values[-1], min(values), max(values)))
    return f"{series.label}: first {first}, last {last}, lowest {low}, highest {high}"


def _legend(entries: Sequence[tuple[str, str]], top: float) -> tuple[list[Mark], float]:
    """The marks of a legend below a drawing, and the y at which it ends."""
    marks: list[Mark] = []
    x, y = 8.0, top + 14
    for label, style in entries:
        label = fit(label, WIDTH - 50)
        needed = 26 + width_of(label) + 12
        if x > 8 and x + needed > WIDTH:
            x, y = 8.0, y + 16
        if style in ("ring", "interval", "baseline"):
            marks.append(Dot(x + 10, y - 4, 5 if style == "ring" else 4, style, diamond=style == "baseline"))
        else:
            marks.append(Line(((x, y - 4), (x + 20, y - 4)), style))
        marks.append(Words(x + 26, y, label))
        x += needed
    return marks, y + 8


@dataclass(frozen=True)
class Measured:
    """A value with its interval and baseline."""

    label: str
    value: float
    interval: tuple[float, float] | None
    baseline: float | None


def forest_chart(name: str, title: str, rows: Sequence[Measured]) -> Chart:
    """Forest plot: values with intervals and baselines, one below the other on a common axis."""
    numbers = [n for r in rows for n in (r.value, *(r.interval or ()), *([] if r.baseline is None else [r.baseline]))]
    finite = [n for n in numbers if math.isfinite(n)]
    bounds = min([0.0, *finite]), max([1.0, *finite])
    height = 34 * len(rows) + BOTTOM
    axes = _Axes(bounds, (0.0, 1.0), height=height, left=RIGHT)
    for tick in ticks(*bounds):
        x, floor = axes.at(tick, 0.0)
        axes.marks.append(Line(((x, 0.0), (x, floor)), "grid"))
        axes.marks.append(Words(x, floor + 15, short(tick), "middle"))
    told = []
    for number, row in enumerate(rows):
        y = 34 * number + 24
        axes.marks.append(Words(RIGHT, y - 10, fit(row.label, WIDTH - 2 * RIGHT)))
        if row.baseline is not None and math.isfinite(row.baseline):
            axes.marks.append(Dot(axes.at(row.baseline, 0)[0], y, 4.5, "baseline", diamond=True))
        if row.interval and all(map(math.isfinite, row.interval)):
            low, high = (axes.at(end, 0)[0] for end in row.interval)
            axes.marks.append(Line(((low, y), (high, y)), "interval"))
            axes.marks += [Line(((x, y - 4), (x, y + 4)), "interval") for x in (low, high)]
        if math.isfinite(row.value):
            axes.marks.append(Dot(axes.at(row.value, 0)[0], y, 4, "interval"))
        spread = f" ({short(row.interval[0])} to {short(row.interval[1])})" if row.interval else ""
        against = "" if row.baseline is None else f", baseline {short(row.baseline)}"
        told.append(f"{row.label}: {short(row.value)}{spread}{against}")
    keys, height = _legend([("value and 95 % interval", "interval"), ("baseline", "baseline")], height - 8)
    return Chart(name, title, "; ".join(told) + ".", height, (*axes.marks, *keys))


def strip_chart(name: str, title: str, tasks: Sequence[str], done: Sequence[tuple[int, int]], steps: int) -> Chart:
    """When each task was trained: one lane per task; the height of a bar is the task's share of the steps there.

    Args:
        name: Used in file names and ids.
        title: Title of the chart.
        tasks: Names of the tasks.
        done: (step from 1, index of the task) of every step.
        steps: End of the horizontal axis.
    """
    steps = max(steps, 1)
    slots = min(SLOTS, steps)
    counts = [[0] * slots for _ in tasks]
    whole = [0] * slots
    for step, task in done:
        slot = min((step - 1) * slots // steps, slots - 1)
        counts[task][slot] += 1
        whole[slot] += 1
    height = 34 * len(tasks) + BOTTOM
    axes = _Axes((0.0, float(steps)), (0.0, 1.0), height=height, left=RIGHT)
    told = []
    for lane, label in enumerate(tasks):
        floor = 34 * lane + 33
        axes.marks.append(Words(RIGHT, floor - 21, fit(label, WIDTH - 2 * RIGHT)))
        axes.marks.append(Line(((RIGHT, floor), (WIDTH - RIGHT, floor)), "grid"))
        for slot, count in enumerate(counts[lane]):
            if count:
                left, right = (axes.at(steps * edge / slots, 0)[0] for edge in (slot, slot + 1))
                tall = 15 * count / whole[slot]
                axes.marks.append(Box(left, floor - tall, right - left, tall, f"s{lane % SERIES}"))
        told.append(f"{label}: {sum(counts[lane]):,} steps")
    for tick in ticks(0.0, steps):
        if tick == int(tick):
            x = axes.at(tick, 0)[0]
            axes.marks.append(Words(x, height - BOTTOM + 17, short(tick), "middle"))
    axes.marks.append(Words(WIDTH / 2, height - 2, "step", "middle", "muted"))
    return Chart(name, title, "; ".join(told) + ".", height + 4, tuple(axes.marks))


def scatter_chart(name: str, title: str, points: Sequence[Point]) -> Chart:
    """Scatter plot of predictions (y) against true values (x), with the diagonal.

    With more than `MOST_DOTS` points, only every n-th is drawn.
    """
    every = max(1, -(-len(points) // MOST_DOTS))
    xs, ys = _bounds(x for x, _ in points), _bounds(y for _, y in points)
    axes = _Axes(xs, ys, height=300.0)
    axes.frame("true", "predicted")
    low, high = max(xs[0], ys[0]), min(xs[1], ys[1])
    legend = [(f"one row{f' of {every}' if every > 1 else ''}", "interval")]
    if low < high:
        axes.marks.append(Line((axes.at(low, low), axes.at(high, high)), "reference"))
        legend.append(("predicted = true", "reference"))
    axes.marks += [Dot(*axes.at(*point), 2.2, "cloud") for point in points[::every]]
    keys, height = _legend(legend, axes.height)
    values = (("true", [x for x, _ in points]), ("predicted", [y for _, y in points]))
    spans = [f"{what} {short(min(found))} to {short(max(found))}" for what, found in values if found]
    told = ", ".join([f"{len(points):,} rows", *spans])
    return Chart(name, title, f"{told}.", height, (*axes.marks, *keys))


def bar_chart(name: str, title: str, bars: Sequence[tuple[str, int]], *, x_label: str) -> Chart:
    """Bar chart of counts, with the number above each bar."""
    highest = max([1, *(count for _, count in bars)])
    axes = _Axes((0.0, float(len(bars))), (0.0, highest * 1.12))
    for tick in ticks(0.0, highest):
        if tick == int(tick):
            x, y = axes.at(0, tick)
            axes.marks.append(Line(((x, y), (WIDTH - RIGHT, y)), "grid"))
            axes.marks.append(Words(LEFT - 5, y + 4, short(tick), "end"))
    for number, (label, count) in enumerate(bars):
        (left, top), (right, floor) = axes.at(number + 0.12, count), axes.at(number + 0.88, 0)
        axes.marks.append(Box(left, top, right - left, floor - top, "s0"))
        room = (right - left) / 0.76
        axes.marks.append(Words((left + right) / 2, floor + 14, fit(label, room + 4), "middle"))
        if count:
            axes.marks.append(Words((left + right) / 2, top - 3, fit(short(count), room + 4), "middle"))
    axes.marks.append(Words((LEFT + WIDTH - RIGHT) / 2, axes.height - 4, x_label, "middle", "muted"))
    told = "; ".join(f"{label}: {count:,}" for label, count in bars)
    return Chart(name, title, f"{told}.", axes.height, tuple(axes.marks))
