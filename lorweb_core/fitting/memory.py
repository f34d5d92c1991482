"""How much memory a fit will need, before anything large is loaded."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..basis import LoRABasis
from .settings import FitSettings

# Tensors of hidden width that a block keeps for its backward pass, x A of each layer among them: counted in diffusers'
# FLUX at bf16, 18.3 of a double and 15.3 of a single one, 1 with checkpoints.
_KEPT = 18
# The same of gradients on their way through a block, the widest of five times hidden.
_PASSING = 12


class FitMemory(NamedTuple):
    """Hold how many bytes a fit needs where it runs, about."""

    base: int
    basis: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        told = {"the base": self.base, "the basis": self.basis, "activations": self.activations}
        parts = ", ".join(f"{size / 1e9:.1f} for {what}" for what, size in told.items())
        return f"{self.total / 1e9:.1f} GB of memory ({parts})"


def estimate(
    basis: LoRABasis, base: int, hidden: int, blocks: int, settings: FitSettings, text_tokens: int, size: int
) -> FitMemory:
    """Estimate what a fit needs; an estimate, not a bound.

    base: bytes of the model where it computes. hidden, blocks: its width and number of blocks. text_tokens: of the
    prompt. size: bytes of a value that it computes with.
    """
    values = sum(layer.A.numel() + layer.B.numel() for layer in basis.layers.values())
    # Of the grid, tokens of 16 × 16 pixels, and of its last cell once more.
    tokens = 1.25 * settings.megapixels * 1024**2 / 16**2 + text_tokens
    kept = blocks + _KEPT if settings.checkpointing else blocks * _KEPT
    return FitMemory(base, values * size, round(settings.together * tokens * hidden * size * (kept + _PASSING)))


def short_of(needed: FitMemory, device: torch.device) -> str | None:
    """Say that a GPU has less than that free, if so."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if free >= needed.total:
        return None
    return f"{device} has {free / 1e9:.1f} GB free, which may not be enough. Less is needed with fewer megapixels."
