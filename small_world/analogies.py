"""Analogies from a pool, as the trainer takes them, and how well a basis solves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorweb_core.query import QUERY_MODES
from lorweb_core.training import samples
from lorweb_core.training.batch import Batch
from lorweb_core.training.flux_base import FluxBase
from lorweb_core.training.seeds import generator
from lorweb_core.training.trainable_basis import TrainableBasis

from .base import instruction
from .pool import Pool, grid, quarter

STEPS = 8
"""Euler steps of a sample."""

TOGETHER = 64
"""Analogies that are sampled in one batch."""

Embed = Callable[[Tensor], Tensor]
"""Pictures (n, 3, h, w) in 0–1 → the image encoder's embeddings (n, E)."""


class Places(NamedTuple):
    """n analogies of a pool: which edit, which of its pairs is (a, a'), and which (b, b'); (n,) each."""

    edit: Tensor
    one: Tensor
    other: Tensor

    def of(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, a', b and b' among the pool's values, (E, 2, k, …)."""
        edit, one, other = self
        return values[edit, 0, one], values[edit, 1, one], values[edit, 0, other], values[edit, 1, other]

    def some(self, which: Tensor) -> Places:
        return Places(*(values[which] for values in self))


def draw_places(pool: Pool, edit: Tensor, random: torch.Generator) -> Places:
    """Two different pairs of each edit."""
    k = pool.latents.shape[2]
    one = torch.randint(k, edit.shape, generator=random)
    return Places(edit, one, (one + torch.randint(1, k, edit.shape, generator=random)) % k)


@dataclass(frozen=True)
class PoolSource:
    """Two pairs of one edit, drawn anew for each analogy; edits are equally likely.

    mode: a query mode that embeds pictures or one grid, not patches. show_pair: whether the grid has the pair in it, or
    b in its place. embed: of grids; pictures are embedded in the pool. encode: grids (n, 3, h, w) → latents, as at
    inference; None puts the latents of the four pictures together instead, which costs nothing, and is not quite the
    same: in a grid the autoencoder's convolutions see over the seams.
    """

    pool: Pool
    mode: str
    batch: int
    seed: int
    show_pair: bool
    embed: Embed
    encode: Callable[[Tensor], Tensor] | None = None

    def draw(self, step: int) -> Batch:
        random = generator(self.seed, 0, step)
        edit = torch.randint(len(self.pool.edits), (self.batch,), generator=random)
        return self.analogies(draw_places(self.pool, edit, random))

    def analogies(self, places: Places) -> Batch:
        a, a_prime, b, b_prime = places.of(self.pool.pictures if self.encode else self.pool.latents)
        if not self.show_pair:
            a = a_prime = b
        names = (f"{' and '.join(self.pool.edits[e])}, pairs {i} and {j}" for e, i, j in zip(*places, strict=True))
        target, reference = grid(a, a_prime, b, b_prime), grid(a, a_prime, b, b)
        if self.encode:
            with torch.no_grad():
                target, reference = (self.encode(grids.float() / 255) for grids in (target, reference))
        return Batch(target, reference, self._query(places), instruction([()] * len(a)), tuple(names))

    def _query(self, places: Places) -> Tensor:
        """(n, k, E), as `encode_queries` gives it."""
        mode = QUERY_MODES[self.mode]
        if all(len(view) == 1 for view in mode.views):
            seen = dict(zip(("a", "a'", "b"), places.of(self.pool.embeddings), strict=False))
            views = [seen[cell][:, None] for (cell,) in mode.views]
        else:
            a, a_prime, b, _ = (pictures.float() / 255 for pictures in places.of(self.pool.pictures))
            cells = {"a": a, "a'": a_prime, "b": b, "black": torch.zeros_like(b)}
            views = [self.embed(grid(*(cells[cell] for cell in view)))[:, None] for view in mode.views]
        return torch.stack([mode.combine(*of_one) for of_one in zip(*views, strict=True)])


class KeptSource:
    """As many analogies of each edit, made once and drawn again and again, each edit as often as any other."""

    def __init__(self, source: PoolSource, each: int, seed: int):
        edits, self.each = len(source.pool.edits), each
        places = draw_places(source.pool, torch.arange(edits * each) // each, generator(seed, 4))
        made = [source.analogies(places.some(part)) for part in torch.arange(edits * each).split(TOGETHER)]
        self.target, self.reference = (
            torch.cat([getattr(m, name).half() for m in made]) for name in ("target", "reference")
        )
        self.query = torch.cat([batch.query for batch in made])
        self.names = [name for batch in made for name in batch.names]
        self.edits, self.batch, self.seed = edits, source.batch, seed

    def draw(self, step: int) -> Batch:
        random = generator(self.seed, 0, step)
        which = torch.randint(self.edits, (self.batch,), generator=random) * self.each
        which = which + torch.randint(self.each, (self.batch,), generator=random)
        return Batch(
            self.target[which].float(),
            self.reference[which].float(),
            self.query[which],
            instruction([()] * self.batch),
            tuple(self.names[i] for i in which),
        )


class Solved(NamedTuple):
    """How n analogies came out, (n,) each."""

    error: Tensor
    """Mean squared error of b', in pixels of 0–1."""
    copying: Tensor
    """What giving b back would have had."""
    follows: Tensor
    """Cosine between what a → a' and what b → b' changes in the encoder's embedding."""
    pictures: Tensor
    """a, a', b, b' as it came out, and as it should be: (n, 5, 3, SIDE, SIDE)."""


@torch.no_grad()
def solve(source: PoolSource, basis: TrainableBasis, base: FluxBase, count: int, seed: int = 0) -> Solved:
    """`count` analogies of the source's pool, its edits in turn; the same ones for everybody with the same seed."""
    pool = source.pool
    places = draw_places(pool, torch.arange(count) % len(pool.edits), generator(seed, 2))
    grids = [
        samples.solve(basis, base, source.analogies(places.some(part)), STEPS, int(part[0]))
        for part in torch.arange(count).split(TOGETHER)
    ]
    made = quarter(torch.cat(grids).movedim(-1, 1)).clamp(0, 1)
    a, a_prime, b, b_prime = (pictures.float() / 255 for pictures in places.of(pool.pictures))
    embed = source.embed
    return Solved(
        (made - b_prime).square().flatten(1).mean(1),
        (b - b_prime).square().flatten(1).mean(1),
        F.cosine_similarity(embed(a_prime) - embed(a), embed(made) - embed(b)),
        torch.stack([a, a_prime, b, made, b_prime], 1),
    )
