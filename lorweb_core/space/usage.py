"""How a basis is used over many analogies: how evenly its LoRAs are mixed, what each adds, and which add nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..basis import LoRABasis
from ..checkpoint import BasisLayer
from ..errors import LoRWebError, named
from .inspection import entropy

DEAD = 0.01
"""Part of an even share, 1 / N, below which a LoRA is dead if it stays there for every analogy in every layer."""


@dataclass(frozen=True, eq=False)
class Usage:
    """Hold how a basis is used over n analogies.

    A LoRA's share is ‖c_n A_n B_n‖ by the sum of these over the N LoRAs; float64, on the CPU.
    """

    layers: tuple[str, ...]
    analogies: int
    entropy: Tensor
    """(layers,), from 0 where each analogy has one LoRA to 1 where all alike: the mean of the entropy of |c| / Σ|c| by
    log N. 0 for N = 1.
    """
    layer_shares: Tensor
    """(layers, N): the mean over the analogies of the shares in each layer's change; 0 where there is none."""
    largest: Tensor
    """(layers, N): the largest of the shares over the analogies."""
    shares: Tensor
    """(N,): the mean over the analogies of the shares in the change of all layers."""

    @property
    def dead(self) -> list[int]:
        """Find the LoRAs that no analogy uses anywhere.

        None of a basis that changes nothing yet: its B begin as zero.
        """
        if not self.largest.any():
            return []
        return (self.largest.amax(0) < DEAD / len(self.shares)).nonzero().flatten().tolist()

    def described(self) -> dict[str, Any]:
        """Describe the whole basis by what strict JSON can hold."""
        return {
            "analogies": self.analogies,
            "layers": len(self.layers),
            "entropy": float(f"{self.entropy.mean():.5g}"),
            "shares": [float(f"{share:.5g}") for share in self.shares.tolist()],
            "dead": self.dead,
        }


def basis_usage(basis: LoRABasis, queries: Tensor) -> Usage:
    """Measure the usage of a basis over n analogies, by their queries, (n, k, Q/k), as `encode_queries` gives them.

    Raises LoRWebError for an activation-routed basis, and as `LoRABasis.route` does.
    """
    mixture = basis.route(queries)
    return measure_usage(mixture.coefficients, basis.layers)


def measure_usage(coefficients: Mapping[str, Tensor], layers: Mapping[str, BasisLayer]) -> Usage:
    """Measure the usage of a basis by coefficients that are there already, such as a training's.

    coefficients: layer → (n, N), or (N,) for one analogy. layers: the same names. Raises LoRWebError if there is no
    coefficient, or if one is not finite.
    """
    if not coefficients:
        raise LoRWebError(
            "There are no coefficients to tell the usage of a basis by: one that is routed by activation "
            "(external_query: false) has them inside the forward pass only."
        )
    entropies, means, largest, squares = [], [], [], []
    for name, given in coefficients.items():
        table = given.detach().cpu().double().view(-1, given.shape[-1])
        sizes = table.abs() * _lora_norms(layers[name])
        if not sizes.isfinite().all():
            raise LoRWebError(f"The coefficients or the LoRAs of layer {named(name)} have NaN or infinity.")
        shares = _shares(sizes)
        entropies.append((entropy(table) / max(math.log2(table.shape[1]), 1)).mean())
        means.append(shares.mean(0))
        largest.append(shares.amax(0))
        squares.append(sizes**2)
    return Usage(
        layers=tuple(coefficients),
        analogies=len(table),
        entropy=torch.stack(entropies),
        layer_shares=torch.stack(means),
        largest=torch.stack(largest),
        shares=_shares(torch.stack(squares).sum(0).sqrt()).mean(0),
    )


def _lora_norms(layer: BasisLayer) -> Tensor:
    """Compute ‖A_n B_n‖ of a layer, times its scale: (N,), float64. As ⟨A_nᵀ A_n, B_n B_nᵀ⟩, of r×r products alone."""
    A, B = layer.A.detach().float(), layer.B.detach().float()
    squares = ((A.mT @ A) * (B @ B.mT)).sum((1, 2)).cpu().double()
    # Rounding may leave a square a little below 0.
    return abs(layer.scale) * squares.clamp(min=0).sqrt()


def _shares(sizes: Tensor) -> Tensor:
    """Divide each row of (n, N) by its sum; 0 where that is 0."""
    return sizes / sizes.sum(-1, keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)
