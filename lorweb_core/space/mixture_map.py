"""A map of mixtures of one basis: as far apart in the plane as their changes ΔW are, and what each LoRA has in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..basis import Progress
from ..mixture import Mixture
from .blend import blend, check_same_basis
from .gram import basis_gram, inner, lora_sizes
from .inspection import ratio


def lora_shares(mixture: Mixture, progress: Progress | None = None) -> Tensor:
    """Compute each LoRA's part of the change, (N,), float64: ‖c_n A_n B_n‖ by the sum of these over the LoRAs.

    Of a batch the mean over its analogies. Raises LoRWebError for an activation-routed basis.
    """
    gram, table = basis_gram(mixture.basis, progress), mixture.table
    each = table.unbind(1) if table.ndim == 3 else [table]
    sizes = torch.stack([lora_sizes(gram, one) for one in each])
    return ratio(sizes, sizes.sum(-1, keepdim=True)).mean(0)


def principal_coordinates(products: Tensor) -> tuple[Tensor, float]:
    """Lay n points into the plane: classical scaling (Torgerson 1952) of the inner products (n, n) of their vectors.

    Returns (n, 2), float64, around 0, and the part of the sum of squared distances that the plane shows, 1 where there
    is none. Coordinates are linear in the vectors; of either axis the point that lies farthest out is positive.
    """
    n = len(products)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    values, vectors = torch.linalg.eigh(centring @ products.double() @ centring)
    values = values.clamp(min=0).flip(0)
    points = torch.zeros(n, 2, dtype=torch.float64)
    points[:, : min(n, 2)] = (vectors.flip(1) * values.sqrt())[:, :2]
    farthest = points.gather(0, points.abs().argmax(0, keepdim=True))
    return points * torch.where(farthest < 0, -1.0, 1.0), float(
        values[:2].sum() / values.sum()
    ) if values.any() else 1.0


def map_mixtures(mixtures: Sequence[Mixture], progress: Progress | None = None) -> tuple[Tensor, float]:
    """Lay mixtures of one basis into the plane by the distances ‖ΔW − ΔW'‖ of their changes: see principal_coordinates.

    A batch lies at its mean. Raises LoRWebError for mixtures of two bases and for an activation-routed one.
    """
    for mixture in mixtures[1:]:
        check_same_basis(mixtures[0], mixture)
    layers = mixtures[0].basis.layers
    tables = torch.stack([_mean([mixture.coefficients[layer] for layer in layers]) for mixture in mixtures])
    products = inner(basis_gram(mixtures[0].basis, progress), tables[:, None], tables[None]).sum(-1)
    return principal_coordinates(products)


def mixture_view(mixtures: Sequence[Mixture], origin: str = "zero", progress: Progress | None = None) -> dict[str, Any]:
    """Describe mixtures of one basis for a widget, by what strict JSON can hold.

    shares: of each mixture, of each LoRA. points: of each mixture, and at last of what weights of 0 give, counted from
    `origin` (see `blend`). seen: the part of their squared distances that the plane shows. Raises LoRWebError as
    `map_mixtures` and `blend` do.
    """
    nothing = blend(mixtures, [0.0] * len(mixtures), origin=origin)
    points, seen = map_mixtures([*mixtures, nothing], progress)
    return {
        "shares": [_rounded(lora_shares(mixture)) for mixture in mixtures],
        "points": [_rounded(point) for point in points],
        "seen": float(f"{seen:.4g}"),
    }


def _mean(coefficients: Sequence[Tensor]) -> Tensor:
    return torch.stack([c.view(-1, c.shape[-1]).mean(0) for c in coefficients])


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
