"""Pictures side by side, each with its caption."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch import Tensor

from ..errors import LoRWebError
from ..grid import Size
from ..triplet import each_image
from .canvas import Canvas
from .images import ascii_text, fit_inside

HEIGHT = 512
"""Pixels of the pictures, if none of them is lower."""

ROW = 8
"""The most pictures in one row."""

WIDEST = 4
"""A picture's width is at most this many times the common height; a wider one becomes lower."""

CAPTION_LINES = 3


def strip(
    images: Tensor | Sequence[Tensor], captions: Sequence[str] | None = None, theme: str = "dark", height: int = HEIGHT
) -> Tensor:
    """Pictures (H, W, 3), float in 0–1, or batches of them, in reading order → (H, W, 3), float in 0–1.

    height: of all pictures, in pixels; less if none is that high. More than eight go into rows of about equal length.
    captions: of the pictures in turn; there may be fewer, what is over is left out. Raises LoRWebError if there is no
    picture or one is none.
    """
    given = each_image(images, "images")
    if height < 16:
        raise LoRWebError(f"height is {height} pixels; expected at least 16.")
    height = min(height, max(image.shape[0] for image in given))
    box = Size(height, WIDEST * height)
    pictures = [fit_inside(image, box) for image in given]
    texts = [*(ascii_text(text) for text in captions or ())][: len(pictures)]
    texts += [""] * (len(pictures) - len(texts))

    canvas, gap, size = Canvas(1, 1, theme), max(8, height // 40), max(13, height // 24)
    columns = -(-len(pictures) // -(-len(pictures) // ROW))
    # A narrow picture still has room for a word below it.
    widths = [max(picture.shape[1], 4 * size) for picture in pictures]
    lines = [wrapped(canvas, text, width, size) for text, width in zip(texts, widths, strict=True)]
    starts = range(0, len(pictures), columns)
    line_height = round(1.3 * size)
    below = [max(len(text) for text in lines[i : i + columns]) * line_height for i in starts]
    rows = [sum(widths[i : i + columns]) + gap * (len(widths[i : i + columns]) + 1) for i in starts]
    canvas = Canvas(max(rows), gap + sum(height + gap + text + (gap // 2 if text else 0) for text in below), theme)
    top = gap
    for i, text_height in zip(starts, below, strict=True):
        left = gap
        for picture, width, text in zip(pictures[i:][:columns], widths[i:], lines[i:], strict=False):
            high, wide = picture.shape[:2]
            canvas.picture((left + (width - wide) // 2, top + (height - high) // 2), picture)
            for number, line in enumerate(text):
                canvas.text((left + width / 2, top + height + gap // 2 + number * line_height), line, size, anchor="ma")
            left += width + gap
        top += height + gap + text_height + (gap // 2 if text_height else 0)
    return canvas.tensor()


def wrapped(canvas: Canvas, text: str, width: int, size: int) -> list[str]:
    """Lines of words no wider than `width` pixels, at most CAPTION_LINES; what is too long ends in dots."""
    lines: list[str] = []
    for word in text.split():
        if lines and canvas.text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > CAPTION_LINES:
        lines[CAPTION_LINES - 1 :] = [lines[CAPTION_LINES - 1] + " ..."]
    return [_cut(canvas, line, width, size) for line in lines]


def _cut(canvas: Canvas, line: str, width: int, size: int) -> str:
    if canvas.text_width(line, size) <= width:
        return line
    line = line.removesuffix(" ...")
    lengths = range(1, len(line) + 1)
    fitting = bisect_right(lengths, width, key=lambda length: canvas.text_width(f"{line[:length]}...", size))
    return f"{line[:fitting]}..."
