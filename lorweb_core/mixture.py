"""A point in the space of LoRAs: a basis and, for each of its layers, N coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import LoRWebError, named

if TYPE_CHECKING:
    from .basis import LoRABasis
    from .likeness import Likeness
    from .pictures.thumbnails import Thumbnails


LARGEST = 1e8
"""Limit of a coefficient after blends and edits; the encoder gives none beyond 1."""


@dataclass(frozen=True, eq=False, repr=False)
class Mixture:
    """Hold a basis and the coefficients of its LoRAs; the basis is shared: a further mixture costs its coefficients."""

    basis: LoRABasis
    coefficients: Mapping[str, Tensor]
    """Layer name, `transformer.` included → (N,), float32; (n, N) for a batch of n analogies.

    Empty for an activation-routed basis, whose coefficients come into being in the layers.
    """
    thumbnails: tuple[Thumbnails, ...] = ()
    """Small pictures of the analogies that it was made of, to look at."""
    origin: Mixture | None = None
    """Mixture of no edit, from which this one's edit counts: that of (a, a, b). It is of as many analogies, or of one.

    None where nothing knows it, as in files of older versions.
    """
    seen: tuple[Likeness, ...] = ()
    """Likenesses of what the encoder was shown, one for each analogy; files do not have them.

    Empty where the mixture may be used for whatever is shown: once it is fitted, blended or loaded.
    """

    def __repr__(self) -> str:
        # Hosts write out inputs where a node fails: never hundreds of tensors.
        return f"<Mixture of {self.basis!r}, {self.analogies} analogies>"

    @property
    def table(self) -> Tensor:
        """Return the coefficients of all layers, in the basis's order: (layers, N), of a batch (layers, n, N).

        Raises LoRWebError for an activation-routed basis.
        """
        if not self.coefficients:
            raise LoRWebError(
                f"{named(self.basis.name)} routes by each layer's own input (external_query: false): it has no "
                "coefficients before sampling, so there is nothing to look at, to change or to keep."
            )
        return torch.stack([self.coefficients[layer] for layer in self.basis.layers])

    def with_table(self, table: Tensor) -> Mixture:
        """Make a copy with other coefficients, given as in `table`. Raises LoRWebError as `check_values` does."""
        changed = replace(self, coefficients=dict(zip(self.basis.layers, table.float(), strict=True)))
        changed.check_values()
        return changed

    @property
    def origin_table(self) -> Tensor:
        """Return the coefficients of no edit, in the form of `table`. Raises LoRWebError if nothing knows them."""
        if self.origin is None:
            raise LoRWebError(
                "A mixture has no origin, the mixture of no edit: it was saved by an older version, or not made from "
                "pictures. Make it again with the Analogy Encoder, or set origin to zero."
            )
        table, own = replace(self.origin, basis=self.basis).table, self.table
        return table if table.ndim == own.ndim else table[:, None].expand_as(own)

    def split(self) -> list[Mixture]:
        """Split a batch into the mixtures of its analogies; one of a single analogy is given back as itself."""
        if self.coefficients and next(iter(self.coefficients.values())).ndim == 1:
            return [self]
        shown = self.thumbnails if len(self.thumbnails) == self.analogies else ()
        seen = self.seen if len(self.seen) == self.analogies else ()
        origins = self.origin.split() if self.origin else [None]
        origins *= self.analogies // len(origins)
        return [
            replace(self.with_table(table), thumbnails=shown[i : i + 1], origin=origin, seen=seen[i : i + 1])
            for i, (table, origin) in enumerate(zip(self.table.unbind(1), origins, strict=True))
        ]

    @property
    def analogies(self) -> int:
        """Count the analogies that this is the mixture of; an activation-routed one is of any number, and says 1."""
        first = next(iter(self.coefficients.values()), None)
        return 1 if first is None or first.ndim == 1 else len(first)

    def delta(self, layer: str) -> Tensor:
        """Compute ΔW of one layer, (out, in) or for a batch (n, out, in), float32; `layer` as in `coefficients`."""
        if not self.coefficients:
            raise LoRWebError(
                f"{named(self.basis.name)} routes by each layer's own input: there is no ΔW before sampling."
            )
        part = self.basis.layers[layer]
        return mixed_delta(part.A, part.B, self.coefficients[layer], part.scale, torch.float32)

    def check_values(self, file: str | None = None) -> None:
        """Raise LoRWebError on the first layer whose coefficients are not finite, or beyond LARGEST.

        file: what the error names; None for the basis's.
        """
        if self.origin:
            self.origin.check_values(f"{file or named(self.basis.name)}, its origin")
        if not self.coefficients or (self.table.abs() <= LARGEST).all():
            return
        for layer, coefficients in self.coefficients.items():
            where = f"{file or named(self.basis.name)}: the coefficients of layer {named(layer)}"
            if not coefficients.isfinite().all():
                raise LoRWebError(f"{where} have NaN or infinity.")
            if not (coefficients.abs() <= LARGEST).all():
                raise LoRWebError(
                    f"{where} are up to {float(coefficients.abs().max()):.3g}; expected {LARGEST:.0g} at most."
                )


def mixed_delta(A: Tensor, B: Tensor, coefficients: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Compute ΔW = scale · Σ_n c_n (A_n B_n)ᵀ as one product of rank N·r.

    A: (N, in, r), B: (N, r, out), coefficients: (..., N) float32. Returns (..., out, in), in `dtype`.
    The coefficients go onto A in float32, so that a half-precision `dtype` rounds each factor once.
    """
    weighted = (A.float() * (scale * coefficients)[..., None, None]).to(dtype)
    return B.to(dtype).flatten(0, 1).T @ weighted.mT.flatten(-3, -2)
