"""Line charts as PNGs: a few panels with axes and legends, on white."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 480, 340  # of a panel
LEFT, TOP, RIGHT, BOTTOM = 56, 58, 16, 46  # margins of its axes
SCALE = 3  # it is drawn so many times as large and reduced, for smooth lines
TEXT, FAINT = "#222222", "#dddddd"
Point = tuple[float, float]


class Line(NamedTuple):
    """A line in a panel.

    Args:
        name: What the legend says.
        x: Places along the horizontal axis, ascending.
        y: As many values.
        colour: ``#rrggbb``.
        dashes: Pixels that are drawn and left out in turn; empty for a whole line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashes: tuple[float, ...] = ()


class Panel(NamedTuple):
    """Lines on common axes; the horizontal one begins at 0.

    Args:
        title: What the vertical axis shows.
        below: What the horizontal axis shows.
        lines: What is drawn.
        between: Ends of the vertical axis; by default those of the values, and 0.
    """

    title: str
    below: str
    lines: list[Line]
    between: tuple[float, float] | None = None


def save_chart(panels: list[Panel], columns: int, path: Path) -> None:
    """Draw panels in rows of ``columns`` and write them as one PNG.

    Raises:
        ValueError: A panel has no value to draw, or one that is not finite.
    """
    for panel in panels:
        values = [value for line in panel.lines for value in (*line.x, *line.y)]
        if not values or not all(map(math.isfinite, values)):
            raise ValueError(f"the panel {panel.title!r} needs values to draw, all finite; got {values}")
    rows = math.ceil(len(panels) / columns)
    image = Image.new("RGB", (columns * WIDTH * SCALE, rows * HEIGHT * SCALE), "white")
    for number, panel in enumerate(panels):
        draw_panel(Pen(image, number % columns * WIDTH, number // columns * HEIGHT), panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.reduce(SCALE).quantize(256).save(path, optimize=True)


class Pen:
    """Draws on a large image in the pixels of the one that it will be reduced to.

    Args:
        image: The large image.
        left: Where the panel begins.
        top: Where the panel begins.
    """

    def __init__(self, image: Image.Image, left: float, top: float) -> None:
        self.draw, self.left, self.top = ImageDraw.Draw(image), left, top

    def at(self, point: Point) -> Point:
        return (point[0] + self.left) * SCALE, (point[1] + self.top) * SCALE

    def line(self, points: Sequence[Point], colour: str, width: float) -> None:
        self.draw.line([self.at(p) for p in points], colour, round(width * SCALE), "curve")

    def text(self, place: Point, words: str, anchor: str, size: float = 12) -> float:
        """Write; ``anchor`` is Pillow's. Returns the width of the words."""
        font = ImageFont.load_default(size * SCALE)
        self.draw.text(self.at(place), words, TEXT, font, anchor)
        return font.getlength(words) / SCALE


def draw_panel(pen: Pen, panel: Panel) -> None:
    """Draw one panel: title, legend, grid, axes and lines."""
    values = [y for line in panel.lines for y in line.y]
    low, high = panel.between or (min(0.0, *values), max(0.0, *values))
    last = max(x for line in panel.lines for x in line.x)
    across, up = ticks(0, last), ticks(low, high)
    low, high, last = min(low, up[0]), max(high, up[-1]), max(last, across[-1])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> Point:
        return LEFT + x / last * (right - LEFT), bottom - (y - low) / (high - low) * (bottom - TOP)

    pen.text((LEFT, 16), panel.title, "lm", 14)
    pen.text(((LEFT + right) / 2, HEIGHT - 12), panel.below, "mm")
    for y in up:
        pen.line([place(0, y), place(last, y)], TEXT if y == 0 else FAINT, 1)
        pen.text((LEFT - 6, place(0, y)[1]), short(y), "rm")
    for x in across:
        pen.line([place(x, low), place(x, high)], TEXT if x == 0 else FAINT, 1)
        pen.text((place(x, low)[0], bottom + 12), short(x), "mm")
    at = float(LEFT)
    for line in panel.lines:
        draw_line(pen, [(at, 40), (at + 26, 40)], line)
        at += 32 + pen.text((at + 32, 40), line.name, "lm") + 16
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        draw_line(pen, points, line)
        for x, y in points if not line.dashes else ():
            pen.line([(x - 2, y), (x + 2, y)], line.colour, 4)


def draw_line(pen: Pen, points: list[Point], line: Line) -> None:
    """Draw through points, whole or dashed."""
    for piece in dashed(points, line.dashes) if line.dashes else [points]:
        pen.line(piece, line.colour, 2)


def dashed(points: Sequence[Point], dashes: tuple[float, ...]) -> Iterator[list[Point]]:
    """Cut a line into its dashes; the pattern runs on around corners."""
    number, left = 0, dashes[0]
    for (x, y), (to_x, to_y) in pairwise(points):
        length, gone = math.hypot(to_x - x, to_y - y), 0.0
        while gone < length:
            step = min(left, length - gone)
            if number % 2 == 0:
                ends = (gone / length, (gone + step) / length)
                yield [(x + share * (to_x - x), y + share * (to_y - y)) for share in ends]
            gone, left = gone + step, left - step
            if left <= 0:
                number += 1
                left = dashes[number % len(dashes)]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers that reach from ``low`` or below to ``high`` or above, about ``most`` of them."""
    high = high if high > low else low + 1
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """Write a number as it stands beside an axis: ``50k``, ``0.2``."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
