"""What one training step is given, and where it comes from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from ...layout import Place


class Text(NamedTuple):
    """Hold what the base is told in words, for each example of a batch; on the CPU."""

    tokens: Tensor
    """(n, T, W)"""
    pooled: Tensor
    """(n, P)"""


class Batch(NamedTuple):
    """Hold n analogies as latents, on the CPU."""

    target: Tensor
    """Latents of the grids [a a'; b b'], or of b' alone, (n, C, h, w), as the base denoises them."""
    reference: Tensor
    """Latents of the grids [a a'; b b], (n, C, h', w')."""
    query: Tensor | None
    """Queries as `encode_queries` gives them, (n, k, E); None for a basis that routes by activation."""
    text: Text
    names: tuple[str, ...]
    """What to call each analogy where something is wrong with it."""

    @property
    def place(self) -> Place:
        """Find where the target begins in the reference grid, in tokens: it is the bottom right of it, or all of it."""
        (height, width), (whole_height, whole_width) = self.target.shape[-2:], self.reference.shape[-2:]
        return Place((whole_height - height) // 2, (whole_width - width) // 2)


class Source(Protocol):
    """Describe where batches come from."""

    def draw(self, step: int) -> Batch:
        """Draw the batch of a step.

        It depends on nothing but the step and the source's seed, so that a run that is resumed sees what an
        uninterrupted one sees.
        """
