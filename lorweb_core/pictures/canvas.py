"""What the pack's pictures are drawn with: Pillow, its font, two themes. Text is ASCII: the font has little else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import LoRWebError, shown
from ..files.image_file import as_image

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Theme(NamedTuple):
    """Hold the colours of a picture. The maps run from 0 to 1, and from −1 over 0 to 1."""

    background: Colour
    text: Colour
    faint: Colour
    """Lines and second-rank text."""
    series: tuple[Colour, ...]
    """Colours of bars and lines."""
    sequential: tuple[Colour, ...]
    diverging: tuple[Colour, ...]


# 0 is near the background in both maps, and what is large stands out from it.
THEMES = {
    "dark": Theme(
        background=(24, 26, 30),
        text=(230, 232, 236),
        faint=(140, 146, 156),
        series=((86, 180, 233), (240, 160, 60), (110, 200, 120), (220, 120, 190)),
        sequential=((34, 37, 43), (62, 52, 110), (148, 52, 118), (232, 98, 76), (252, 226, 140)),
        diverging=((90, 190, 255), (42, 92, 150), (34, 37, 43), (160, 70, 36), (255, 168, 80)),
    ),
    "light": Theme(
        background=(255, 255, 255),
        text=(28, 30, 34),
        faint=(112, 116, 124),
        series=((0, 98, 168), (196, 90, 0), (20, 128, 60), (160, 40, 130)),
        sequential=((243, 244, 246), (190, 210, 236), (98, 150, 210), (50, 80, 160), (30, 24, 84)),
        diverging=((10, 70, 150), (120, 176, 226), (243, 244, 246), (240, 166, 110), (170, 60, 0)),
    ),
}


def find_theme(name: str) -> Theme:
    if name not in THEMES:
        raise LoRWebError(f"theme is {shown(name)}; expected one of: {', '.join(THEMES)}.")
    return THEMES[name]


class Canvas:
    """Draw on a picture; positions and sizes are in pixels from the top left."""

    def __init__(self, width: int, height: int, theme: str = "dark"):
        self.theme = find_theme(theme)
        self.image = Image.new("RGB", (width, height), self.theme.background)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, at: Point, text: str, size: int = 14, colour: Colour | None = None, anchor: str = "la") -> None:
        """Write a text. anchor: Pillow's: l, m or r across; a (top), m or s (baseline) down."""
        self.draw.text(at, text, fill=colour or self.theme.text, font=_font(size), anchor=anchor)

    def text_width(self, text: str, size: int = 14) -> int:
        return int(_font(size).getlength(text)) + 1

    def box(self, at: Point, width: float, height: float, colour: Colour) -> None:
        if width >= 1 and height >= 1:
            self.draw.rectangle((at[0], at[1], at[0] + width - 1, at[1] + height - 1), fill=colour)

    def line(self, points: Sequence[Point], colour: Colour | None = None, width: int = 1) -> None:
        self.draw.line(list(points), fill=colour or self.theme.faint, width=width)

    def cells(self, at: tuple[int, int], values: Tensor, cell: tuple[int, int], colours: Sequence[Colour]) -> None:
        """Draw a heat map: values (rows, columns) in 0–1, 0 the first colour and 1 the last; cell: (width, height)."""
        self.blocks(at, coloured(values, colours), cell)

    def blocks(self, at: tuple[int, int], colours: Tensor, cell: tuple[int, int]) -> None:
        """Draw cells of colours of their own: (rows, columns, 3), uint8."""
        size = (colours.shape[1] * cell[0], colours.shape[0] * cell[1])
        self.image.paste(as_image(colours).resize(size, Image.Resampling.NEAREST), at)

    def picture(self, at: tuple[int, int], picture: Tensor) -> None:
        """Place a picture, (h, w, 3), uint8, or float in 0–1."""
        self.image.paste(as_image(picture), at)

    def plot(
        self,
        at: tuple[int, int],
        size: tuple[int, int],
        lines: Sequence[Sequence[Point]],
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
    ) -> None:
        """Plot lines in the theme's series colours, with ticks.

        Points and ticks are (x, …) in 0–1, from the left and from below.
        """
        (left, top), (width, height) = at, size

        def place(x: float, y: float) -> Point:
            return left + x * width, top + (1 - y) * height

        for y, label in y_ticks:
            self.line([place(0, y), place(1, y)])
            self.text((left - 8, place(0, y)[1]), label, 13, self.theme.faint, "rm")
        for x, label in x_ticks:
            self.line([place(x, 0), (place(x, 0)[0], top + height + 4)])
            self.text((place(x, 0)[0], top + height + 8), label, 13, self.theme.faint, "ma")
        for index, points in enumerate(lines):
            self.line([place(*point) for point in points], self.theme.series[index % len(self.theme.series)], 3)

    def tensor(self) -> Tensor:
        """Return the picture, (H, W, 3), float32 in 0–1."""
        return torch.from_numpy(numpy.asarray(self.image, dtype=numpy.float32) / 255)


# Pillow unpacks its font anew each time.
_font = cache(ImageFont.load_default)


def coloured(values: Tensor, colours: Sequence[Colour]) -> Tensor:
    """Colour values (…) in 0–1, clamped, NaN as 0, by evenly spaced colours → (…, 3), uint8."""
    # In numpy: so little is not worth waking torch's threads, which on a busy machine wait for one another.
    places = values.double().cpu().nan_to_num(0.0).numpy()
    stops = numpy.linspace(0, 1, len(colours))
    channels = [numpy.interp(places, stops, channel) for channel in zip(*colours, strict=True)]
    return torch.from_numpy(numpy.stack(channels, -1).round().astype(numpy.uint8))
