"""What the base is taught: edits by words, anywhere in their families' ranges."""

from __future__ import annotations

import torch
from torch import Tensor

from small_world.world.families.edits import draw_pairs_of, random_parts, taught_families
from small_world.world.families.words import words_of

COUNT = 40_000
_TOGETHER = 40
"""Lessons of the same families, drawn at once."""
_ALONE = 0.45
"""Share of single edits among them."""


def draw_lessons(generator: torch.Generator, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Draw pairs (n, 2, 3, SIDE, SIDE), uint8, and their words (n, MOST, WIDTH), half precision."""
    taught = taught_families()
    single, double = ([families for families in taught if len(families) == size] for size in (1, 2))
    pairs, words = [], []
    for _ in range(count // _TOGETHER):
        kind = single if torch.rand(1, generator=generator) < _ALONE else double
        families = kind[int(torch.randint(len(kind), (1,), generator=generator))]
        parts = random_parts(families, _TOGETHER, generator)
        pairs.append(draw_pairs_of(parts, _TOGETHER, generator))
        words.append(words_of(parts, _TOGETHER).half())
    return torch.cat(pairs), torch.cat(words)
