"""What is minimized: the flow-matching loss of a batch of analogies, as a function of the basis alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from ..routing import Tokens
from .data.batch import Batch, Text
from .flow_matching import draw_timesteps, flow_loss, noised, timestep_weights
from .settings.config import TrainSettings
from .trainable_basis import Linears, TrainableBasis


class Base(Protocol):
    """Describe the frozen model that a basis is learned for."""

    model: nn.Module
    linears: Linears
    """Those Linears of the model that get a basis."""
    shapes: Mapping[str, tuple[int, int]]
    """Layer of the basis → (in, out)."""
    device: torch.device
    dtype: torch.dtype

    def velocity(self, x: Tensor, t: Tensor, batch: Batch, every_token: bool = True) -> Tensor:
        """Predict the velocity at x, (n, C, h, w), and times t, (n,), of a batch's targets, with its references.

        every_token: each text token comes to the layers, as an activation-routed basis looks at them all; False lets
        the base compute those that repeat once, with the same result.
        """

    def tokens(self, batch: Batch) -> Tokens:
        """Tell how the tokens of such a forward pass are made up."""

    def decode(self, latents: Tensor) -> Tensor:
        """Make pictures (n, H, W, 3), float32 in 0–1, on the CPU, of latents (n, C, h, w)."""

    def training(self, checkpointing: bool) -> AbstractContextManager[None]:
        """Have the model where it computes, and gradients through it; afterwards it is as it was before.

        checkpointing: its blocks compute again in the backward pass what they do not keep.
        """

    def guided(self, guidance: float) -> AbstractContextManager[None]:
        """Tell the guidance embedding another number, for samples; pictures may be decoded meanwhile."""


class Objective(nn.Module):
    """Hold the basis's parameters and no others, so that these are what processes share."""

    base: Base

    def __init__(self, basis: TrainableBasis, base: Base, settings: TrainSettings):
        super().__init__()
        self.basis = basis
        self.settings = settings
        self.__dict__["base"] = base  # whatever it is made of: none of it is learned

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Compute the loss of each analogy, (n,). generator: of its noise and timesteps."""
        base, settings = self.base, self.settings
        t = draw_timesteps(settings.timestep_type, len(batch.target), grid_tokens(batch), generator)
        noise = torch.randn(batch.target.shape, generator=generator)
        batch = move_batch(self._with_dropout(batch, generator), base)
        coefficients = self.basis.route(batch.query, base.tokens(batch))
        result_weight = settings.result_weight if settings.sampled == "grid" else 1.0
        every_token = not self.basis.config.external_query
        weights = timestep_weights(settings.timestep_type, t)
        loss = denoising_loss(base, batch, t, noise, weights, result_weight, every_token)
        if settings.coefficient_entropy:
            loss = loss + settings.coefficient_entropy * mean_entropy(coefficients)
        return loss

    def _with_dropout(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Drop values of the queries as the settings say; nothing is drawn where they say none."""
        share = self.settings.query_dropout
        if not share or batch.query is None:
            return batch
        kept = torch.rand(batch.query.shape, generator=generator).to(batch.query.device) >= share
        return batch._replace(query=batch.query * kept / (1 - share))


def mean_entropy(coefficients: Mapping[str, Tensor]) -> Tensor:
    """Compute the entropy of |c| / Σ|c| by log N, 0 for one LoRA to 1 for all alike: (n,), the mean over the layers.

    coefficients: layer → (n, N). One LoRA has no entropy.
    """
    table = torch.stack(list(coefficients.values())).abs()
    tiny = torch.finfo(table.dtype).tiny
    shares = table / table.sum(-1, keepdim=True).clamp(min=tiny)
    return -(shares * shares.clamp(min=tiny).log()).sum(-1).mean(0) / max(math.log(table.shape[-1]), 1)


def denoising_loss(
    base: Base,
    batch: Batch,
    t: Tensor,
    noise: Tensor,
    weights: Tensor,
    result_weight: float = 1.0,
    every_token: bool = False,
) -> Tensor:
    """Compute the loss of each analogy of a batch that is on the base, (n,), at the times t, (n,), and this noise.

    weights, result_weight: as for `flow_loss`. every_token: as for `Base.velocity`.
    """
    t, noise = t.to(base.device), noise.to(base.device)
    target = batch.target.float()
    x = noised(target, noise, t).to(base.dtype)
    velocity = base.velocity(x, t, batch, every_token)
    return flow_loss(velocity, target, noise, weights, result_weight)


def grid_tokens(batch: Batch) -> int:
    """Count the tokens of the whole grid, by which noise levels shift whatever of it is sampled, as published."""
    return batch.reference.shape[-2] * batch.reference.shape[-1] // 4


def move_batch(batch: Batch, base: Base) -> Batch:
    """Move a batch to the base's device and dtype; the query stays float32, in which routing is done."""

    def moved(values: Tensor) -> Tensor:
        return values.to(base.device, base.dtype)

    return batch._replace(
        target=batch.target.to(base.device),
        reference=moved(batch.reference),
        query=None if batch.query is None else batch.query.to(base.device),
        text=Text(*map(moved, batch.text)),
    )
