"""What the plain world's models are taught: pictures, and edits by words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from small_world.world.plain.edits import SINGLE, Edit, draw_pairs, taught_by_words
from small_world.world.plain.scenes import draw_scenes, render

WIDTH = 768
"""Size of a word: of CLIP-L's tokens, which ComfyUI gives a base of this size."""

EACH = 80
"""Lessons of each edit that is taught."""


def draw_pictures(n: int, generator: torch.Generator) -> Tensor:
    """Draw n random pictures, (n, 3, SIDE, SIDE), float32 in 0–1: half of the things that edits make are there."""
    return render(draw_scenes(n, generator, edited=0.5))


def words_for(edits: Sequence[Edit]) -> Tensor:
    """Make the words of edits, (n, k, WIDTH): a random vector for each name, then zeros."""
    vectors = torch.randn(len(SINGLE), WIDTH, generator=torch.Generator().manual_seed(0))
    names = list(SINGLE)
    words = torch.zeros(len(edits), max(map(len, edits)), WIDTH)
    for row, edit in enumerate(edits):
        words[row, : len(edit)] = vectors[[names.index(name) for name in edit]]
    return words


def draw_lessons(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs (n, 2, 3, SIDE, SIDE), uint8, EACH of every edit that is taught, and their words, half precision."""
    taught = taught_by_words()
    return draw_pairs(taught, EACH, generator), words_for(taught).half().repeat_interleave(EACH, 0)
