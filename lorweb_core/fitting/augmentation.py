"""Other views of an example pair, in which its edit is the same: cut out, shifted and mirrored alike in a and a'."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import Size

LEAST_CROP = 0.7
"""Least share of a side that is cut out."""

MOST_SHIFT = 0.1
"""Most that a picture is shifted, as a share of the side."""


class View(NamedTuple):
    """Describe how a picture is looked at, in shares of its sides."""

    side: float = 1.0
    """Side of the part that is cut out."""
    place: tuple[float, float] = (0.0, 0.0)
    """Place of that part in the room there is, down and right: 0 at the top or the left, 1 at the other end."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Shift down and right; what comes in repeats the border."""
    flip: bool = False
    """True to swap left and right."""

    def of(self, image: Tensor) -> Tensor:
        """Look at a picture, (H, W, 3) → (h, w, 3)."""
        return _shifted(self._cut(image.flip(1) if self.flip else image), self.shift)

    def _cut(self, image: Tensor) -> Tensor:
        height, width = image.shape[:2]
        inner = Size(max(1, round(self.side * height)), max(1, round(self.side * width)))
        top, left = round(self.place[0] * (height - inner.height)), round(self.place[1] * (width - inner.width))
        return image[top : top + inner.height, left : left + inner.width]


AS_IT_IS = View()


def draw_view(random: torch.Generator, crops: bool = True, shifts: bool = True, flips: bool = True) -> View:
    """Draw a view. What is switched off is drawn all the same, so that the others do not change with it."""
    side, down, right, shift_down, shift_right, flip = torch.rand(6, generator=random).tolist()
    return View(
        1 - (1 - LEAST_CROP) * side if crops else 1.0,
        (down, right) if crops else (0.0, 0.0),
        (MOST_SHIFT * (2 * shift_down - 1), MOST_SHIFT * (2 * shift_right - 1)) if shifts else (0.0, 0.0),
        flips and flip < 0.5,
    )


def _shifted(image: Tensor, shift: tuple[float, float]) -> Tensor:
    height, width = image.shape[:2]
    down, right = round(shift[0] * height), round(shift[1] * width)
    border = [max(0, right), max(0, -right), max(0, down), max(0, -down)]
    padded = F.pad(image.movedim(-1, 0)[None], border, mode="replicate")[0].movedim(0, -1)
    top, left = max(0, -down), max(0, -right)
    return padded[top : top + height, left : left + width]
