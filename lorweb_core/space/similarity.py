"""How alike the LoRAs of a basis are, by the changes they make: which of them say the same, which are of a kind."""

from __future__ import annotations

import json
from typing import NamedTuple

import torch
from torch import Tensor

from ..basis import LoRABasis, Progress
from ..layer_names import select
from .gram import basis_gram


class Similarity(NamedTuple):
    """Hold the cosines of all pairs of a basis's N LoRAs, over some of its layers together."""

    basis: str
    layers: int
    """Number of layers."""
    cosines: Tensor
    """(N, N), float64, of their changes scale · A_n B_n; 0 for a LoRA that changes nothing, its own included."""
    sizes: Tensor
    """(N,), float64: ‖scale · A_n B_n‖."""
    order: list[int]
    """Order of the LoRAs in which similar ones lie together."""

    def to_json(self) -> str:
        """Write strict JSON; LoRAs are in the order of their indices, numbers are rounded to 7 digits."""
        described = {
            "basis": self.basis,
            "loras": len(self.sizes),
            "layers": self.layers,
            "order": self.order,
            "sizes": [float(f"{size:.7g}") for size in self.sizes.tolist()],
            "cosines": [[float(f"{cosine:.7g}") for cosine in row] for row in self.cosines.tolist()],
        }
        return json.dumps(described, ensure_ascii=False, allow_nan=False)


def basis_similarity(
    basis: LoRABasis,
    progress: Progress | None = None,
    blocks: str = "all",
    kind: str = "all",
    stream: str = "all",
) -> Tensor:
    """Compute the cosines of the LoRAs' changes, (N, N), float64, chosen layers as one vector; see `compare_loras`."""
    return compare_loras(basis, progress, blocks, kind, stream).cosines


def compare_loras(
    basis: LoRABasis,
    progress: Progress | None = None,
    blocks: str = "all",
    kind: str = "all",
    stream: str = "all",
) -> Similarity:
    """Compare the LoRAs over the layers that `layer_names.select` means by blocks, kind and stream.

    Reads the whole basis once; `progress` is told of that. Raises LoRWebError if no layer is meant.
    """
    chosen = torch.tensor(select(basis.layers, blocks, kind, stream))
    gram = basis_gram(basis, progress)[chosen].sum(0)
    sizes = gram.diagonal().clamp(min=0).sqrt()
    whole = sizes[:, None] * sizes
    cosines = torch.where(whole > 0, gram / whole.where(whole > 0, torch.ones_like(whole)), 0.0).clamp(-1, 1)
    return Similarity(basis.name, int(chosen.sum()), cosines, sizes, similar_together(cosines))


def similar_together(cosines: Tensor) -> list[int]:
    """Order the rows of (N, N): from the most similar pair on, at either end the most similar one left."""
    n = len(cosines)
    if n == 1:
        return [0]
    pairs = cosines.clone().fill_diagonal_(-torch.inf)
    first, second = divmod(int(pairs.argmax()), n)
    order = [first, second]
    left = torch.ones(n, dtype=torch.bool)
    left[order] = False
    while left.any():
        ends = pairs[[order[0], order[-1]]].where(left, -torch.inf)
        end, nearest = divmod(int(ends.argmax()), n)
        order.insert(len(order) * end, nearest)
        left[nearest] = False
    return order
