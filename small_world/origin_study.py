"""Measure what the origin of mixtures is good for: two edits from two pairs that show one each, and strengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from lorweb_core.demonstrations import mix
from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.mixture import Mixture
from lorweb_core.space.blend import ORIGINS, blend
from lorweb_core.space.edit import Edit, edit
from small_world.models import stored
from small_world.world.benchmark import open_benchmark
from small_world.world.drawn_analogies import sample, triplets
from small_world.world.drawn_grids import floats
from small_world.world.plain.edits import draw_pairs
from small_world.worlds import PLAIN

SEEDS = (0, 1, 2)
"""Seeds of the pairs that show one edit each, and of the noise."""

SPLIT = "new_pairs"
"""Pairs of edits that the basis never saw together, every single one of which it knows."""

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)

UNCHANGED = 1e-3
"""Largest difference of b and b' in a pixel where the edits change nothing."""

BOTH = "a pair that shows both"
SUMS: dict[str, Callable[[Mixture, Mixture], Mixture]] = {
    "X + Y − origin": lambda x, y: blend([x, y], [1, 1], origin="no edit"),
    "X + Y − origin, in logits": lambda x, y: blend([x, y], [1, 1], "logits", "no edit"),
    "X + Y": lambda x, y: blend([x, y], [1, 1]),
    "the mean of X and Y": lambda x, y: blend([x, y], [0.5, 0.5]),
}


class Made(NamedTuple):
    """Hold how pictures came out, each the mean over the analogies and pixels."""

    error: float
    """Squared error to b with both edits."""
    change: float
    """Share of the wanted change that is made: of what was changed, the part along b' − b, in lengths of it."""
    beside: float
    """Squared change where the edits change nothing."""


def measure() -> None:
    """Print what each mixture makes, as a table. No pair is in the grid, so that only the mixture says what to do."""
    ways = [BOTH, *SUMS, *(_strength(strength, origin) for origin in ORIGINS for strength in STRENGTHS)]
    found: dict[str, list[Made]] = {way: [] for way in ways}
    benchmark = open_benchmark(PLAIN)
    analogies = benchmark.analogies(SPLIT, show_pair=False)
    b, b_prime = floats(analogies.tasks).unbind(1)
    basis = stored.load_basis(PLAIN)
    attached = AttachedBasis(basis, benchmark.base)
    for seed in SEEDS:
        random = torch.Generator().manual_seed(seed)
        alone = [draw_pairs([(both[part],) for both in analogies.edits], 1, random) for part in (0, 1)]
        both, x, y = (
            mix(basis, benchmark.encoder, triplets(pairs, analogies.tasks)) for pairs in (analogies.examples, *alone)
        )
        mixtures = {BOTH: both} | {way: add(x, y) for way, add in SUMS.items()}
        for origin in ORIGINS:
            mixtures |= {_strength(s, origin): edit(both, Edit(scale=s, origin=origin)) for s in STRENGTHS}
        for way, mixture in mixtures.items():
            attached.mix(mixture.table)
            with attached.attached():
                made = sample(analogies, torch.arange(len(b)), benchmark.base, seed)
            found[way].append(judge(made, b, b_prime))
            print(f"seed {seed}, {way}: {found[way][-1]}", flush=True)
    print(_table(found, judge(b, b, b_prime)))


def _strength(strength: float, origin: str) -> str:
    return f"both, {strength:g} from {origin}"


def judge(made: Tensor, b: Tensor, b_prime: Tensor) -> Made:
    """Hold n pictures, (n, 3, h, w) in 0–1, against what was wanted of them."""
    wanted, change = (pictures - b for pictures in (b_prime, made))
    along = (change * wanted).flatten(1).sum(1) / wanted.square().flatten(1).sum(1)
    unchanged = wanted.abs().amax(1, keepdim=True).le(UNCHANGED).expand_as(change)
    return Made((made - b_prime).square().mean().item(), along.mean().item(), change[unchanged].square().mean().item())


def _table(found: dict[str, Sequence[Made]], copying: Made) -> str:
    lines = ["", "| mixture | error | its spread | share of the change | change beside it |", "| --- |" + " --- |" * 4]
    for way, each in {"none: copying b": [copying] * 2, **found}.items():
        error, change, beside = (mean(values) for values in zip(*each, strict=True))
        spread = stdev(made.error for made in each)
        lines.append(f"| {way} | {error:.4f} | {spread:.4f} | {change:.2f} | {beside:.4f} |")
    return "\n".join(lines)
