"""ΔW of a layer in factored form, up · down: its singular values, and what it is nearest to at a lower rank.

Both factors are tall and thin: each is made orthogonal by Householder reflections, which are applied only to the few
columns that are kept, and what is left between them is a core of N·r × N·r. No (out, in) matrix is made. In float64,
so that what is left out and what a file's dtype rounds away are known however small they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoint import BasisLayer


class Factors(NamedTuple):
    """Hold ΔW of a layer as a product, ΔW = up · down."""

    up: Tensor
    """(out, k)"""
    down: Tensor
    """(k, in)"""


class Decomposed(NamedTuple):
    """Hold the singular values of a product of factors, and what its approximations are made of."""

    values: Tensor
    """σ, largest first, float64: as many as the factors' rank, or as the smaller side of ΔW has."""
    left: tuple[Tensor, Tensor, Tensor]
    """Left side: reflections, their scales, and the core's singular vectors there."""
    right: tuple[Tensor, Tensor, Tensor]

    @property
    def tails(self) -> Tensor:
        """Compute ‖ΔW − ΔW_k‖² for each rank k from 0 to the full one, float64."""
        squares = self.values.square()
        return torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])

    def least_rank(self, error: float) -> int:
        """Find the least rank, 1 or more, with ‖ΔW − ΔW_k‖ ≤ error · ‖ΔW‖."""
        tails = self.tails
        return max(1, int((tails <= error**2 * tails[0]).int().argmax()))

    def factors(self, rank: int) -> Factors:
        """Make the nearest product of that rank, its singular values shared evenly by both factors, float64."""
        scale = self.values[:rank].sqrt()
        return Factors(_reflected(self.left, scale), _reflected(self.right, scale).mT)


def mixed_factors(layer: BasisLayer, weights: Tensor) -> Factors:
    """Compute ΔW = Σ_n w_n (A_n B_n)ᵀ of one layer in factors; weights: (N,), with the layer's scale in them. Float64.

    LoRAs of weight 0 are left out.
    """
    heard = weights.nonzero()[:, 0]
    up = layer.B[heard].double().flatten(0, 1).T
    return Factors(up, (layer.A[heard].double() * weights[heard, None, None].double()).mT.flatten(0, 1))


def decompose(factors: Factors) -> Decomposed:
    """Compute the singular value decomposition of up · down, by way of their small core."""
    left, scales_left, R_left = _orthogonal(factors.up)
    right, scales_right, R_right = _orthogonal(factors.down.mT)
    U, values, Vh = torch.linalg.svd(R_left @ R_right.mT, full_matrices=False)
    return Decomposed(values, (left, scales_left, U), (right, scales_right, Vh.mT))


def _orthogonal(tall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factor (m, n) = Q R: the reflections that make up Q, (m, k), their scales (k,), and R (k, n); k = min(m, n)."""
    reflections, scales = torch.geqrf(tall)
    k = len(scales)
    return reflections[:, :k], scales, reflections[:k].triu()


def _reflected(side: tuple[Tensor, Tensor, Tensor], scale: Tensor) -> Tensor:
    """Multiply Q by the first singular vectors, each scaled: (m, len(scale))."""
    reflections, scales, vectors = side
    columns = vectors.new_zeros(len(reflections), len(scale))
    columns[: len(vectors)] = vectors[:, : len(scale)] * scale
    return torch.ormqr(reflections, scales, columns)


def squared_product(left: Tensor, right: Tensor) -> float:
    """Compute ‖left · right‖² of factors (out, k) and (k, in), from their Gram matrices: none of its terms cancels."""
    return float(((left.mT @ left) * (right @ right.mT)).sum())


def squared_rounding(exact: Factors, stored: Factors) -> float:
    """Compute ‖stored product − exact product‖², by way of δ = stored − exact of each factor. All float64."""
    up_delta, down_delta = stored.up - exact.up, stored.down - exact.down
    if not up_delta.any():
        return squared_product(exact.up, down_delta)
    return squared_product(torch.cat([up_delta, exact.up], 1), torch.cat([stored.down, down_delta]))


def squared_rounding_of_many(exact: Factors, stored: Factors) -> float:
    """Estimate `squared_rounding` where both sides are long: the roundings of two columns have nothing in common."""
    up_delta, down_delta = stored.up - exact.up, stored.down - exact.down
    of_up = up_delta.square().sum(0) * stored.down.square().sum(1)
    return float((of_up + exact.up.square().sum(0) * down_delta.square().sum(1)).sum())
