"""Whether two pictures are the same, whatever their size: by a few hundred mean colours of each."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

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


def are_alike(one: Tensor, other: Tensor) -> bool:
    """Tell whether two likenesses are of one picture, perhaps of two sizes."""
    return bool((one.int() - other.int()).abs().max() < OTHER * 255)


def looks_same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two pictures, (H, W, 3), float in 0–1, of any size show no change."""
    first, second = (likeness(image, FINE_SIDE).int() for image in (one, other))
    return bool((first - second).abs().max() < CHANGED * 255)
