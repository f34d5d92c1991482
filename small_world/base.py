"""A small FLUX.1 Kontext, taught the edits by words, as Kontext knows edits by words before any basis is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorweb_core.training.batch import Text
from lorweb_core.training.flow_matching import flow_loss, noised
from lorweb_core.training.flux_velocity import flux_velocity

from .autoencoder import CHANNELS
from .descent import Descent
from .edits import SINGLE, Edit
from .pool import Pool, grid

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

TEXT_WIDTH, TEXT_TOKENS = 768, 77
"""Of CLIP-L, which ComfyUI gives this model."""

CYCLES = (2500, 4000)
"""Steps of each rise and fall of the learning rate. What the first leaves is kept before the second begins."""

# What b' counts for beside the rest of the grid, which the base need only copy.
RESULT_WEIGHT = 4.0


def untrained(seed: int = 0) -> FluxTransformer2DModel:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(seed)
    return FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=128,  # which hosts take for granted
        num_attention_heads=1,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def instruction(edits: list[Edit]) -> Text:
    """Each edit's words, one token each, then tokens of zeros; no words are all zeros, as an analogy's prompt is."""
    words = torch.randn(len(SINGLE), TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(len(edits), TEXT_TOKENS, TEXT_WIDTH)
    names = list(SINGLE)
    for row, edit in enumerate(edits):
        for place, name in enumerate(edit):
            tokens[row, place] = words[names.index(name)]
    return Text(tokens, torch.zeros(len(edits), TEXT_WIDTH))


def train(model: FluxTransformer2DModel, pool: Pool, cycle: int, batch: int = 32, seed: int = 0) -> None:
    """One of CYCLES: b' by words, while the pair in the grid shows another edit, for that is a basis's to learn.

    Without words b stays as it is. The guidance embedding means nothing: it is told any number.
    """
    generator = torch.Generator().manual_seed(seed + cycle)

    def pick(count: int) -> Tensor:
        return torch.randint(count, (batch,), generator=generator)

    edits, k = len(pool.edits), pool.latents.shape[2]
    what = f"base, cycle {cycle + 1} of {len(CYCLES)}"
    for _ in (descent := Descent(what, model.parameters(), CYCLES[cycle])):
        told, shown, one, other = pick(edits), pick(edits), pick(k), pick(k)
        a, a_prime = pool.latents[shown, 0, one], pool.latents[shown, 1, one]
        b, b_prime = pool.latents[told, 0, other], pool.latents[told, 1, other]
        silent = torch.rand(batch, generator=generator) < 0.1
        b_prime = torch.where(silent[:, None, None, None], b, b_prime)
        text = instruction([() if quiet else pool.edits[i] for i, quiet in zip(told, silent, strict=True)])
        reference, target = grid(a, a_prime, b, b), grid(a, a_prime, b, b_prime)
        noise = torch.randn(target.shape, generator=generator)
        t = torch.sigmoid(1.2 * torch.randn(batch, generator=generator) + 0.4)
        guidance = 1 + 3 * torch.rand((), generator=generator).item()
        with torch.autocast("cpu", torch.bfloat16):
            velocity = flux_velocity(model, noised(target, noise, t), t, reference, text, guidance)
        descent.step(flow_loss(velocity, target, noise, torch.ones(batch), RESULT_WEIGHT).mean())
