"""Numbers against numbers, as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .axis import Axis, linear_axis
from .canvas import Canvas, Colour, Point, Theme
from .captions import ascii_text, elided
from .heat_map import SMALL, blended

WIDTH, HEIGHT = 720, 420
"""Pixels of a chart."""

LEFT, RIGHT = 84, 28


class Line(NamedTuple):
    """One line of a chart."""

    points: Sequence[Point]
    """In the chart's own numbers, from left to right; of one alone there is a dot."""
    colour: Colour
    width: int = 2
    dots: bool = False
    """Whether each point is marked."""


def draw_lines(
    canvas: Canvas, at: tuple[int, int], size: tuple[int, int], lines: Sequence[Line], x: Axis, y: Axis
) -> None:
    """Axes with their marks, and lines; later ones lie over earlier ones. at, size: of the plot itself, in pixels."""
    canvas.plot(at, size, [], x.ticks, y.ticks)
    for line in lines:
        places = [(at[0] + x.place(h) * size[0], at[1] + (1 - y.place(v)) * size[1]) for h, v in line.points]
        canvas.line(places, line.colour, line.width)
        for h, v in places if line.dots or len(places) == 1 else ():
            canvas.draw.ellipse((h - 4, v - 4, h + 4, v + 4), fill=line.colour)


def line_chart(
    series: Mapping[str, Sequence[Point]],
    title: str,
    x_label: str,
    y_label: str,
    theme: str = "dark",
    zero: bool = True,
) -> Tensor:
    """Named series of (x, y), each in order of x → (H, W, 3), float32 in 0–1.

    zero: whether the heights begin at 0; the other axis does.
    """
    canvas = Canvas(WIDTH, HEIGHT, theme)
    names = list(series)
    entries = [(name, series_colour(canvas.theme, index)) for index, name in enumerate(names)]
    top, below = draw_legend(Canvas(1, 1, theme), entries, 0, WIDTH), 62
    # The plot keeps its height, whatever the legend takes.
    canvas = Canvas(WIDTH, HEIGHT + top, theme)
    draw_head(canvas, title, y_label)
    top = draw_legend(canvas, entries, 62, WIDTH)
    lines = [Line(series[name], colour, 3, True) for name, colour in entries]
    points = [point for line in lines for point in line.points]
    x, y = linear_axis(point[0] for point in points), linear_axis((point[1] for point in points), zero=zero)
    size = (WIDTH - LEFT - RIGHT, canvas.image.height - top - 14 - below)
    draw_lines(canvas, (LEFT, top + 14), size, lines, x, y)
    canvas.text((LEFT + size[0] / 2, canvas.image.height - 14), ascii_text(x_label), 13, canvas.theme.faint, "ms")
    return canvas.tensor()


def series_colour(theme: Theme, index: int) -> Colour:
    """The theme's series colours, and after them the same again, paler."""
    colours = theme.series
    return blended(colours[index % len(colours)], theme.background, min(0.75, 0.5 * (index // len(colours))))


def draw_head(canvas: Canvas, title: str, y_label: str) -> None:
    """What the chart shows, and beneath it what its heights mean."""
    canvas.text((24, 14), elided(canvas, title, 18, canvas.image.width - 48), 18)
    canvas.text((24, 40), elided(canvas, y_label, 13, canvas.image.width - 48), 13, canvas.theme.faint)


def draw_legend(canvas: Canvas, entries: Sequence[tuple[str, Colour]], top: int, width: int) -> int:
    """Names with their colours, in as many rows as it takes; returns the pixel under the last. A single one needs none.

    On a canvas of one pixel it only measures.
    """
    if len(entries) < 2:
        return top
    left = 24
    for name, colour in entries:
        text = elided(canvas, name, SMALL, width - 72)
        needed = 18 + canvas.text_width(text, SMALL)
        if left > 24 and left + needed > width - 24:
            left, top = 24, top + 20
        canvas.box((left, top + 2), 12, 12, colour)
        canvas.text((left + 18, top + 8), text, SMALL, anchor="lm")
        left += needed + 20
    return top + 20
