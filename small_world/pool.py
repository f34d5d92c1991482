"""Pairs of pictures before and after an edit, as the models see them: latents, and the image encoder's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .autoencoder import TinyAutoencoder
from .edits import SINGLE, Edit, edit_scenes
from .encoder import squares
from .scenes import ATTRIBUTES, Scenes, draw_scenes, render

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection


class Pool(NamedTuple):
    """k pairs of each of E edits; `before` and `after` are the second dimension."""

    edits: list[Edit]
    pictures: Tensor
    """(E, 2, k, 3, SIDE, SIDE), uint8."""
    latents: Tensor
    """(E, 2, k, 16, SIDE/8, SIDE/8)"""
    embeddings: Tensor | None
    """(E, 2, k, width)"""


@torch.no_grad()
def make_pool(
    edits: Sequence[Edit],
    k: int,
    seed: int,
    autoencoder: TinyAutoencoder,
    encoder: CLIPVisionModelWithProjection | None = None,
) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    pictures, latents, embeddings = [], [], []
    for edit in edits:
        before = scenes_for(edit, k, generator)
        pair = torch.cat([render(before), render(edit_scenes(before, edit))])
        # As a file would keep it.
        levels = (pair * 255).round()
        pictures.append(levels.byte().unflatten(0, (2, k)))
        latents.append(autoencoder.encode(levels / 255).unflatten(0, (2, k)))
        if encoder is not None:
            seen = encoder(pixel_values=squares(levels / 255)).image_embeds
            embeddings.append(seen.unflatten(0, (2, k)))
    known = torch.stack(embeddings) if embeddings else None
    return Pool(list(edits), torch.stack(pictures), torch.stack(latents), known)


def scenes_for(edit: Edit, n: int, generator: torch.Generator) -> Scenes:
    """Random scenes in which each part of the edit changes something."""
    scenes = draw_scenes(n, generator)
    for name in edit:
        attribute, value = SINGLE[name]
        other = torch.randint(1, ATTRIBUTES[attribute], (n,), generator=generator)
        has = getattr(scenes, attribute)
        scenes = replace(scenes, **{attribute: torch.where(has == value, (value + other) % ATTRIBUTES[attribute], has)})
    return scenes


def grid(a: Tensor, a_prime: Tensor, b: Tensor, last: Tensor) -> Tensor:
    """Pictures or latents (n, C, h, w) → [a a'; b last], (n, C, 2h, 2w)."""
    return torch.cat([torch.cat([a, a_prime], -1), torch.cat([b, last], -1)], -2)


def quarter(grids: Tensor) -> Tensor:
    """The last cell of grids (n, C, h, w)."""
    return grids[..., grids.shape[-2] // 2 :, grids.shape[-1] // 2 :]
