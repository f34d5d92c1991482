"""Means and their spreads side by side, as bars."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .axis import linear_axis
from .canvas import Canvas
from .captions import wrapped
from .heat_map import SMALL, number
from .line_chart import LEFT, RIGHT, draw_head, draw_legend, series_colour

PLOT = 300
"""Height of the plot, pixels."""

NARROWEST = 480
WIDEST_BAR, NARROWEST_BAR = 56, 16
GAP = 28
"""Between groups."""


def bar_chart(
    groups: Mapping[str, Mapping[str, tuple[float, float]]], title: str, y_label: str, theme: str = "dark"
) -> Tensor:
    """Groups of bars, each (mean, spread), where the spread is drawn up and down → (H, W, 3), float32 in 0–1.

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
    canvas: Canvas, left: float, width: int, mean: float, spread: float, height, colour, written: bool
) -> None:
    """height: from a value to its pixel. written: with the mean in figures over the bar."""
    zero, end, middle = height(0), height(mean), left + width / 2
    canvas.box((round(left) + 1, round(min(zero, end))), width - 3, max(1, round(abs(zero - end))), colour)
    low, high = height(mean - spread), height(mean + spread)
    if spread:
        for line in ([(middle, low), (middle, high)], *([(middle - 4, y), (middle + 4, y)] for y in (low, high))):
            canvas.line(line, canvas.theme.text)
    if written:
        canvas.text((middle, min(zero, end, high) - 4), number(mean), SMALL, canvas.theme.text, "ms")
