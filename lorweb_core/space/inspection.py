"""One mixture in numbers: which LoRAs it chooses where, how much they change, and how far it is from another."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..basis import Progress
from ..errors import LoRWebError
from ..layer_names import parse
from ..mixture import Mixture
from ..pictures.thumbnails import Thumbnails
from .blend import check_same_basis
from .gram import basis_gram, inner, lora_sizes


@dataclass(frozen=True, eq=False)
class Inspection:
    """Hold one analogy's mixture in numbers. Sizes are Frobenius norms of changes of weights, float64."""

    basis: str
    layers: tuple[str, ...]
    coefficients: Tensor
    """(layers, N), float32"""
    entropy: Tensor
    """(layers,), bits, of |c| / Σ|c|: 0 where one LoRA is chosen (or none), log2 N where all alike."""
    layer_sizes: Tensor
    """(layers,): ‖ΔW‖ of each layer."""
    lora_sizes: Tensor
    """(N,): ‖c_n A_n B_n‖ over all layers."""
    total: float
    """‖ΔW‖ over all layers."""
    thumbnails: tuple[Thumbnails, ...] = ()
    compared: Comparison | None = None

    @property
    def ranking(self) -> list[int]:
        """Rank the LoRAs by size, the largest first; of equals the first."""
        return self.lora_sizes.sort(descending=True, stable=True).indices.tolist()

    @property
    def shares(self) -> Tensor:
        """Compute each LoRA's part, (N,), of the sum of their sizes; 0 where all are 0."""
        return ratio(self.lora_sizes, self.lora_sizes.sum())

    def to_json(self) -> str:
        """Write all but the thumbnails in strict JSON; numbers are rounded to 7 digits."""
        return json.dumps(self._described(), ensure_ascii=False, allow_nan=False)

    def _described(self) -> dict:
        table, sizes, shares = _rounded(self.coefficients), _rounded(self.lora_sizes), _rounded(self.shares)
        rows = zip(self.layers, table, _rounded(self.entropy), _rounded(self.layer_sizes), strict=True)
        described = {
            "basis": self.basis,
            "loras": len(sizes),
            "total_size": _rounded(self.total),
            "ranking": [{"lora": n, "size": sizes[n], "share": shares[n]} for n in self.ranking],
            "layers": [
                {"name": name, **parse(name)._asdict(), "entropy_bits": entropy, "size": size, "coefficients": c}
                for name, c, entropy, size in rows
            ],
        }
        return described | ({"compared": self.compared.described(self.layers)} if self.compared else {})


@dataclass(frozen=True, eq=False)
class Comparison:
    """Compare a mixture with another one of the same basis. A cosine is 0 where one of the two is 0."""

    other: Inspection
    difference: Tensor
    """(layers, N): this mixture's coefficients less the other's."""
    cosine: float
    """Cosine of the coefficients, all layers as one vector."""
    layer_cosines: Tensor
    """(layers,): cosine of each layer's coefficients."""
    change_cosine: float
    """Cosine of the changes ΔW, all layers as one vector."""
    layer_change_cosines: Tensor
    """(layers,): cosine of each layer's ΔW."""

    def described(self, layers: tuple[str, ...]) -> dict:
        rows = zip(
            layers,
            _rounded(self.difference),
            _rounded(self.layer_cosines),
            _rounded(self.layer_change_cosines),
            strict=True,
        )
        return {
            "cosine": _rounded(self.cosine),
            "change_cosine": _rounded(self.change_cosine),
            "layers": [
                {"name": name, "cosine": cosine, "change_cosine": change, "difference": difference}
                for name, difference, cosine, change in rows
            ],
            "other": self.other._described(),
        }


def inspect_mixture(mixture: Mixture, other: Mixture | None = None, progress: Progress | None = None) -> Inspection:
    """Inspect one analogy's mixture in numbers, and with `other` how the two lie to one another.

    Reads the whole basis once, to know its LoRAs' sizes and angles; `progress` is told of that.
    Raises LoRWebError for a batch, for an activation-routed basis, for mixtures of different bases, and if a
    coefficient is not finite.
    """
    for one in filter(None, (mixture, other)):
        if one.table.ndim > 2:
            raise LoRWebError(
                f"The mixture is a batch of {one.analogies} analogies; expected one. Take them apart first."
            )
        one.check_values()
    if other is not None:
        check_same_basis(mixture, other)
        # The same basis may be loaded twice, with its layers in another order.
        other = replace(other, basis=mixture.basis)
    gram = basis_gram(mixture.basis, progress)
    seen = _seen(mixture, gram)
    if other is None:
        return seen
    return _seen(mixture, gram, _compared(seen, _seen(other, gram), gram))


def inspect_batch(mixture: Mixture, other: Mixture | None = None, progress: Progress | None = None) -> list[Inspection]:
    """Inspect the mixture of each analogy of a batch. `other` is of one analogy, or of as many."""
    ones = mixture.split()
    others = [None] if other is None else other.split()
    if len(others) not in (1, len(ones)):
        raise LoRWebError(
            f"The mixture is of {len(ones)} analogies and the one to compare it with of {len(others)}. Give one of as "
            "many, or of one."
        )
    if len(others) < len(ones):
        others *= len(ones)
    return [inspect_mixture(one, beside, progress) for one, beside in zip(ones, others, strict=True)]


def _seen(mixture: Mixture, gram: Tensor, compared: Comparison | None = None) -> Inspection:
    table = mixture.table
    squares = _squares(gram, table)
    return Inspection(
        basis=mixture.basis.name,
        layers=tuple(mixture.basis.layers),
        coefficients=table,
        entropy=entropy(table),
        layer_sizes=squares.sqrt(),
        lora_sizes=lora_sizes(gram, table),
        total=float(squares.sum().sqrt()),
        thumbnails=mixture.thumbnails,
        compared=compared,
    )


def entropy(table: Tensor) -> Tensor:
    """Compute the entropy of coefficients (..., N) → (...), bits, of |c| / Σ|c|; 0 where all are 0."""
    mass = table.double().abs()
    return torch.special.entr(ratio(mass, mass.sum(-1, keepdim=True))).sum(-1) / math.log(2)


def _compared(one: Inspection, other: Inspection, gram: Tensor) -> Comparison:
    x, y = one.coefficients.double(), other.coefficients.double()
    products, changes = x * y, inner(gram, x, y)
    return Comparison(
        other=other,
        difference=one.coefficients - other.coefficients,
        cosine=float(_cosine(products.sum(), x.norm(), y.norm())),
        layer_cosines=_cosine(products.sum(-1), x.norm(dim=-1), y.norm(dim=-1)),
        change_cosine=float(_cosine(changes.sum(), one.layer_sizes.norm(), other.layer_sizes.norm())),
        layer_change_cosines=_cosine(changes, one.layer_sizes, other.layer_sizes),
    )


def _squares(gram: Tensor, table: Tensor) -> Tensor:
    # Where LoRAs cancel, rounding leaves a square that may lie below 0.
    return inner(gram, table, table).clamp(min=0)


def _cosine(product: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return ratio(product, x * y).clamp(-1, 1)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Compute part / whole; 0 where the whole is 0."""
    return torch.where(whole > 0, part / whole.where(whole > 0, torch.ones_like(whole)), 0.0)


def _rounded(values: Tensor | float) -> Any:
    if isinstance(values, float):
        return float(f"{values:.7g}")
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.7g}") for value in values.tolist()]
