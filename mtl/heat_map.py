"""Heat map of a symmetric matrix, such as the gradient cosines of pairs of tasks.

Lengths are in pixels of the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtl.drawing import WIDTH, Box, Chart, Mark, Words, fit

NAMES = 112.0  # width of the names to the left
TOP = 22.0
HIGHEST = 34.0  # height of a cell
WIDE, NARROW = 35.0, 28.0  # minimum widths of a cell for the texts +0.12 and +.12
GAP = 1.0
SHADES = 4


def heat_chart(name: str, title: str, labels: Sequence[str], values: Sequence[Sequence[float | None]]) -> Chart:
    """A symmetric matrix of numbers from −1 to 1; the colour of a cell shows sign and approximate size of its number.

    Args:
        name: Used in file names and ids.
        title: Title of the chart.
        labels: Labels of the rows; columns show the rows' numbers.
        values: The matrix; None for a missing number. The diagonal is taken to be 1 and shown without numbers.
    """
    across = (WIDTH - NAMES - 8) / len(labels)
    high = min(HIGHEST, across)
    marks: list[Mark] = []
    told = []
    for i, label in enumerate(labels):
        y = TOP + i * high
        marks.append(Words(NAMES + (i + 0.5) * across, TOP - 7, str(i + 1), "middle", "muted"))
        marks.append(Words(2, y + high / 2 + 4, fit(f"{i + 1} {label}", NAMES - 6)))
        for j, value in enumerate(values[i]):
            x = NAMES + j * across
            marks.append(Box(x, y, across - GAP, high - GAP, "same" if i == j else shade(value)))
            if i != j and across >= NARROW:
                marks.append(Words(x + across / 2, y + high / 2 + 4, cell_text(value, wide=across >= WIDE), "middle"))
            if j > i:
                told.append(f"{label} and {labels[j]}: {cell_text(value)}")
    keys, height = _key(TOP + len(labels) * high + 10)
    return Chart(name, title, "; ".join(told) + ".", height, (*marks, *keys))


def shade(value: float | None) -> str:
    """The style of a cell: `with1` to `with4`, `against1` to `against4`, or `neither`.

    The level grows with the square root of the size, because most numbers are small.
    """
    level = 0 if value is None else round(SHADES * math.sqrt(abs(value)))
    if value is None or level == 0:
        return "neither"
    return f"{'with' if value > 0 else 'against'}{level}"


def cell_text(value: float | None, *, wide: bool = True) -> str:
    """A number with two decimals and sign: +0.12, −0.03, or without `wide` +.12; 0 if it rounds to zero, – for None."""
    if value is None:
        return "–"
    text = f"{value:+.2f}".replace("-", "−")
    if text in ("+0.00", "−0.00"):
        return "0"
    return text if wide else text.replace("0.", ".", 1)


def _key(top: float) -> tuple[list[Mark], float]:
    """The colour key below the matrix, and the y at which it ends."""
    size = 18.0
    styles = [f"against{n}" for n in range(SHADES, 0, -1)] + ["neither"] + [f"with{n}" for n in range(1, SHADES + 1)]
    left = (WIDTH - size * len(styles)) / 2
    marks: list[Mark] = [Box(left + n * size, top, size - GAP, 12, style) for n, style in enumerate(styles)]
    marks.append(Words(left - 6, top + 10, "against −1", "end"))
    marks.append(Words(WIDTH - left + 6, top + 10, "+1 with"))
    return marks, top + 20
