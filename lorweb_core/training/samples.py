"""What a basis makes of analogies while it is learned, to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import cut_result
from ..layout import ORIGIN
from ..pictures.strip import strip
from .data.batch import Batch
from .flow_matching import sample
from .objective import Base, grid_tokens, move_batch
from .seeds import generator
from .trainable_basis import TrainableBasis


@torch.no_grad()
def solve(basis: TrainableBasis, base: Base, batch: Batch, steps: int, seed: int) -> Tensor:
    """Sample the grids of a batch of analogies, or b' alone, as pictures (n, H, W, 3) in 0–1."""
    batch = move_batch(batch, base)
    basis.route(batch.query, base.tokens(batch))
    return denoise(base, batch, steps, seed, every_token=not basis.config.external_query)


@torch.no_grad()
def denoise(base: Base, batch: Batch, steps: int, seed: int, every_token: bool = False) -> Tensor:
    """Sample what a batch is of with the base as it is, as pictures (n, H, W, 3) in 0–1. batch: on the base."""
    noise = _noise(batch, seed).to(base.device)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return base.velocity(x.to(base.dtype), t, batch, every_token).float()

    return base.decode(sample(velocity, noise, steps, grid_tokens(batch)))


def _noise(batch: Batch, seed: int) -> Tensor:
    """Draw the noise of whole grids, and of b' alone what is in its place there: so a seed means the same for both."""
    grids = torch.randn(*batch.target.shape[:2], *batch.reference.shape[-2:], generator=generator(seed))
    return grids[..., 2 * batch.place.row :, 2 * batch.place.column :]


def cells(grid: Tensor) -> list[Tensor]:
    """Cut a grid (H, W, 3) into its four cells: a, a', b and what is in b's place."""
    height, width = grid.shape[0] // 2, grid.shape[1] // 2
    return [grid[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]


def sample_strips(basis: TrainableBasis, base: Base, batch: Batch, steps: int, seed: int) -> list[Tensor]:
    """Make a strip for each analogy: a, a', b, b' as the basis makes it, and as it is in the data."""
    shown = [cells(grid)[:3] for grid in base.decode(batch.reference)]
    results = [
        result_of(pictures, batch) for pictures in (solve(basis, base, batch, steps, seed), base.decode(batch.target))
    ]
    captions = ["a", "a'", "b", "b' as made", "b' of the data"]
    return [strip([*known, *made], captions) for known, *made in zip(shown, *results, strict=True)]


def result_of(sampled: Tensor, batch: Batch) -> Tensor:
    """Get b', (n, h, w, 3), of what is sampled for a batch, as pictures: the grids' last cells, or what b' alone is."""
    return cut_result(sampled) if batch.place == ORIGIN else sampled
