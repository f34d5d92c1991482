"""Estimate the memory that a fit needs, before anything is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch

from ..basis import LoRABasis
from ..errors import LoRWebError
from ..grid import Size, grid_sizes
from ..layer_names import parse
from ..training.memory import activations, describe_sizes
from ..training.objective import Base
from .settings import FitSettings

_TOKEN = 16**2
"""Pixels of a token: the autoencoder's 8 times FLUX's patches of 2, a side."""

# Tensors of hidden width that a block keeps, by its sort. Layers that do not learn need not keep what goes into them:
# counted in diffusers' FLUX 18 and 15, in ComfyUI's 17 and 13.
_KEPT = {"double": 18, "single": 15, "other": 18}


class FitMemory(NamedTuple):
    """Hold how many bytes a fit needs where it computes, about."""

    base: int
    """Weights as they are stored, and those of one block as they are computed in."""
    basis: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        return describe_sizes({"the model": self.base, "the basis": self.basis, "activations": self.activations})

    def check_room(self, device: torch.device) -> None:
        """Raise LoRWebError if a GPU has less memory than that, free or not: some other model may still make way."""
        if device.type != "cuda":
            return
        _, there = torch.cuda.mem_get_info(device)
        if there < self.total:
            raise LoRWebError(
                f"The fit needs about {self}, and {device} has {there / 1e9:.1f} GB. Less is needed with gradient "
                "checkpointing, fewer megapixels, or the model in fp8 or as a smaller GGUF."
            )


def estimate_fit(
    basis: LoRABasis, base: Base, settings: FitSettings, a: Size, text: int, stored: int, converted: bool
) -> FitMemory:
    """Estimate what fitting a mixture of this basis needs; an estimate, not a bound.

    a: size of the first picture. text: tokens of it. stored: bytes of the base's weights. converted: whether these are
    stored in another form than they are computed in, for which each layer's are made anew and kept for the backward
    pass. What the allocator leaves unused is not counted, nor is the autoencoder, which runs before the base is loaded.
    """
    size = base.dtype.itemsize
    blocks = {name: _block(name) for name in base.shapes}
    whole, _ = grid_sizes(a, settings.megapixels, whole_cells=True)
    references = whole.height * whole.width // _TOKEN
    tokens = settings.together * (references // 4 + references + text)
    # With checkpoints, one block at a time keeps what is of its own.
    own = max if settings.checkpointing else sum
    weights = own(
        _by_block(
            (blocks[name], fan_in * fan_out)
            for name, (fan_in, fan_out) in base.shapes.items()
            if parse(name).kind != "modulation"  # no gradient goes on to the timestep
        )
    )
    ranks = own(_by_block((blocks[name], len(layer.A) * layer.A.shape[2]) for name, layer in basis.layers.items()))
    hidden = min(fan_in for fan_in, _ in base.shapes.values())
    kept = [_KEPT[kind] for kind, _ in set(blocks.values())]
    held = activations(tokens * hidden * size, kept, settings.checkpointing)
    packed = sum(layer.A.numel() + layer.B.numel() for layer in basis.layers.values())
    return FitMemory(stored + weights * size * converted, packed * size, held + tokens * ranks * size)


def _block(name: str) -> tuple[str, int]:
    parsed = parse(name)
    return parsed.block, parsed.index


def _by_block(numbers: Iterable[tuple[tuple[str, int], int]]) -> Iterable[int]:
    sums: Counter[tuple[str, int]] = Counter()
    for block, number in numbers:
        sums[block] += number
    return sums.values()
