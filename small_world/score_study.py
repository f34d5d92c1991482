"""Measure how well scores choose among results of four noises: the share of the best choice's gain that they get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.fitting.expectation import expect
from lorweb_core.kept_references import Refresh
from lorweb_core.mixture import Mixture
from lorweb_core.score import Score, rank, score
from small_world import study
from small_world.fit_study import SETTINGS, WorldEncoders
from small_world.models import stored
from small_world.world import drawn_analogies
from small_world.world.benchmark import Benchmark, open_benchmark
from small_world.world.drawn_analogies import BATCH, STEPS, Analogies, queries, triplets
from small_world.world.drawn_grids import floats
from small_world.worlds import PLAIN

SEEDS = (0, 1, 2)
"""Seeds of the noise, each of NOISES noises."""

NOISES = 4

MEAN, BEST = "any", "the best by truth"
RANKED = {"both": "both", "follows": "follows", "kept": "kept", "expected, with the model": "expected"}


class Results(NamedTuple):
    """Hold the results of one analogy, NOISES of them, and what is known of each."""

    errors: Tensor
    """Mean squared error of b', in pixels of 0–1."""
    scores: list[Score]
    """Scores with what the model expects."""
    alone: list[Score]
    """Scores without."""


class ScoreStudy:
    """Hold what all measurements share."""

    def __init__(self) -> None:
        self.benchmark: Benchmark = open_benchmark(PLAIN)
        self.base, self.basis = self.benchmark.base, stored.load_basis(PLAIN)
        self.encoders = WorldEncoders(stored.load_autoencoder(PLAIN))
        self.attached = AttachedBasis(self.basis, self.base)

    def measure(self, split: str) -> Iterator[list[Results]]:
        """Solve a split's analogies with the noises of one seed after the other."""
        analogies = self.benchmark.analogies(split, sampled="result")
        mixtures = self.basis.route(queries(analogies, study.SHIPPED[PLAIN].mode, self.benchmark.encoder))
        expected = self._expected(analogies, mixtures)
        for seed in SEEDS:
            yield self._of_seed(analogies, mixtures, expected, seed)

    def _of_seed(self, analogies: Analogies, mixtures: Mixture, expected: Sequence[Tensor], seed: int) -> list[Results]:
        parts = torch.arange(len(analogies.edits)).split(BATCH)
        made = torch.cat([self._made(analogies, mixtures, part, seed) for part in parts])
        errors = (made - floats(analogies.tasks)[:, None, 1]).square().flatten(2).mean(2)
        found = []
        for each, triplet in enumerate(triplets(analogies.examples, analogies.tasks)):
            given = (self.benchmark.encoder, *map(list, zip(*triplet.pairs, strict=True)), triplet.b)
            pictures = [*made[each].movedim(1, -1)]
            scores = [score(*given, pictures, telling) for telling in (expected[each], None)]
            found.append(Results(errors[each], *scores))
        return found

    @torch.no_grad()
    def _made(self, analogies: Analogies, mixtures: Mixture, part: Tensor, seed: int) -> Tensor:
        """Sample b' alone with the references of the first step, (n, NOISES, 3, SIDE, SIDE)."""
        self.attached.mix(mixtures.table[:, part])
        tokens = analogies.grids.target[0, 0].numel() // 4
        made = []
        for number in range(NOISES):
            with self.attached.attached(), self.base.keeping(Refresh(0), tokens, STEPS):
                noise = 1000 * (NOISES * seed + number + 1) + int(part[0])
                made.append(drawn_analogies.sample(analogies, part, self.base, noise))
        return torch.stack(made, 1)

    def _expected(self, analogies: Analogies, mixtures: Mixture) -> list[Tensor]:
        bs = floats(analogies.tasks[:, 0]).movedim(1, -1)
        return [
            expect(self.base, self.encoders, mixture, b, SETTINGS.megapixels)
            for mixture, b in zip(mixtures.split(), bs, strict=True)
        ]


def picked(results: Sequence[Results]) -> dict[str, float]:
    """Compute the mean error of the result that each way picks."""

    def of(choices: Sequence[int]) -> float:
        return mean(float(each.errors[choice]) for each, choice in zip(results, choices, strict=True))

    return {
        MEAN: mean(float(each.errors.mean()) for each in results),
        BEST: mean(float(each.errors.min()) for each in results),
        **{name: of([rank(each.scores, by)[0] for each in results]) for name, by in RANKED.items()},
        "expected, without": of([rank(each.alone, "expected")[0] for each in results]),
    }


def measure() -> None:
    """Print, as a table, the error of what each way picks, mean over the seeds, and its share of the best's gain."""
    world = ScoreStudy()
    found: dict[str, list[dict[str, float]]] = {split: [] for split in PLAIN.measured}
    for split in PLAIN.measured:
        for seed, results in enumerate(world.measure(split)):
            found[split].append(picked(results))
            print(f"{split}, seed {seed}: {found[split][-1]}", flush=True)
    print("| picked | " + " | ".join(f"{split}, error | gain" for split in PLAIN.measured) + " |")
    print("| --- |" + " --- |" * 2 * len(PLAIN.measured))
    for way in next(iter(found.values()))[0]:
        cells = []
        for seeds in found.values():
            middle, best, error = (mean(seed[name] for seed in seeds) for name in (MEAN, BEST, way))
            cells += [f"{error:.4f}", f"{(middle - error) / (middle - best):.2f}"]
        print(f"| {way} | {' | '.join(cells)} |")
