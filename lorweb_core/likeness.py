"""Whether two pictures are the same, whatever their size: by a few hundred mean colours of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from .triplet import Triplet

SIDE = 16
"""Cells a side of a likeness."""

OTHER = 0.1
"""Difference of one cell, of 1, from which on two likenesses are of two pictures; resizing makes up to 0.03."""

FINE_SIDE = 64
"""Cells a side of what tells whether anything was changed."""

CHANGED = 0.02
"""Difference of one fine cell, of 1, below which nothing was changed: that of JPEG is averaged out."""


def likeness(image: Tensor, side: int = SIDE) -> Tensor:
    """Average a picture, (H, W, 3), float in 0–1, over cells of one size each: (side, side, 3), uint8, on the CPU."""
    cells = F.adaptive_avg_pool2d(image.float().movedim(-1, 0), side)
    return (cells.movedim(0, -1).clamp(0, 1) * 255).round().byte().cpu()


class Likeness(NamedTuple):
    """Hold the likenesses of one analogy's pictures, 768 bytes each."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    b: Tensor

    def shares_a_pair(self, other: Likeness) -> bool:
        """Tell whether one pair (a, a') is in both."""
        return any(
            are_alike(own[0], their[0]) and are_alike(own[1], their[1]) for own in self.pairs for their in other.pairs
        )


def likenesses(triplets: Sequence[Triplet]) -> tuple[Likeness, ...]:
    """Make the likeness of each analogy; a picture that is in many is averaged once."""
    made: dict[int, Tensor] = {}

    def once(image: Tensor) -> Tensor:
        if id(image) not in made:
            made[id(image)] = likeness(image)
        return made[id(image)]

    return tuple(Likeness(tuple((once(a), once(a_prime)) for a, a_prime in pairs), once(b)) for pairs, b in triplets)


def are_alike(one: Tensor, other: Tensor) -> bool:
    """Tell whether two likenesses are of one picture, perhaps of two sizes."""
    return bool((one.int() - other.int()).abs().max() < OTHER * 255)


def looks_same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two pictures, (H, W, 3), float in 0–1, of any size show no change."""
    first, second = (likeness(image, FINE_SIDE).int() for image in (one, other))
    return bool((first - second).abs().max() < CHANGED * 255)
