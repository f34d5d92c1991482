"""What is minimized: the flow-matching loss of a batch of analogies, as a function of the basis alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..routing import Tokens
from .data.batch import Batch, Text
from .flow_matching import draw_timesteps, flow_loss, noised, timestep_weights
from .settings.config import TrainSettings
from .trainable_basis import Linears, TrainableBasis


class Base(Protocol):
    """The frozen model that a basis is learned for."""

    model: nn.Module
    linears: Linears
    """Of the model: those that get a basis."""
    shapes: Mapping[str, tuple[int, int]]
    """Layer of the basis → (in, out)."""
    device: torch.device
    dtype: torch.dtype
    every_token: bool
    """Whether each text token must come to the layers, though it be like the one before: an activation-routed basis
    looks at them. Set by the Objective.
    """

    def velocity(self, x: Tensor, t: Tensor, reference: Tensor, text: Text) -> Tensor:
        """At x, (n, C, h, w), and times t, (n,), with one reference for each picture."""

    def tokens(self, batch: Batch) -> Tokens:
        """How the tokens of such a forward pass are made up."""

    def decode(self, latents: Tensor) -> Tensor:
        """(n, C, h, w) → pictures (n, H, W, 3), float32 in 0–1, on the CPU."""


class Objective(nn.Module):
    """A module of the basis's parameters and no others, so that these are what processes share."""

    def __init__(self, basis: TrainableBasis, base: Base, settings: TrainSettings):
        super().__init__()
        self.basis = basis
        self.settings = settings
        base.every_token = not basis.config.external_query
        self.__dict__["base"] = base  # whatever it is made of: none of it is learned

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The loss of each analogy, (n,). generator: of its noise and timesteps."""
        base, settings = self.base, self.settings
        tokens = batch.target.shape[-2] * batch.target.shape[-1] // 4
        t = draw_timesteps(settings.timestep_type, len(batch.target), tokens, generator)
        noise = torch.randn(batch.target.shape, generator=generator).to(base.device)
        weights = timestep_weights(settings.timestep_type, t)
        batch, t = to(batch, base), t.to(base.device)
        target = batch.target.float()
        self.basis.tokens = base.tokens(batch)
        self.basis.route(batch.query)
        velocity = base.velocity(noised(target, noise, t).to(base.dtype), t, batch.reference, batch.text)
        return flow_loss(velocity, target, noise, weights, settings.result_weight)


def to(batch: Batch, base: Base) -> Batch:
    """Where the base is, in what it computes in; the query stays float32, in which routing is done."""

    def moved(values: Tensor) -> Tensor:
        return values.to(base.device, base.dtype)

    return batch._replace(
        target=batch.target.to(base.device),
        reference=moved(batch.reference),
        query=None if batch.query is None else batch.query.to(base.device),
        text=Text(*map(moved, batch.text)),
    )
