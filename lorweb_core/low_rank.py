"""ΔW of a layer in factored form, up · down: its singular values, and what it is nearest to at a lower rank.

Both factors are tall and thin: with a root of each, up = Q R, what is left between the Qs is a core of N·r × N·r, and
the nearest products are combinations of the factors' own columns and rows. No (out, in) matrix is made, nor a Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .checkpoint import BasisLayer


class Factors(NamedTuple):
    """Hold ΔW of a layer as a product, ΔW = up · down."""

    up: Tensor
    """(out, k)"""
    down: Tensor
    """(k, in)"""


class Roots(NamedTuple):
    """Hold R of each factor, up = Q R and downᵀ = Q R with orthonormal Qs: all that the core is made of. Float64."""

    up: Tensor
    """(≤ k, k)"""
    down: Tensor
    """(≤ k, k)"""


@dataclass(frozen=True, eq=False)
class Core:
    """Hold the singular value decomposition of a product of factors, of which it knows the roots alone."""

    values: Tensor
    """σ, largest first, float64: as many as the factors' rank, or as the smaller side of ΔW has."""
    left: Tensor
    """Singular vectors of the core on the side of `up`, a column each."""
    right: Tensor
    """Singular vectors on the side of `down`, a column each."""
    roots: Roots

    @property
    def tails(self) -> Tensor:
        """Compute ‖ΔW − ΔW_k‖² for each rank k from 0 to the full one, float64."""
        squares = self.values.square()
        return torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])

    def error(self, rank: int) -> float:
        """Compute ‖ΔW − ΔW_k‖ / ‖ΔW‖ of a rank; 0 for a change of zero."""
        tails = self.tails
        return float((tails[min(rank, len(self.values))] / tails[0]).sqrt()) if tails[0] else 0.0

    def least_rank(self, error: float) -> int:
        """Find the least rank, 1 or more, with ‖ΔW − ΔW_k‖ ≤ error · ‖ΔW‖."""
        tails = self.tails
        return max(1, int((tails <= error**2 * tails[0]).int().argmax()))

    def combinations(self, rank: int) -> Factors:
        """Tell which combinations of the factors make the nearest product: (k, rank) for up, (rank, k) for down.

        (up · first) · (second · down) is ΔW_rank, its singular values shared evenly. As Q_up U σ = ΔW Q_down V, neither
        Q is needed; a σ that is rounding is taken for 0.
        """
        values = self.values[:rank]
        smallest = torch.finfo(values.dtype).eps * len(self.values) * self.values[:1]
        halved = torch.where(values > smallest, values.rsqrt(), 0)
        return Factors(
            self.roots.down.mT @ self.right[:, :rank] * halved, halved[:, None] * self.left[:, :rank].mT @ self.roots.up
        )


@dataclass(frozen=True, eq=False)
class Decomposed(Core):
    """Hold the singular value decomposition of a product together with the product."""

    product: Factors

    def factors(self, rank: int) -> Factors:
        """Make the nearest product of that rank, its singular values shared evenly by both factors, float64."""
        up, down = self.combinations(rank)
        return Factors(self.product.up @ up, down @ self.product.down)


def mixed_factors(layer: BasisLayer, weights: Tensor) -> Factors:
    """Compute ΔW = Σ_n w_n (A_n B_n)ᵀ of one layer in factors; weights: (N,), with the layer's scale in them. Float64.

    LoRAs of weight 0 are left out.
    """
    heard = weights.nonzero()[:, 0]
    up = layer.B[heard].double().flatten(0, 1).T
    return Factors(up, (layer.A[heard].double() * weights[heard, None, None].double()).mT.flatten(0, 1))


def decompose(factors: Factors) -> Decomposed:
    """Compute the singular value decomposition of up · down, float64, by way of Householder reflections.

    So that what is left out, and what a file's dtype rounds away, are known however small they are.
    """
    roots = Roots(*(torch.linalg.qr(tall, mode="r").R for tall in (factors.up, factors.down.mT)))
    core = decompose_core(roots)
    return Decomposed(core.values, core.left, core.right, roots, factors)


def decompose_core(roots: Roots) -> Core:
    """Compute the singular value decomposition of the product whose factors have these roots."""
    U, values, Vh = torch.linalg.svd(roots.up @ roots.down.mT, full_matrices=False)
    return Core(values, U, Vh.mT, roots)


def gram_root(wide: Tensor) -> Tensor:
    """Compute a root of rows (k, m), in any dtype: R, (k, k) float64, with Rᵀ R = wide · wideᵀ.

    In a third of the time that reflections take, and right to 1e-8 of the largest singular value instead of 1e-16.
    """
    wide = wide.double()
    values, vectors = torch.linalg.eigh(wide @ wide.mT)
    return values.clamp(min=0).sqrt()[:, None] * vectors.mT


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
