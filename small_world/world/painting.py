"""Painting of scenes, whichever attributes a world's scenes have: random numbers for them, edges and colours."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

Described = TypeVar("Described")
"""A dataclass whose fields are tensors (n,)."""


class Draw:
    """Draw attributes of n scenes, (n,) each, from a generator."""

    def __init__(self, n: int, generator: torch.Generator):
        self._n, self._generator = n, generator

    def between(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self._n, generator=self._generator)

    def one_of(self, count: int) -> Tensor:
        return torch.randint(count, (self._n,), generator=self._generator)

    def sometimes(self, values: Tensor, share: float) -> Tensor:
        """Keep a share of the values, and put 0 in the place of the others."""
        return values * (torch.rand(self._n, generator=self._generator) < share)


def select(scenes: Described, index: Tensor | slice) -> Described:
    """Choose some of the scenes."""
    return type(scenes)(**{field.name: getattr(scenes, field.name)[index] for field in fields(scenes)})


def cover(distance: Tensor) -> Tensor:
    """Cover a shape: 1 inside, where the distance to its edge is negative, 0 outside; the edge is a pixel wide."""
    return (0.5 - distance * distance.shape[-1] / 2).clamp(0, 1)


def paint(picture: Tensor, covered: Tensor, colour: Tensor) -> Tensor:
    """Blend a colour, (n, 3) or (3,), over pictures; covered: how much of it, (n, side, side)."""
    return picture + covered[:, None] * (colour[..., :, None, None] - picture)
