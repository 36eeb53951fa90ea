"""Charts as lists of marks, and their rendering as inline SVG. `pictures` renders the same marks as PNG.

Lengths are in pixels of a drawing `WIDTH` wide. A mark's style is a name, defined in the page's style sheet (for SVG)
and in `pictures.STYLES` (for PNG).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mtl.markup import Html, element, visible

Point: TypeAlias = tuple[float, float]

WIDTH = 360.0
FONT = 11
LETTER = 6.4  # width of an average letter in that size, estimated from above


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline; colour, width and dash pattern are part of the style."""

    points: tuple[Point, ...]
    style: str


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    style: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A circle, or a diamond."""

    x: float
    y: float
    radius: float
    style: str
    diamond: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """A text; `anchor` (start, middle, end) is the part of it that is placed at x."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    style: str = "words"


Mark: TypeAlias = "Line | Box | Dot | Words"


@dataclass(frozen=True)
class Chart:
    """A chart with title and description.

    Attributes:
        name: Used in file names and ids: letters, digits, dashes.
        title: Title of the chart.
        description: Its content in words, for screen readers.
        height: Height in pixels.
        marks: Marks from back to front.
    """

    name: str
    title: str
    description: str
    height: float
    marks: tuple[Mark, ...]


def width_of(text: str) -> float:
    """Upper estimate of a text's width in pixels."""
    return sum(FONT + 1 if unicodedata.east_asian_width(c) in "WF" else LETTER for c in text)


def fit(text: str, width: float) -> str:
    """A text with visible escapes, shortened with an ellipsis if it is wider than `width`."""
    text = visible(text)
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - LETTER:
        text = text[:-1]
    return text + "…"


def svg(chart: Chart, place: str) -> Html:
    """An HTML figure with the chart as inline SVG.

    Args:
        chart: The chart.
        place: Prefix that makes its ids unique on the page.
    """
    base = f"{place}-{chart.name}"
    drawn = element(
        "svg",
        element("title", chart.title, id=f"{base}-title"),
        element("desc", chart.description, id=f"{base}-desc"),
        [_DRAW[type(mark)](mark) for mark in chart.marks],
        viewBox=f"0 0 {WIDTH:g} {chart.height:g}",
        role="img",
        aria_labelledby=f"{base}-title",
        aria_describedby=f"{base}-desc",
    )
    return element("figure", element("figcaption", chart.title), drawn, class_="chart")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _line(mark: Line) -> Html:
    return element("polyline", points=" ".join(f"{_n(x)},{_n(y)}" for x, y in mark.points), class_=f"line {mark.style}")


def _box(mark: Box) -> Html:
    sizes = {"x": _n(mark.x), "y": _n(mark.y), "width": _n(mark.width), "height": _n(mark.height)}
    return element("rect", class_=f"fill {mark.style}", **sizes)


def _dot(mark: Dot) -> Html:
    if mark.diamond:
        corners = [(0, -mark.radius), (mark.radius, 0), (0, mark.radius), (-mark.radius, 0)]
        points = " ".join(f"{_n(mark.x + dx)},{_n(mark.y + dy)}" for dx, dy in corners)
        return element("polygon", points=points, class_=f"fill {mark.style}")
    return element("circle", cx=_n(mark.x), cy=_n(mark.y), r=_n(mark.radius), class_=f"fill {mark.style}")


def _words(mark: Words) -> Html:
    options = {"x": _n(mark.x), "y": _n(mark.y), "text_anchor": mark.anchor, "class_": mark.style}
    return element("text", mark.text, **options)


_DRAW: dict[type, Callable[..., Html]] = {Line: _line, Box: _box, Dot: _dot, Words: _words}
