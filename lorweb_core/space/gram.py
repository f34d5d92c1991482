"""How the N changes A_n B_n of each layer lie to one another: all lengths and angles in the space of LoRAs come of it.

⟨A_n B_n, A_m B_m⟩ = Σ (A_nᵀ A_m) ∘ (B_n B_mᵀ), so that r×r products do, and no (in, out) matrix is made.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..basis import LoRABasis, Progress
from ..checkpoint import BasisLayer

_known: WeakKeyDictionary[LoRABasis, Tensor] = WeakKeyDictionary()


def basis_gram(basis: LoRABasis, progress: Progress | None = None) -> Tensor:
    """Compute the inner products of the changes scale · A_n B_n, per layer: (layers, N, N), float64.

    They are kept as long as the basis."""
    if basis not in _known:
        grams = []
        for done, layer in enumerate(basis.layers.values()):
            if progress:
                progress(done, len(basis.layers))
            grams.append(layer_gram(layer))
        _known[basis] = torch.stack(grams)
        if progress:
            progress(len(grams), len(grams))
    return _known[basis]


def layer_gram(layer: BasisLayer) -> Tensor:
    """Compute the inner products of one layer, (N, N), float64, of products in float32."""
    n, r = layer.A.shape[0], layer.A.shape[2]
    A = layer.A.mT.flatten(0, 1).float()
    B = layer.B.flatten(0, 1).float()
    return layer.scale**2 * ((A @ A.T) * (B @ B.T)).view(n, r, n, r).sum((1, 3), dtype=torch.float64)


def inner(gram: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Compute ⟨ΔW_x, ΔW_y⟩ of each layer, for coefficients x, y (..., layers, N) → (..., layers), float64."""
    return torch.einsum("...ln,lnm,...lm->...l", x.double(), gram, y.double())


def lora_sizes(gram: Tensor, table: Tensor) -> Tensor:
    """Compute ‖c_n A_n B_n‖ over all layers, for coefficients (layers, N) → (N,), float64."""
    return (table.double() ** 2 * gram.diagonal(dim1=1, dim2=2)).sum(0).sqrt()
