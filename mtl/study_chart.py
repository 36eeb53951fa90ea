"""Chart of a study as SVG: one row per arm, with a dot for every seed, the mean and its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtl.charts import round_step
from mtl.markup import Html, element, group, style_sheet

WIDTH, LEFT, RIGHT, ROW, HEAD, FOOT, GAP = 860, 176, 280, 26, 30, 26, 14  # pixels
WORDS = WIDTH - RIGHT + 14  # x of the column of means
TICKS = 5
# Based on Okabe and Ito's blue and vermilion, which colour-blind readers can distinguish; lighter in dark mode.
STYLE = """\
.c{font:13px system-ui,sans-serif;fill:#1b1b1b}.c .t{font-weight:600}.c .s{fill:#5c5c5c;font-size:12px}
.c .g{stroke:#d8d8d8}.c .r{stroke:#777;stroke-dasharray:4 3}.c .d{fill:#0072b2;fill-opacity:.45}
.c .i{stroke:#b34700;stroke-width:2.5}.c .m{fill:#b34700}.c .b{fill:#fff}
@media (prefers-color-scheme:dark){.c{fill:#ececec}.c .s{fill:#b0b0b0}.c .g{stroke:#3c3c3c}.c .r{stroke:#9a9a9a}
.c .d{fill:#56b4e9;fill-opacity:.55}.c .i{stroke:#ff9d5c}.c .m{fill:#ff9d5c}.c .b{fill:#1b1b1b}}
"""


def draw(groups: Sequence[Mapping[str, Any]], title: str) -> Html:
    """Draws one panel per task and training size.

    Args:
        groups: Panels, as in a summary: `title`, and `arms`, name → `values` (one per seed), `mean`, `t` and, except
            for the first arm, `difference` with `mean` and `t`.
        title: Title of the chart.

    Returns:
        A self-contained SVG.
    """
    parts, top = list[Html](), 34
    for facts in groups:
        parts.append(_panel(facts, top))
        top += HEAD + ROW * len(facts["arms"]) + FOOT + GAP
    return element(
        "svg",
        style_sheet(STYLE),
        element("rect", class_="b", width=WIDTH, height=top),
        _text(12, 22, title, "t"),
        parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {top:g}",
        width=WIDTH,
        height=top,
        class_="c",
        role="img",
        aria_label=title,
    )


def _panel(facts: Mapping[str, Any], top: float) -> Html:
    arms = facts["arms"]
    shown = [v for arm in arms.values() for v in (*arm["values"], *(arm["t"] or ()))]
    ticks = nice_ticks(min(shown), max(shown)) if shown else [0.0, 1.0]
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    begin, end = top + HEAD, top + HEAD + ROW * len(arms)
    digits = max(0, math.ceil(-math.log10(ticks[1] - ticks[0]) - 1e-9))
    parts = [_text(12, top + 18, facts["title"]), _text(WORDS, top + 18, "mean (difference, 95 %)", "s")]
    for tick in ticks:
        parts.append(_line(x(tick), begin, x(tick), end, "g"))
        parts.append(_text(x(tick), end + 16, f"{tick:.{digits}f}", "s", anchor="middle"))
    first = next(iter(arms.values()))
    if first["mean"] is not None:
        parts.append(_line(x(first["mean"]), begin, x(first["mean"]), end, "r"))
    for index, (name, arm) in enumerate(arms.items()):
        parts.append(_row(name, arm, begin + ROW * (index + 0.5), x))
    return group(parts)


def _row(name: str, arm: Mapping[str, Any], y: float, x: Callable[[float], float]) -> Html:
    parts = [_text(12, y + 4, name if len(name) <= 20 else f"{name[:19]}…")]
    for value in arm["values"]:
        told = element("title", f"{value:.4f}")
        parts.append(element("circle", told, class_="d", cx=_n(x(value)), cy=_n(y - 4), r=4))
    if arm["t"] is not None:
        lower, upper = (x(bound) for bound in arm["t"])
        parts.append(_line(lower, y + 5, upper, y + 5, "i"))
    if arm["mean"] is not None:
        parts.append(element("rect", class_="m", x=_n(x(arm["mean"]) - 1.5), y=_n(y), width=3, height=10))
        parts.append(_text(WORDS, y + 4, _words(arm), "s"))
    return group(parts)


def _text(x: float, y: float, words: str, style: str | None = None, anchor: str | None = None) -> Html:
    return element("text", words, class_=style, x=_n(x), y=_n(y), text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Html:
    return element("line", class_=style, x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2))


def _n(value: float) -> str:
    return f"{value:.1f}"


def _words(arm: Mapping[str, Any]) -> str:
    text, difference = f"{arm['mean']:.4f}", arm.get("difference")
    if difference is None or difference["mean"] is None:
        return text
    text += f"  ({_signed(difference['mean'])}"
    if difference["t"] is not None:
        text += f", {_signed(difference['t'][0])} to {_signed(difference['t'][1])}"
    return text + ")"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def nice_ticks(low: float, high: float) -> list[float]:
    """About `TICKS` round numbers, the first and last of which enclose the range from `low` to `high`."""
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * max(1.0, size) else 0.1 * max(1.0, size)
    low, high = low - 0.02 * span, high + 0.02 * span
    step = round_step(high - low, TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]
