"""Charts: axes with round numbers, lines, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .canvas import Canvas, Colour, Point, Theme
from .captions import ascii_text, elided, wrapped
from .heat_map import SMALL, blended, number

WIDTH, HEIGHT = 720, 420
"""Pixels of a chart of lines."""

LEFT, RIGHT = 84, 28
"""Pixels beside the plot."""

PLOT = 300
"""Height of the plot of a chart of bars, pixels."""

NARROWEST = 480
WIDEST_BAR, NARROWEST_BAR = 56, 16
GAP = 28
"""Pixels between groups of bars."""


class Axis(NamedTuple):
    """Map values to places along a side of a chart, from `low` to `high`, which are round."""

    low: float
    high: float
    marks: tuple[float, ...]
    """Numbers to write, in order."""
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Place a value, 0–1 along the axis; what is beyond an end is at the end.

        A logarithmic axis has 0 and less at its low end.
        """
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return min(1.0, max(0.0, (value - low) / (high - low)))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return the marks as `Canvas.plot` takes them: place and text."""
        return [(self.place(mark), _written(mark)) for mark in self.marks]


def linear_axis(values: Iterable[float], marks: int = 5, zero: bool = True) -> Axis:
    """Make an axis that holds all values, and 0 if `zero`. marks: about so many."""
    values = [*values] or [0.0]
    values += [0.0] * zero
    low, high = min(values), max(values)
    step = _round_step((high - low or abs(high) or 1.0) / marks)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    steps = tuple(step * i for i in range(first, last + 1))
    return Axis(steps[0], steps[-1], steps)


def whole_axis(last: int, marks: int = 5) -> Axis:
    """Make an axis from 0 to exactly `last`, marked at whole numbers; for steps."""
    step = max(1, round(_round_step(last / marks)))
    return Axis(0, last, tuple(range(0, last + 1, step)))


def log_axis(values: Iterable[float]) -> Axis:
    """Make a logarithmic axis that holds all values above 0; it ends at 1, 2 or 5 times a power of ten."""
    values = [value for value in values if value > 0] or [1.0]
    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 2)
    rounds = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    low = max(value for value in rounds if value <= min(values))
    high = min(value for value in rounds if value >= max(values) and value > low)
    inside = [value for value in rounds if low <= value <= high]
    if high / low > 100:
        tens = [value for value in inside if f"{value:e}".startswith("1.")]
        inside = tens[:: -(-len(tens) // 6)]
    return Axis(low, high, tuple(inside), True)


def _round_step(least: float) -> float:
    """Find the smallest of 1, 2, 5, 10, … (of any power) that is at least this."""
    power = 10 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def _written(value: float) -> str:
    return f"{round(value):,}" if value == round(value) and abs(value) < 1e7 else number(value)


class Line(NamedTuple):
    """Describe one line of a chart."""

    points: Sequence[Point]
    """Points in the chart's own numbers, from left to right; one alone is drawn as a dot."""
    colour: Colour
    width: int = 2
    dots: bool = False
    """Whether each point is marked."""


def draw_lines(
    canvas: Canvas, at: tuple[int, int], size: tuple[int, int], lines: Sequence[Line], x: Axis, y: Axis
) -> None:
    """Draw axes with their marks, and lines; later ones lie over earlier ones.

    at, size: of the plot itself, in pixels.
    """
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
    """Draw named series of (x, y), each in order of x → (H, W, 3), float32 in 0–1.

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
    """Pick one of the theme's series colours, and beyond these the same again, paler."""
    colours = theme.series
    return blended(colours[index % len(colours)], theme.background, min(0.75, 0.5 * (index // len(colours))))


def draw_head(canvas: Canvas, title: str, y_label: str) -> None:
    """Write what the chart shows, and beneath it what its heights mean."""
    canvas.text((24, 14), elided(canvas, title, 18, canvas.image.width - 48), 18)
    canvas.text((24, 40), elided(canvas, y_label, 13, canvas.image.width - 48), 13, canvas.theme.faint)


def draw_legend(canvas: Canvas, entries: Sequence[tuple[str, Colour]], top: int, width: int) -> int:
    """Draw names with their colours, in as many rows as it takes; returns the pixel under the last.

    A single name needs no legend. On a canvas of one pixel it only measures.
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


def bar_chart(
    groups: Mapping[str, Mapping[str, tuple[float, float]]], title: str, y_label: str, theme: str = "dark"
) -> Tensor:
    """Draw groups of bars, each (mean, spread), where the spread is drawn up and down → (H, W, 3), float32 in 0–1.

    A bar of the same name has the same colour and place in every group; a group that lacks it has a gap there.
    """
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    bar = min(WIDEST_BAR, max(NARROWEST_BAR, 600 // max(1, len(groups) * len(names))))
    group = max(bar * len(names), 72)
    width = max(NARROWEST, LEFT + len(groups) * (group + GAP) + RIGHT)
    colours = {name: series_colour(Canvas(1, 1, theme).theme, index) for index, name in enumerate(names)}
    top = draw_legend(Canvas(1, 1, theme), list(colours.items()), 62, width) + 22
    canvas = Canvas(width, top + PLOT + 72, theme)
    draw_head(canvas, title, y_label)
    draw_legend(canvas, list(colours.items()), 62, width)

    ends = [mean + sign * spread for bars in groups.values() for mean, spread in bars.values() for sign in (-1, 1)]
    # A spread that reaches below 0 where no mean does says little: the axis begins at 0 then.
    below = any(mean < 0 for bars in groups.values() for mean, _ in bars.values())
    axis = linear_axis(ends if below else [max(0.0, end) for end in ends])
    canvas.plot((LEFT, top), (width - LEFT - RIGHT, PLOT), [], [], axis.ticks)

    def height(value: float) -> float:
        return top + (1 - axis.place(value)) * PLOT

    # Over every bar or over none: a number over some would seem to say something of these.
    means = [number(mean) for bars in groups.values() for mean, _ in bars.values()]
    written = all(canvas.text_width(text, SMALL) <= bar + 2 for text in means)
    for index, (label, bars) in enumerate(groups.items()):
        left = LEFT + GAP / 2 + index * (group + GAP) + (group - bar * len(names)) / 2
        for place, name in enumerate(names):
            if name in bars:
                _draw_bar(canvas, left + place * bar, bar, *bars[name], height, colours[name], written)
        middle = left + bar * len(names) / 2
        for line, text in enumerate(wrapped(canvas, label, group + GAP - 6, SMALL + 1)):
            canvas.text((middle, top + PLOT + 10 + 17 * line), text, SMALL + 1, anchor="ma")
    return canvas.tensor()


def _draw_bar(
    canvas: Canvas,
    left: float,
    width: int,
    mean: float,
    spread: float,
    height: Callable[[float], float],
    colour: Colour,
    written: bool,
) -> None:
    """Draw a mean and its spread. height: from a value to its pixel. written: with the mean in figures over the bar."""
    zero, end, middle = height(0), height(mean), left + width / 2
    draw_upright(canvas, round(left) + 1, width - 3, (zero, end), colour, 1)
    low, high = height(mean - spread), height(mean + spread)
    if spread:
        for line in ([(middle, low), (middle, high)], *([(middle - 4, y), (middle + 4, y)] for y in (low, high))):
            canvas.line(line, canvas.theme.text)
    if written:
        canvas.text((middle, min(zero, end, high) - 4), number(mean), SMALL, canvas.theme.text, "ms")


def bars(
    canvas: Canvas,
    at: tuple[float, float],
    height: int,
    values: Tensor,
    most: float,
    cell: int,
    colour: Colour,
    labelled: int = 5,
) -> None:
    """Draw bars upwards from `at`, one per column, `height` for the value `most`; over the highest their indices."""
    gap = 0 if cell < 3 else 1 if cell < 12 else 2
    tops = [at[1] - height * value / most if most > 0 else at[1] for value in values.tolist()]
    for column, top in enumerate(tops):
        draw_upright(canvas, at[0] + column * cell, cell - gap, (at[1], top), colour)
    canvas.line([at, (at[0] + len(tops) * cell - 1, at[1])])
    taken: list[tuple[float, float]] = []
    for column in values.argsort(descending=True, stable=True).tolist():
        if len(taken) == labelled:
            break
        middle, half = at[0] + (column + 0.5) * cell, canvas.text_width(str(column), SMALL) / 2 + 2
        free = all(middle + half <= left or right <= middle - half for left, right in taken)
        # Nor may a label lie on a higher bar beside its own.
        beside = tops[max(0, int((middle - half - at[0]) // cell)) : int((middle + half - at[0]) // cell) + 1]
        if free and tops[column] < at[1] - 1 and min(beside) >= tops[column] - 2:
            canvas.text((middle, tops[column] - 3), str(column), SMALL, anchor="ms")
            taken.append((middle - half, middle + half))


def draw_upright(
    canvas: Canvas, left: float, width: int, ends: tuple[float, float], colour: Colour, least: int = 0
) -> None:
    """Draw an upright bar between two heights, in pixels from the top; one lower than `least` pixels gets these."""
    top, bottom = round(min(ends)), round(max(ends))
    canvas.box((left, min(top, bottom - least)), width, max(least, bottom - top), colour)


def draw_level(
    canvas: Canvas,
    at: tuple[float, float],
    size: tuple[float, int],
    part: float,
    colour: Colour,
    track: Colour | None = None,
    start: float = 0.0,
) -> None:
    """Draw a lying bar over `part` of the length, 0–1, from `start` on, 0–1; in the colour `track` the whole length."""
    (left, top), (length, thick) = at, size
    if track:
        canvas.box(at, length, thick, track)
    canvas.box((round(left + start * length), top), round(part * length), thick, colour)
