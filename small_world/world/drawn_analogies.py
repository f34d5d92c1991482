"""Analogies of the small world, as the trainer takes them, and how well a basis solves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.encoder import VisionEncoder
from lorweb_core.files.safetensors_writer import write_all
from lorweb_core.kept_references import EACH_STEP, Refresh
from lorweb_core.query import encode_queries
from lorweb_core.training import samples
from lorweb_core.training.data.batch import Batch
from lorweb_core.training.seeds import generator
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.triplet import Triplet
from small_world.models.flux import TEXT_WIDTH, prompt
from small_world.world.drawn_grids import Encode, Grids, encode_grids, floats, quarter
from small_world.worlds import Edit, World

STEPS = 8
"""Euler steps of a sample."""

BATCH = 64
"""Analogies that are encoded or sampled in one batch."""

LEAST_CHANGE = 1e-3
"""Least mean square that a change has in pixels for its share to be measured."""

LEAST_LEVEL = 1e-3
"""Least difference of a pixel that is a change, below a level of 8 bits."""

LEAST_UNCHANGED = 0.05
"""Least share of a picture that is to stay as it is, for what changes there to be measured."""


class Analogies(NamedTuple):
    """Hold n analogies, as many of each edit as of any other."""

    world: World
    edits: list[Edit]
    examples: Tensor
    """Pairs (a, a') as the world draws them."""
    tasks: Tensor
    """Pairs (b, b') likewise."""
    grids: Grids
    by_words: bool = False
    """Whether the edit is in the prompt, to measure the base; with a basis it is not."""

    def batch(self, which: Tensor, queries: Tensor) -> Batch:
        """Choose some, as the trainer takes them; queries: those of all, as `queries` gives them."""
        target, reference = (latents[which].float() for latents in self.grids)
        edits = [self.edits[index] for index in which]
        names = tuple(f"{' and '.join(edit)}, analogy {index}" for edit, index in zip(edits, which, strict=True))
        words = self.world.words_for(edits) if self.by_words else torch.zeros(len(edits), 1, TEXT_WIDTH)
        return Batch(target, reference, queries[which], prompt(words), names)


def draw_analogies(
    world: World,
    edits: Sequence[Edit],
    each: int,
    seed: int,
    encode: Encode,
    show_pair: bool = True,
    sampled: str = "grid",
    kept: Path | None = None,
) -> Analogies:
    """Draw `each` analogies of every edit.

    show_pair: whether the grid has the pair in it, or b in its place; the query is of the pair all the same.
    sampled: what is to be sampled, the whole grid or b' alone. kept: where latents are kept, for the next time.
    """
    pairs = world.draw_pairs(edits, 2 * each, torch.Generator().manual_seed(seed))
    examples, tasks = pairs[::2], pairs[1::2]
    in_grid = examples if show_pair else tasks[:, :1].expand_as(tasks)
    grids = _kept(kept, lambda: encode_grids(encode, in_grid, tasks))
    if sampled == "result":
        grids = grids._replace(target=quarter(grids.target))
    return Analogies(world, [edit for edit in edits for _ in range(each)], examples, tasks, grids)


def _kept(path: Path | None, make: Callable[[], Grids]) -> Grids:
    """Read grids from a file, or make them and write it."""
    if path is None:
        return make()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_all(path, make()._asdict(), {})
    return Grids(**load_file(path))


def queries(analogies: Analogies, mode: str, encoder: VisionEncoder) -> Tensor:
    """Encode the queries of all analogies, (n, k, E)."""
    made = []
    for examples, tasks in zip(analogies.examples.split(BATCH), analogies.tasks.split(BATCH), strict=True):
        made.append(encode_queries(encoder, triplets(examples, tasks), mode))
    return torch.cat(made)


def triplets(examples: Tensor, tasks: Tensor) -> list[Triplet]:
    """Take n pairs (a, a') and the b of n pairs (b, b'), both as a world draws them, as the encoder takes them."""
    pairs, others = (floats(pictures).movedim(2, -1) for pictures in (examples, tasks))
    return [Triplet([(a, a_prime)], b) for (a, a_prime), (b, _) in zip(pairs, others, strict=True)]


@torch.no_grad()
def sample(analogies: Analogies, which: Tensor, base: FluxBase, seed: int) -> Tensor:
    """Sample whole grids with what is attached to the base, and cut out b', (n, 3, SIDE, SIDE)."""
    batch = analogies.batch(which, torch.zeros(len(analogies.edits), 1))
    made = samples.result_of(samples.denoise(base, batch, STEPS, seed), batch)
    return made.movedim(-1, 1).clamp(0, 1)


class AnalogySource:
    """Draw a training's batches (a `Source`): any analogy is as likely as any other, in every step."""

    def __init__(self, analogies: Analogies, queries: Tensor, batch: int, seed: int):
        self.analogies = analogies
        self.queries = queries
        self.size = batch
        self.seed = seed

    def draw(self, step: int) -> Batch:
        which = torch.randint(len(self.queries), (self.size,), generator=generator(self.seed, 0, step))
        return self.analogies.batch(which, self.queries)


class Solved(NamedTuple):
    """Hold how n analogies came out, (n,) each."""

    error: Tensor
    """Mean squared error of b', in pixels of 0–1."""
    copying: Tensor
    """Mean squared error that b itself would have."""
    follows: Tensor
    """Cosine between what a → a' and what b → b' changes in the encoder's embedding."""
    along: Tensor
    """Share of the wanted change of pixels that is made, by least squares; NaN where hardly any is wanted."""
    beside: Tensor
    """Mean squared change of pixels where none is wanted; NaN where that is hardly anywhere."""
    made: Tensor
    """b' as it came out, (n, 3, SIDE, SIDE)."""


@torch.no_grad()
def solve(
    analogies: Analogies,
    queries: Tensor,
    basis: TrainableBasis,
    base: FluxBase,
    encoder: VisionEncoder,
    refresh: Refresh = EACH_STEP,
    seed: int = 0,
) -> Solved:
    """Solve all analogies, each from noise that depends on the seed and its place alone.

    refresh: in which steps the references are computed.
    """

    def results(part: Tensor) -> Tensor:
        batch = analogies.batch(part, queries)
        with base.keeping(refresh, batch.target[0, 0].numel() // 4, STEPS):
            return samples.result_of(samples.solve(basis, base, batch, STEPS, seed + int(part[0])), batch)

    made = torch.cat([results(part) for part in torch.arange(len(queries)).split(BATCH)])
    return judge(analogies, made.movedim(-1, 1).clamp(0, 1), encoder)


@torch.no_grad()
def judge(analogies: Analogies, made: Tensor, encoder: VisionEncoder) -> Solved:
    """Hold pictures, (n, 3, SIDE, SIDE) in 0–1, against what the n analogies ask for."""
    (a, a_prime), (b, b_prime) = (floats(pairs).unbind(1) for pairs in (analogies.examples, analogies.tasks))

    def change(before: Tensor, after: Tensor) -> Tensor:
        seen = encoder.embed([*before.movedim(1, -1), *after.movedim(1, -1)])[:, 0]
        return seen[len(before) :] - seen[: len(before)]

    wanted, changed = b_prime - b, made - b
    copying = wanted.square().flatten(1).mean(1)
    along = (changed * wanted).flatten(1).mean(1) / copying
    unchanged = (wanted.abs().amax(1) < LEAST_LEVEL).float()
    beside = (changed.square().mean(1) * unchanged).flatten(1).sum(1) / unchanged.flatten(1).sum(1)
    return Solved(
        (made - b_prime).square().flatten(1).mean(1),
        copying,
        F.cosine_similarity(change(a, a_prime), change(b, made)),
        along.where(copying >= LEAST_CHANGE, torch.nan),
        beside.where(unchanged.flatten(1).mean(1) >= LEAST_UNCHANGED, torch.nan),
        made,
    )
