"""Pictures side by side, each with its caption."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import LoRWebError
from ..grid import Size, fit_inside
from ..triplet import each_image
from .canvas import Canvas
from .captions import ascii_text, wrapped

HEIGHT = 512
"""Pixels of the pictures, if none of them is lower."""

ROW = 8
"""Most pictures in one row."""

WIDEST = 4
"""Most that a picture's width is of the common height, in times; a wider one becomes lower."""


def strip(
    images: Tensor | Sequence[Tensor], captions: Sequence[str] | None = None, theme: str = "dark", height: int = HEIGHT
) -> Tensor:
    """Lay out pictures (H, W, 3), float in 0–1, or batches of them, in reading order → (H, W, 3), float in 0–1.

    height: of all pictures, in pixels; less if none is that high. More than eight go into rows of about equal length.
    captions: of the pictures in turn; there may be fewer, what is over is left out. Raises LoRWebError if there is no
    picture or one is none.
    """
    given = each_image(images, "images")
    if height < 16:
        raise LoRWebError(f"height is {height} pixels; expected at least 16.")
    height = min(height, max(image.shape[0] for image in given))
    box = Size(height, WIDEST * height)
    pictures = [fit_inside(image.nan_to_num(0.0), box) for image in given]
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
