"""Make the coefficients of every layer of the few parameters that are fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..checkpoint import BasisLayer
from ..mixture import Mixture
from ..routing import mixing_coefficients
from ..space.logits import to_logits, to_scores


class Coefficients(nn.Module):
    """Fit the coefficients themselves, (layers, N)."""

    def __init__(self, start: Mixture):
        super().__init__()
        self.table = nn.Parameter(start.table.float().clone())

    def forward(self) -> Tensor:
        """Make the coefficients of all layers, (layers, N), as `Mixture.table` has them."""
        return self.table


class LogitTable(nn.Module):
    """Fit the logits behind them, (layers, N): with softmax none becomes negative, and a layer keeps its sum."""

    def __init__(self, start: Mixture):
        super().__init__()
        config = start.basis.config
        self.softmax, self.parts = config.lora_softmax, config.lora_parts
        logits, mass = to_logits(start.table, self.softmax, self.parts)
        self.table = nn.Parameter(logits.float())
        self.register_buffer("mass", mass.float())

    def forward(self) -> Tensor:
        return to_scores(self.table, cast(Tensor, self.mass), self.softmax, self.parts)


class Query(nn.Module):
    """Fit one query for all layers, (Q,), from zeros: a start keeps what it differs from the mixture of a query of 0.

    It is the query that the layers see, behind the query network where the basis has one. Each layer's coefficients are
    changed by what the query changes in the basis's own routing.
    """

    def __init__(self, start: Mixture):
        super().__init__()
        basis = start.basis
        self.config = basis.config
        self.query = nn.Parameter(torch.zeros(basis.query_width))
        layers = list(basis.layers.values())
        self.register_buffer("keys", torch.stack([layer.keys for layer in layers]).float())
        self.register_buffer("projections", _projections(layers))
        self.register_buffer("offset", start.table - self._routed().detach())

    def forward(self) -> Tensor:
        return self._routed() + cast(Tensor, self.offset)

    def _routed(self) -> Tensor:
        keys, projections = cast(Tensor, self.keys), cast("Tensor | None", self.projections)
        query = self.query.expand(len(keys), -1) if projections is None else projections @ self.query
        config = self.config
        return mixing_coefficients(
            query[:, None],
            keys,
            config.lora_heads,
            config.lora_softmax,
            config.mixing_coeffs_type,
            config.lora_parts,
        )


def _projections(layers: list[BasisLayer]) -> Tensor | None:
    held = [layer.projection for layer in layers if layer.projection is not None]
    return torch.stack(held).float() if held else None


FITTED: dict[str, Callable[[Mixture], nn.Module]] = {
    "coefficients": Coefficients,
    "logits": LogitTable,
    "query": Query,
}
"""Modules by what they fit: each is made of the start, and gives a table of coefficients, differentiable."""
