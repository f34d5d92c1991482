"""A small FLUX.1 Kontext, taught the edits by words, as Kontext knows edits by words before any basis is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lorweb_core.diffusers_backend.velocity import flux_velocity
from lorweb_core.training.data.batch import Text
from lorweb_core.training.flow_matching import flow_loss, noised
from small_world.models.autoencoder import CHANNELS
from small_world.models.one_cycle import OneCycle
from small_world.world.drawn_grids import Encode, Grids, draw_pairs, encode_grids
from small_world.world.edits import SINGLE, Edit, taught_by_words

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

TEXT_WIDTH, TEXT_TOKENS = 768, 77
"""Size of CLIP-L's output, which ComfyUI gives this model."""

CYCLES = (2500, 4000, 6000)
"""Steps of each rise and fall of the learning rate. The model is saved after each."""

EACH = 80
"""Grids for each edit that is taught."""

RESULT_WEIGHT = 4.0
"""Weight of b' in the loss; the rest of the grid, which the base need only copy, has 1."""


def untrained(seed: int = 0) -> FluxTransformer2DModel:
    """Make the transformer with random weights."""
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
    """Encode each edit's words, one token each, then zeros; no words are all zeros, as an analogy's prompt is."""
    words = torch.randn(len(SINGLE), TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(len(edits), TEXT_TOKENS, TEXT_WIDTH)
    names = list(SINGLE)
    for row, edit in enumerate(edits):
        for place, name in enumerate(edit):
            tokens[row, place] = words[names.index(name)]
    return Text(tokens, torch.zeros(len(edits), TEXT_WIDTH))


def draw_lessons(encode: Encode, seed: int = 1) -> Grids:
    """Draw EACH grids for every edit that is taught, one edit after the other.

    The pair in them shows some other edit: to follow it is for a basis to learn.
    """
    random = torch.Generator().manual_seed(seed)
    tasks = draw_pairs(taught_by_words(), EACH, random)
    return encode_grids(encode, tasks[torch.randperm(len(tasks), generator=random)], tasks)


def train(model: FluxTransformer2DModel, lessons: Grids, cycle: int, batch: int = 32, seed: int = 0) -> None:
    """Train the model in one of CYCLES to make b' by words, and without words to leave b as it is.

    The guidance embedding learns to mean nothing: it gets random numbers.
    """
    generator = torch.Generator().manual_seed(seed + cycle)
    taught = taught_by_words()
    what = f"base, cycle {cycle + 1} of {len(CYCLES)}"
    for _ in (loop := OneCycle(what, model.parameters(), CYCLES[cycle])):
        which = torch.randint(len(lessons.target), (batch,), generator=generator)
        target, reference = (latents[which].float() for latents in lessons)
        silent = torch.rand(batch, generator=generator) < 0.1
        target = torch.where(silent[:, None, None, None], reference, target)
        words = [() if quiet else taught[row // EACH] for row, quiet in zip(which, silent, strict=True)]
        noise = torch.randn(target.shape, generator=generator)
        t = torch.sigmoid(1.2 * torch.randn(batch, generator=generator) + 0.4)
        guidance = 1 + 3 * torch.rand((), generator=generator).item()
        with torch.autocast("cpu", torch.bfloat16):
            velocity = flux_velocity(model, noised(target, noise, t), t, reference, instruction(words), guidance)
        loop.step(flow_loss(velocity, target, noise, torch.ones(batch), RESULT_WEIGHT).mean())
