"""What one training step is given, and where it comes from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Text(NamedTuple):
    """Hold what the base is told in words, for each example of a batch; on the CPU."""

    tokens: Tensor
    """(n, T, W)"""
    pooled: Tensor
    """(n, P)"""


class Batch(NamedTuple):
    """Hold n analogies as latents, on the CPU."""

    target: Tensor
    """Latents of the grids [a a'; b b'], (n, C, h, w), as the base denoises them."""
    reference: Tensor
    """Latents of the grids [a a'; b b], likewise."""
    query: Tensor | None
    """Queries as `encode_queries` gives them, (n, k, E); None for a basis that routes by activation."""
    text: Text
    names: tuple[str, ...]
    """What to call each analogy where something is wrong with it."""


class Source(Protocol):
    """Describe where batches come from."""

    def draw(self, step: int) -> Batch:
        """Draw the batch of a step.

        It depends on nothing but the step and the source's seed, so that a run that is resumed sees what an
        uninterrupted one sees.
        """
