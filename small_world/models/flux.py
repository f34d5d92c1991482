"""A small FLUX.1 Kontext, taught the edits by words, as Kontext knows edits by words before any basis is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lorweb_core.diffusers_backend.velocity import flux_velocity
from lorweb_core.layout import ORIGIN, Place
from lorweb_core.training.data.batch import Text
from lorweb_core.training.flow_matching import flow_loss, noised
from small_world.models.autoencoder import CHANNELS
from small_world.models.one_cycle import Kept, OneCycle
from small_world.world.drawn_grids import Encode, encode_grids, quarter

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

TEXT_WIDTH, TEXT_TOKENS = 768, 77
"""Size of CLIP-L's output, which ComfyUI gives this model."""

WHOLE_GRIDS = 6
"""One step in so many samples whole grids, the others b' alone."""

RESULT_WEIGHT = 4.0
"""Weight of b' in the loss of whole grids; the rest, which the base need only copy, has 1."""


class Size(NamedTuple):
    """Choose the base's size: heads of 128, and the blocks of both kinds."""

    heads: int
    double: int
    single: int


class Lessons(NamedTuple):
    """Hold n analogies as latents, with words for their edits, half precision."""

    target: Tensor
    """Latents of [a a'; b b'], (n, 16, SIDE/4, SIDE/4). The pair shows some other edit."""
    reference: Tensor
    """Latents of [a a'; b b]."""
    words: Tensor
    """One vector for each part of the edit, then zeros, (n, k, TEXT_WIDTH)."""


def untrained(size: Size, seed: int = 0) -> FluxTransformer2DModel:
    """Make the transformer with random weights."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(seed)
    return FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=size.double,
        num_single_layers=size.single,
        attention_head_dim=128,  # which hosts take for granted
        num_attention_heads=size.heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def prompt(words: Tensor) -> Text:
    """Make a prompt of words, (n, k, TEXT_WIDTH), then zeros; no words are all zeros, as an analogy's prompt is."""
    n, count, _ = words.shape
    tokens = torch.cat([words.float(), torch.zeros(n, TEXT_TOKENS - count, TEXT_WIDTH)], 1)
    return Text(tokens, torch.zeros(n, TEXT_WIDTH))


def encode_lessons(encode: Encode, pairs: Tensor, words: Tensor, generator: torch.Generator) -> Lessons:
    """Encode pairs (b, b') as a world draws them, each with another one in its grid.

    The pair in the grid shows some other edit: to follow it is for a basis to learn.
    """
    return Lessons(*encode_grids(encode, pairs[torch.randperm(len(pairs), generator=generator)], pairs), words)


def train(
    model: FluxTransformer2DModel,
    lessons: Lessons,
    kept: Kept,
    steps: int,
    batch: int = 48,
    rate: float = 1.5e-3,
    seed: int = 0,
    compiled: bool = False,
) -> None:
    """Train the model to make b' by words, and without words to leave b as it is.

    The guidance embedding learns to mean nothing: it gets random numbers. compiled: half again as fast, where there is
    a C++ compiler; the first steps take minutes.
    """
    if compiled:
        model.set_attention_backend("_native_math")  # which is compiled with the rest
        model.compile(dynamic=False)
    generator = torch.Generator().manual_seed(seed)
    for step in (loop := OneCycle("base", model, steps, generator, kept, rate)):
        which = torch.randint(len(lessons.target), (batch,), generator=generator)
        target, reference, words = (of_all[which].float() for of_all in lessons)
        silent = (torch.rand(batch, generator=generator) < 0.1)[:, None, None]
        target = torch.where(silent[..., None], reference, target)
        words = torch.where(silent, 0.0, words)
        place = ORIGIN
        if step % WHOLE_GRIDS:
            target, place = quarter(target), Place(reference.shape[-2] // 4, reference.shape[-1] // 4)
        noise = torch.randn(target.shape, generator=generator)
        t = torch.sigmoid(1.2 * torch.randn(batch, generator=generator) + 0.4)
        guidance = 1 + 3 * torch.rand((), generator=generator).item()
        with torch.autocast("cpu", torch.bfloat16):
            velocity = flux_velocity(model, noised(target, noise, t), t, reference, prompt(words), guidance, place)
        weight = RESULT_WEIGHT if place == ORIGIN else 1.0
        loop.step(flow_loss(velocity, target, noise, torch.ones(batch), weight).mean())
