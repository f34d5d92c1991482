"""Small copies of an analogy's pictures, which a mixture carries so that people recognise it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..files.image_file import as_levels
from ..grid import Size, fit_inside
from ..triplet import Triplet

LONGEST_SIDE = 128
"""Pixels of the longest side: 100 kB or so a triplet."""


class Thumbnails(NamedTuple):
    """Hold small copies of one pair (a, a') and one b: (h, w, 3), uint8, each in its own shape."""

    a: Tensor
    a_prime: Tensor
    b: Tensor


def make_thumbnails(analogies: Sequence[Triplet]) -> tuple[Thumbnails, ...]:
    """Make thumbnails for each pair of each analogy."""
    small: dict[int, Tensor] = {}  # a picture is often part of many analogies

    def shrink(image: Tensor) -> Tensor:
        if id(image) not in small:
            small[id(image)] = thumbnail(image)
        return small[id(image)]

    return tuple(Thumbnails(shrink(a), shrink(a_prime), shrink(b)) for pairs, b in analogies for a, a_prime in pairs)


def thumbnail(image: Tensor) -> Tensor:
    """Shrink a picture, (H, W, 3), float in 0–1 → (h, w, 3), uint8, on the CPU; a small one is not enlarged."""
    return as_levels(fit_inside(image, Size(LONGEST_SIDE, LONGEST_SIDE), enlarge=False))


def contact_sheet(thumbnails: Sequence[Thumbnails], background: float = 0.1) -> Tensor:
    """Lay out a, a' and b in a row, each triplet below the one before, (H, W, 3), float in 0–1."""
    side, gap = LONGEST_SIDE, 8
    sheet = torch.full((len(thumbnails) * (side + gap) + gap, 3 * (side + gap) + gap, 3), background)
    for row, pictures in enumerate(thumbnails):
        for column, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            top = gap + row * (side + gap) + (side - height) // 2
            left = gap + column * (side + gap) + (side - width) // 2
            sheet[top : top + height, left : left + width] = picture / 255
    return sheet
