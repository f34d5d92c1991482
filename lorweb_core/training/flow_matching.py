"""Flow matching on grids: x_t = (1 − t) x₀ + t ε, and the model learns the velocity ε − x₀ (FLUX's rectified flow)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (n, C, h, w), t (n,)) → the velocity, of x_t's shape."""


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    """Draw each from the thousand timesteps 0.001 to 1."""
    return torch.randint(1, 1001, (n,), generator=generator) / 1000


def _sigmoid(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator).sigmoid()


# How t is drawn, by the published name of the `timestep_type`; `shift` moves uniform ones as sampling does.
_DRAWN = {"weighted": _uniform, "linear": _uniform, "shift": _uniform, "sigmoid": _sigmoid}


def draw_timesteps(kind: str, n: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Draw n timesteps in (0, 1]. kind: `timestep_type` of a config; tokens: of the picture that is denoised."""
    t = _DRAWN[kind](n, generator)
    return shifted(t, tokens) if kind == "shift" else t


def timestep_weights(kind: str, t: Tensor) -> Tensor:
    """Weigh timesteps: how much each counts, 1 on average.

    `weighted` is what the published trainer does under that name: a bell around the middle, 0 at the ends. (Its table
    of weights is read and then overwritten by this bell.)
    """
    if kind != "weighted":
        return torch.ones_like(t)
    places = torch.arange(1000) / 1000
    bell = torch.exp(-2 * (places - 0.5) ** 2)
    weights = bell - bell.min()
    # t = 1 is the first of the thousand.
    return (weights / weights.mean())[(1000 * (1 - t)).round().long().clamp(0, 999)]


def shifted(t: Tensor, tokens: int) -> Tensor:
    """Shift timesteps towards noise as FLUX does.

    exp(μ) / (exp(μ) + 1/t − 1), where μ is 0.5 at 256 tokens and 1.15 at 4096.
    """
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    return math.exp(mu) / (math.exp(mu) + 1 / t - 1)


def noised(target: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    t = t.view(-1, *[1] * (target.ndim - 1))
    return (1 - t) * target + t * noise


def flow_loss(velocity: Tensor, target: Tensor, noise: Tensor, weights: Tensor, result_weight: float = 1.0) -> Tensor:
    """Compute the mean squared error of the velocity of each example, (n,), float32, times its weight.

    result_weight: how much more b', the bottom-right quarter of the grid, counts than the rest.
    """
    error = (velocity.float() - (noise - target).float()).square()
    counts = torch.ones(error.shape[-2:], device=error.device)
    counts[counts.shape[0] // 2 :, counts.shape[1] // 2 :] = result_weight
    return (error * (counts / counts.mean())).flatten(1).mean(1) * weights.to(error.device)


@torch.no_grad()
def sample(velocity: Velocity, noise: Tensor, steps: int, tokens: int) -> Tensor:
    """Sample latents from noise, (n, C, h, w), by Euler steps with FLUX's shift."""
    times = [*shifted(torch.linspace(1, 0, steps + 1)[:-1], tokens).tolist(), 0.0]
    x = noise
    for now, then in pairwise(times):
        x = x + (then - now) * velocity(x, torch.full((len(x),), now, device=x.device))
    return x
