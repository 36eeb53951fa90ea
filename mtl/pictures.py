"""Charts as PNG files: renders the marks of `drawing` with Pillow, a dependency of TensorBoard."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtl.drawing import FONT, WIDTH, Box, Chart, Dot, Line, Words
from mtl.files import new_bytes
from mtl.markup import visible

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SCALE = 2  # pixels in the file per pixel of the drawing
FINER = 2  # supersampling factor, for smooth edges
TITLE = 22.0  # height of the title above the drawing


def _mixed(colour: tuple[int, int, int], share: float) -> str:
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in colour)


# Style → colour, line width and dash pattern; the same as the light colours of report.css.
STYLES: dict[str, tuple[str, float, tuple[float, ...]]] = {
    "grid": ("#dedee4", 1, ()),
    "axis": ("#56565e", 1, ()),
    "s0": ("#0072b2", 2, ()),
    "s1": ("#c04a00", 2, (6, 3)),
    "s2": ("#00795a", 2, (2, 3)),
    "s3": ("#9a4a83", 2, (8, 3, 2, 3)),
    "faint": ("#a8a8ae", 1, ()),
    "reference": ("#56565e", 1.5, (5, 4)),
    "interval": ("#0072b2", 2, ()),
    "baseline": ("#1b1b1f", 1.5, ()),
    "ring": ("#c04a00", 2, ()),
    "cloud": ("#6fafd5", 1, ()),
    "words": ("#1b1b1f", 1, ()),
    "muted": ("#56565e", 1, ()),
}
# Cells of heat maps: the colours of hits and misses in report.css, mixed with white in shares of 12, 24, 36 and 48 %.
STYLES |= {f"with{n}": (_mixed((0x00, 0x72, 0xB2), 0.12 * n), 1, ()) for n in range(1, 5)}
STYLES |= {f"against{n}": (_mixed((0xD5, 0x5E, 0x00), 0.12 * n), 1, ()) for n in range(1, 5)}
STYLES |= {"neither": ("#f3f3f6", 1, ()), "same": ("#dedee4", 1, ())}
HOLLOW = ("ring", "baseline")


def write_png(chart: Chart, path: Path) -> None:
    """Writes a chart as a PNG file, `SCALE` times as large as on the page."""
    with new_bytes(path) as file:
        file.write(png(chart))


def png(chart: Chart) -> bytes:
    """A chart with its title, as PNG data."""
    buffer = io.BytesIO()
    _drawn(chart).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(chart: Chart) -> npt.NDArray[np.uint8]:
    """A chart with its title, as RGB pixels, (height, width, 3)."""
    return np.asarray(_drawn(chart))


def _drawn(chart: Chart) -> Image:
    from PIL import Image, ImageDraw

    factor = SCALE * FINER
    size = round(WIDTH * factor), round((chart.height + TITLE) * factor)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    _write(draw, Words(8, 14 - TITLE, chart.title), factor)
    for mark in chart.marks:
        if isinstance(mark, Words):
            _write(draw, mark, factor)
        elif isinstance(mark, Line):
            _line(draw, mark, factor)
        else:
            _shape(draw, mark, factor)
    return image.resize((size[0] // FINER, size[1] // FINER), Image.Resampling.LANCZOS)


def _at(x: float, y: float, factor: float) -> tuple[float, float]:
    return x * factor, (y + TITLE) * factor


def _write(draw: ImageDraw, mark: Words, factor: float) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(FONT * factor)
    colour, text = STYLES[mark.style][0], visible(mark.text).replace("\n", " ")
    anchor = {"start": "l", "middle": "m", "end": "r"}[mark.anchor] + "s"
    draw.text(_at(mark.x, mark.y, factor), text, fill=colour, font=font, anchor=anchor)


def _line(draw: ImageDraw, mark: Line, factor: float) -> None:
    colour, width, dashes = STYLES[mark.style]
    points = [_at(x, y, factor) for x, y in mark.points]
    for piece in _dashed(points, [dash * factor for dash in dashes]) if dashes else [points]:
        draw.line(piece, fill=colour, width=round(width * factor), joint="curve")


def _dashed(points: list[tuple[float, float]], dashes: list[float]) -> list[list[tuple[float, float]]]:
    """The visible pieces of a dashed line; `dashes` are alternating lengths of dashes and gaps."""
    pieces: list[list[tuple[float, float]]] = [[points[0]]]
    index, left = 0, dashes[0]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        done = 0.0
        while length - done > left:
            done += left
            here = x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length
            if index % 2 == 0:
                pieces[-1].append(here)
            else:
                pieces.append([here])
            index += 1
            left = dashes[index % len(dashes)]
        left -= length - done
        if index % 2 == 0:
            pieces[-1].append((x1, y1))
    return [piece for piece in pieces if len(piece) > 1]


def _shape(draw: ImageDraw, mark: Box | Dot, factor: float) -> None:
    colour = STYLES[mark.style][0]
    if isinstance(mark, Box):
        far = _at(mark.x + mark.width, mark.y + mark.height, factor)
        draw.rectangle((*_at(mark.x, mark.y, factor), *far), fill=colour)
        return
    fill, width = ("white" if mark.diamond else None, round(1.5 * factor)) if mark.style in HOLLOW else (colour, 0)
    x, y, r = *_at(mark.x, mark.y, factor), mark.radius * factor
    if mark.diamond:
        draw.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=fill, outline=colour, width=width)
    else:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=colour, width=width)
