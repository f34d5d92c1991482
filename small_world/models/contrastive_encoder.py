"""A small CLIP vision tower that is told nothing about edits: it learns to know a picture again among its likes.

As CLIP, it is trained by contrast (Radford et al. 2021), but of two views of a picture instead of a picture and its
caption (SimCLR, Chen et al. 2020). Among the others are the same scene with other edits, so that what an edit does
must be seen, and other scenes with the same edit.
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
VERSIONS = 4
"""Pictures of each scene, with different edits."""

_TEMPERATURE = 0.1
_NOISE, _GAIN = 0.03, 0.05
_MOVED, _SCALED = 0.06, 0.1
_COVERED = 0.25
"""Side of a square that is covered, as a share of the picture's."""


def view(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Make a view of each picture, (n, 3, h, w): a little moved, scaled, covered, lighter or darker, and noisy."""
    n, side = len(pictures), pictures.shape[-1]

    def around(middle: float, most: float, *shape: int) -> Tensor:
        return middle + most * (2 * torch.rand(n, *shape, generator=generator) - 1)

    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = around(1, _SCALED)
    matrix[:, :, 2] = around(0, _MOVED, 2)
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    line = torch.arange(side) / side
    first = torch.rand(n, 2, generator=generator) * (1 - _COVERED)
    rows, columns = ((line >= start[:, None]) & (line < start[:, None] + _COVERED) for start in first.unbind(1))
    covered = (rows[:, :, None] & columns[:, None])[:, None] & (torch.rand(n, 1, 1, 1, generator=generator) < 0.5)
    noise = _NOISE * torch.randn(pictures.shape, generator=generator)
    return torch.where(covered, 0.5, moved * around(1, _GAIN, 3, 1, 1) + noise)


def contrast(one: Tensor, other: Tensor) -> Tensor:
    """Compute the loss of finding each embedding's other view among all, both ways; (n, E) each (CLIP, figure 3)."""
    logits = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / _TEMPERATURE
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def train(
    draw: Callable[[int, int, torch.Generator], Tensor], kept: Kept, steps: int = 1600, scenes: int = 24, seed: int = 0
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
        views = torch.cat([view(pictures, generator), view(pictures, generator)])
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
