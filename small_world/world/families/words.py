"""What the base is told in words: a vector for each edit, of its family and of its values along the family's range."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import pi, sqrt

import torch
from torch import Tensor

from small_world.world.families.edits import FAMILIES, PARAMETERS, SINGLE, Edit, Part, parts_of, ranges

WIDTH = 768
"""Size of a word: of CLIP-L's tokens, which ComfyUI gives a base of this size."""

MOST = 2
"""Most words of an edit."""

_WAVES = 6
"""Waves along a range that tell values apart; between two values lie the words of what is between them."""


def words_of(parts: Sequence[Part], n: int) -> Tensor:
    """Make the words of n edits, (n, MOST, WIDTH): one for each part, then zeros."""
    words = torch.zeros(n, MOST, WIDTH)
    for place, (family, values) in enumerate(parts):
        words[:, place] = _discrete(family, values) if FAMILIES[family].discrete else _along(family, values)
    return words


def words_for(edits: Sequence[Edit]) -> Tensor:
    """Make the words of named edits, (n, MOST, WIDTH)."""
    return torch.cat([words_of(parts_of(edit, 1), 1) for edit in edits])


@cache
def _vectors() -> tuple[Tensor, Tensor, Tensor]:
    """Draw a vector for each family, one for each wave of each parameter, and one for each edit."""
    random = torch.Generator().manual_seed(0)
    sizes = (len(FAMILIES), WIDTH), (PARAMETERS * 2 * _WAVES, WIDTH), (len(SINGLE), WIDTH)
    return tuple(torch.randn(size, generator=random) for size in sizes)


def _along(family: str, values: Tensor) -> Tensor:
    names, waves, _ = _vectors()
    low, high = torch.tensor(ranges(family)).T
    share = (values - low) / (high - low).clamp_min(1e-6)
    angles = share[..., None] * pi * torch.arange(1, _WAVES + 1)
    features = torch.cat([angles.cos(), angles.sin()], -1)
    features = torch.nn.functional.pad(features, (0, 0, 0, PARAMETERS - values.shape[1]))
    return (names[list(FAMILIES).index(family)] + features.flatten(1) @ waves / sqrt(_WAVES)) / sqrt(2)


def _discrete(family: str, values: Tensor) -> Tensor:
    edits = _vectors()[2]
    own = {value[0]: place for place, (name, value) in enumerate(SINGLE.values()) if name == family}
    return edits[[own[value] for value in values[:, 0].tolist()]]
