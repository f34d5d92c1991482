"""Parts of the pictures that show coefficients and similarities: colour scales, ticks, legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .canvas import Canvas, Colour, Theme

SMALL = 12
"""Font size of ticks and legends, pixels."""


class Scale(NamedTuple):
    """Map values to the colours of a heat map."""

    low: float
    high: float
    colours: tuple[Colour, ...]

    def __call__(self, values: Tensor) -> Tensor:
        """Bring values to 0–1, as `Canvas.cells` takes them."""
        return (values.double() - self.low) / (self.high - self.low)


def scale_for(values: Tensor, theme: Theme, signed: bool = False) -> Scale:
    """Make the scale from 0 to the largest value; with negative ones, or if `signed`, symmetric about 0.

    Where all are 0, to 1.
    """
    most = float(values.abs().max()) or 1.0
    if signed or (values < 0).any():
        return Scale(-most, most, theme.diverging)
    return Scale(0.0, most, theme.sequential)


def number(value: float) -> str:
    """Write a number in short: '0.0123', '12.3', '1.2e-05'."""
    return f"{value:.3g}"


def step_for(room: float, needed: float) -> int:
    """Choose 1, 2, 5, 10, 20, …: every how many of things that are `room` apart get a label that needs so much."""
    magnitude = 1
    while True:
        for step in (1, 2, 5):
            if step * magnitude * room >= needed:
                return step * magnitude
        magnitude *= 10


def index_ticks(canvas: Canvas, at: tuple[float, float], labels: Sequence[int], cell: int) -> None:
    """Write numbers centred under columns that begin at `at`."""
    step = step_for(cell, canvas.text_width("00", SMALL) + 6)
    for column in range(0, len(labels), step):
        canvas.text((at[0] + (column + 0.5) * cell, at[1]), str(labels[column]), SMALL, canvas.theme.faint, "ma")


def colour_bar(canvas: Canvas, at: tuple[int, int], width: int, scale: Scale, what: str) -> None:
    """Draw a legend: the scale's colours, the numbers at its ends (and 0 in its middle), and beneath what they mean."""
    canvas.cells(at, torch.linspace(0, 1, width)[None], (1, 10), scale.colours)
    stops = [(0.0, scale.low, "la"), (1.0, scale.high, "ra")]
    if scale.low < 0:
        stops.append((0.5, 0.0, "ma"))
    for place, value, anchor in stops:
        canvas.text((at[0] + place * width, at[1] + 14), number(value), SMALL, canvas.theme.faint, anchor)
    canvas.text((at[0], at[1] + 31), what, SMALL, canvas.theme.faint)


def blended(one: Colour, other: Colour, part: float) -> Colour:
    """Mix a colour between two."""
    red, green, blue = (round(a + part * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue
