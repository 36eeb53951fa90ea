"""A study as a picture: every seed a dot, every arm a row, with the interval of its mean; hand-made SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, ROW, HEAD, FOOT, GAP = 860, 176, 280, 26, 30, 26, 14  # pixels
TICKS = 5
# Okabe and Ito's blue and vermilion, which colour-blind people tell apart; lighter ones on a dark ground.
STYLE = """
.c{font:13px system-ui,sans-serif;fill:#1b1b1b}.c .t{font-weight:600}.c .s{fill:#5c5c5c;font-size:12px}
.c .g{stroke:#d8d8d8}.c .r{stroke:#777;stroke-dasharray:4 3}.c .d{fill:#0072b2;fill-opacity:.45}
.c .i{stroke:#b34700;stroke-width:2.5}.c .m{fill:#b34700}.c .b{fill:#fff}
@media (prefers-color-scheme:dark){.c{fill:#ececec}.c .s{fill:#b0b0b0}.c .g{stroke:#3c3c3c}.c .r{stroke:#9a9a9a}
.c .d{fill:#56b4e9;fill-opacity:.55}.c .i{stroke:#ff9d5c}.c .m{fill:#ff9d5c}.c .b{fill:#1b1b1b}}
"""


def draw(groups: Sequence[Mapping[str, Any]], title: str) -> str:
    """One panel for each task and size.

    Args:
        groups: As in a summary: `title`, and `arms`, name to `values` (one a seed), `mean`, `t` and, but for the
            first arm, `difference` with `mean` and `t`.
        title: Of the whole picture.

    Returns:
        The SVG, complete by itself.
    """
    parts, top = [], 34
    for group in groups:
        parts.append(_panel(group, top))
        top += HEAD + ROW * len(group["arms"]) + FOOT + GAP
    head = f'<text class="t" x="12" y="22">{escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        f'class="c" role="img" aria-label="{escape(title, quote=True)}"><style>{STYLE}</style>'
        f'<rect class="b" width="{WIDTH}" height="{top}"/>{head}{"".join(parts)}</svg>\n'
    )


def _panel(group: Mapping[str, Any], top: float) -> str:
    arms = group["arms"]
    shown = [v for arm in arms.values() for v in (*arm["values"], *(arm["t"] or ()))]
    ticks = nice_ticks(min(shown), max(shown)) if shown else [0.0, 1.0]
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    begin, end = top + HEAD, top + HEAD + ROW * len(arms)
    digits = max(0, math.ceil(-math.log10(ticks[1] - ticks[0]) - 1e-9))
    out = [f'<text x="12" y="{top + 18}">{escape(group["title"])}</text>']
    out.append(f'<text class="s" x="{WIDTH - RIGHT + 14}" y="{top + 18}">mean (difference, 95 %)</text>')
    for tick in ticks:
        out.append(f'<line class="g" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{begin}" y2="{end}"/>')
        out.append(f'<text class="s" x="{x(tick):.1f}" y="{end + 16}" text-anchor="middle">{tick:.{digits}f}</text>')
    first = next(iter(arms.values()))
    if first["mean"] is not None:
        out.append(f'<line class="r" x1="{x(first["mean"]):.1f}" x2="{x(first["mean"]):.1f}" y1="{begin}" y2="{end}"/>')
    for index, (name, arm) in enumerate(arms.items()):
        out.append(_row(name, arm, begin + ROW * (index + 0.5), x))
    return "".join(out)


def _row(name: str, arm: Mapping[str, Any], y: float, x: Any) -> str:
    short = name if len(name) <= 20 else f"{name[:19]}…"
    out = [f'<text x="12" y="{y + 4:.1f}">{escape(short)}</text>']
    for value in arm["values"]:
        out.append(f'<circle class="d" cx="{x(value):.1f}" cy="{y - 4:.1f}" r="4"><title>{value:.4f}</title></circle>')
    if arm["t"] is not None:
        lower, upper = (x(bound) for bound in arm["t"])
        out.append(f'<line class="i" x1="{lower:.1f}" x2="{upper:.1f}" y1="{y + 5:.1f}" y2="{y + 5:.1f}"/>')
    if arm["mean"] is not None:
        out.append(f'<rect class="m" x="{x(arm["mean"]) - 1.5:.1f}" y="{y:.1f}" width="3" height="10"/>')
        out.append(f'<text class="s" x="{WIDTH - RIGHT + 14}" y="{y + 4:.1f}">{_words(arm)}</text>')
    return "".join(out)


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
    """About `TICKS` round numbers that hold the range between the first and the last of them."""
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * max(1.0, size) else 0.1 * max(1.0, size)
    low, high = low - 0.02 * span, high + 0.02 * span
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]
