"""A small CLIP vision tower that is told nothing about edits: it learns to know a picture again among its likes.

As CLIP, it is trained by contrast (Radford et al. 2021), but of two views of a picture instead of a picture and its
caption (SimCLR, Chen et al. 2020). One view is nearly all of the picture, the other often a small part of it, which
shares its colours and its detail with the whole. Among the others are the same scene with other edits, so that what an
edit does must be seen, and other scenes with the same edit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lorweb_core.encoder import ENCODERS
from small_world.models.image_encoder import squares, untrained
from small_world.models.one_cycle import Kept, OneCycle

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

ID = "lorweb/small-world-families"
SPEC = ENCODERS[ID]
VERSIONS = 16
"""Pictures of each scene, with different edits."""

_TEMPERATURE = 0.1
_NOISE, _GAIN = 0.02, 0.02
_MOVED, _SCALED = 0.04, 0.06
_COVERED = 0.25
"""Side of a square that is covered, as a share of the picture's."""
_PARTS = 0.6
"""Share of the other views that show a part alone."""
_PART = (0.35, 0.9)
"""Side of the part that the other view shows, as shares of the picture's."""


def view(pictures: Tensor, generator: torch.Generator, parts: float = 0.0) -> Tensor:
    """Make a view of each picture, (n, 3, h, w): a little moved, scaled, covered, lighter or darker, and noisy.

    parts: share of the views that show a part of their picture, anywhere in it, instead of nearly all.
    """
    n, side = len(pictures), pictures.shape[-1]

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    part = between(0, 1, 1) < parts
    scale = torch.where(part, between(*_PART, 1), between(1 - _SCALED, 1 + _SCALED, 1))
    moved = torch.where(part, between(-1, 1, 2) * (1 - scale), between(-_MOVED, _MOVED, 2))
    matrix = torch.cat([torch.diag_embed(scale.expand(-1, 2)), moved[..., None]], -1)
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    seen = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    line = torch.arange(side) / side
    first = between(0, 1 - _COVERED, 2)
    rows, columns = ((line >= start[:, None]) & (line < start[:, None] + _COVERED) for start in first.unbind(1))
    covered = (rows[:, :, None] & columns[:, None])[:, None] & (between(0, 1, 1, 1, 1) < 0.5)
    noise = _NOISE * torch.randn(pictures.shape, generator=generator)
    return torch.where(covered, 0.5, seen * between(1 - _GAIN, 1 + _GAIN, 3, 1, 1) + noise)


def contrast(one: Tensor, other: Tensor) -> Tensor:
    """Compute the loss of finding each embedding's other view among all, both ways; (n, E) each (CLIP, figure 3)."""
    logits = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / _TEMPERATURE
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def train(
    draw: Callable[[int, int, torch.Generator], Tensor], kept: Kept, steps: int = 1000, scenes: int = 6, seed: int = 0
) -> CLIPVisionModelWithProjection:
    """Train the tower.

    draw: draws n scenes in so many versions each, (n * versions, 3, h, w) in 0–1.
    """
    model = untrained(SPEC, seed)
    model.set_attn_implementation("eager")  # on a CPU its backward pass takes half the time
    generator = torch.Generator().manual_seed(seed)
    loop = OneCycle("encoder", model, steps, generator, kept, rise=0.1, betas=(0.9, 0.999))
    for _ in loop:
        pictures = draw(scenes, VERSIONS, generator)
        views = torch.cat([view(pictures, generator), view(pictures, generator, _PARTS)])
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = model(pixel_values=squares(views)).image_embeds.float()
        one, other = embeddings.chunk(2)
        loss = contrast(one, other)
        # Embeddings of about unit variance, as CLIP's are of one scale.
        scale = (embeddings.var(0) - 1).square().mean() + embeddings.mean(0).square().mean()
        with torch.no_grad():
            found = (F.normalize(one) @ F.normalize(other).T).argmax(1) == torch.arange(len(one))
        loop.step(loss + 0.02 * scale, found=found.float().mean().item())
    return model.eval()
