"""How far a basis reaches in the world of families: edits that it never saw, of four kinds, and of those of no one.

A line for each row and seed in `docs/small_world_reach.jsonl`: bases of several shapes, query modes and trainings,
and, with the basis that is shipped, mixtures routed and fitted, LoRAs fitted as long, and the base told in words.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lorweb_core.basis import LoRABasis
from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.fitting.examples import encode_examples, read_pairs
from lorweb_core.fitting.fit import fit_mixture
from lorweb_core.training import samples
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.training.trainer import Training
from small_world import fit_study, study
from small_world.fitted_lora import fitted_lora
from small_world.models import stored
from small_world.study import Variant
from small_world.world.benchmark import open_benchmark
from small_world.world.drawn_analogies import Analogies, AnalogySource, Solved, judge, queries, sample, solve
from small_world.world.drawn_grids import floats, quarter
from small_world.worlds import FAMILIES

RESULTS = Path(__file__).parent.parent / "docs" / "small_world_reach.jsonl"
KINDS = ("new_pairs", "inside", "outside", "whole", "untaught")
SEEDS = (0, 1, 2)
BATCH = 32
"""Analogies of a training step."""

SOLVED = 36
"""Analogies of a kind that each basis solves."""
FITTED = 16
"""Analogies of a kind that are solved in each of WAYS, as mixtures and LoRAs are fitted to each."""
FIT = fit_study.SETTINGS
LORA_RANK = 4


def _basis(n: int, rank: int, mode: str = "ca'-ca", show_pair: bool = True, sampled: str = "result") -> Variant:
    return Variant(n, rank, mode, show_pair, sampled=sampled, batch=BATCH)


VARIANTS = {
    "1 × 16": _basis(1, 16),
    "4 × 4": _basis(4, 4),
    "16 × 1": _basis(16, 1),
    "32 × 1": _basis(32, 1),
    "1 × 64": _basis(1, 64),
    "16 × 1, cat-aa'b": _basis(16, 1, "cat-aa'b"),
    "16 × 1, ca'-ca+cb": _basis(16, 1, "ca'-ca+cb"),
    "16 × 1, caa'b": _basis(16, 1, "caa'b"),
    "16 × 1, paa'b": _basis(16, 1, "paa'b"),
    "16 × 1, no pair shown": _basis(16, 1, show_pair=False),
    "16 × 1, whole grid": _basis(16, 1, sampled="grid"),
}
"""Bases that are trained alike; where nothing is said: `ca'-ca`, the pair shown, b' alone sampled."""


class Values(NamedTuple):
    """Count what a basis learns."""

    loras: int
    router: int
    """Keys and projections."""


class ReachStudy:
    """Hold what all measurements share."""

    def __init__(self) -> None:
        self.benchmark = open_benchmark(FAMILIES)
        self.encoded = cache(self._encode)

    def _encode(self, split: str, mode: str) -> Tensor:
        # Half precision: of a patch mode there are 65 tokens for each of thousands of analogies.
        return queries(self.benchmark.analogies(split, True), mode, self.benchmark.encoder).half()

    def analogies(self, split: str, show_pair: bool, sampled: str) -> Analogies:
        """Choose what is sampled of grids, which are encoded once for either."""
        analogies = self.benchmark.analogies(split, show_pair)
        if sampled == "grid":
            return analogies
        return analogies._replace(grids=analogies.grids._replace(target=quarter(analogies.grids.target)))

    @cached_property
    def shipped(self) -> LoRABasis:
        """Load the basis that is shipped."""
        return stored.load_basis(FAMILIES)

    @cached_property
    def attached(self) -> AttachedBasis:
        """Put it before the base; it adds nothing outside of `attached()`."""
        return AttachedBasis(self.shipped, self.benchmark.base)

    @cached_property
    def encoders(self) -> fit_study.WorldEncoders:
        """Load what examples to fit to are encoded by."""
        return fit_study.WorldEncoders(stored.load_autoencoder(FAMILIES))

    def ask(self, kind: str, n: int, show_pair: bool = True, sampled: str = "result") -> tuple[Analogies, Tensor]:
        """Choose n analogies of a kind, spread over its edits, and their places among all."""
        analogies = self.analogies(kind, show_pair, sampled)
        which = spread_over(len(analogies.edits), n)
        return select(analogies, which), which

    def train(self, variant: Variant, seed: int) -> tuple[TrainableBasis, Training]:
        """Train a basis; its hooks stay on the base, and `Training.detach` takes them off."""
        torch.manual_seed(seed)
        basis = study.untrained(self.benchmark, variant)
        settings = variant.settings
        analogies = self.analogies("trained", variant.show_pair, variant.sampled)
        source = AnalogySource(analogies, self.encoded("trained", variant.mode), settings.batch_size, seed)
        training = Training(basis, self.benchmark.base, source, settings)
        training.run(study.printed(f"{variant.n} × {variant.rank}, {variant.mode}, seed {seed}", variant.steps))
        return basis, training

    def measure_variant(self, variant: Variant, seed: int) -> dict:
        """Train a basis, and solve analogies of every kind."""
        began = time.perf_counter()
        basis, training = self.train(variant, seed)
        values = count(basis)
        row = {"loras": values.loras, "router": values.router, "seconds": round(time.perf_counter() - began)}
        for kind in KINDS:
            analogies, which = self.ask(kind, SOLVED, variant.show_pair, variant.sampled)
            encoded = self.encoded(kind, variant.mode)[which].float()
            row[kind] = means(solve(analogies, encoded, basis, self.benchmark.base, self.benchmark.encoder, seed=seed))
        training.detach()
        return row

    def measure_way(self, way: Way, seed: int) -> dict:
        """Make b' in a way, of FITTED analogies of every kind."""
        row = {}
        for kind in KINDS:
            analogies, which = self.ask(kind, FITTED)
            row[kind] = means(judge(analogies, way(self, analogies, kind, which, seed), self.benchmark.encoder))
        return row

    def made_with(self, analogies: Analogies, coefficients: Tensor, seed: int) -> Tensor:
        """Sample b' with a mixture of the shipped basis for each of n analogies. coefficients: (layers, n, N)."""
        with torch.no_grad(), self.attached.attached():
            self.attached.mix(coefficients)
            return sample(analogies, torch.arange(len(analogies.edits)), self.benchmark.base, seed)


Way = Callable[[ReachStudy, Analogies, str, Tensor, int], Tensor]
"""Makes b' of the analogies of a kind, at these places among all of it, with a seed: (n, 3, SIDE, SIDE) in 0–1."""


def _decoded(study_: ReachStudy, analogies: Analogies, kind: str, which: Tensor, seed: int) -> Tensor:
    batch = analogies.batch(torch.arange(len(which)), torch.zeros(len(which), 1))
    return samples.result_of(study_.benchmark.base.decode(batch.target), batch).movedim(-1, 1)


def _told(study_: ReachStudy, analogies: Analogies, kind: str, which: Tensor, seed: int) -> Tensor:
    return sample(analogies._replace(by_words=True), torch.arange(len(which)), study_.benchmark.base, seed)


def _routed(study_: ReachStudy, analogies: Analogies, kind: str, which: Tensor, seed: int) -> Tensor:
    mixture = study_.shipped.route(_queries(study_, kind, which))
    return study_.made_with(analogies, mixture.table, seed)


def _fitted(study_: ReachStudy, analogies: Analogies, kind: str, which: Tensor, seed: int) -> Tensor:
    tables = []
    for query, pair in zip(_queries(study_, kind, which), pairs_of(analogies), strict=True):
        start = study_.shipped.route(query)
        settings = replace(FIT, seed=seed)
        fitted = fit_mixture(study_.benchmark.base, study_.encoders, study_.shipped, start, [pair], settings)
        tables.append(fitted.table)
    return study_.made_with(analogies, torch.stack(tables, 1), seed)


def _lora(study_: ReachStudy, analogies: Analogies, kind: str, which: Tensor, seed: int) -> Tensor:
    settings, base = replace(FIT, seed=seed), study_.benchmark.base
    made = []
    for index, pair in enumerate(pairs_of(analogies)):
        examples = encode_examples(read_pairs([pair]), study_.encoders, settings).fitted
        with fitted_lora(base, examples, LORA_RANK, FIT.steps, settings):
            made.append(sample(analogies, torch.tensor([index]), base, seed))
    return torch.cat(made)


WAYS: dict[str, Way] = {
    "b' of the data, decoded": _decoded,
    "base, told in words": _told,
    "shipped basis, routed": _routed,
    f"shipped basis, fitted, {FIT.steps} steps": _fitted,
    f"a LoRA of rank {LORA_RANK}, fitted, {FIT.steps} steps": _lora,
}
"""Ways of making b' that need no training of a basis."""

ROWS = (*VARIANTS, *WAYS)


def _queries(study_: ReachStudy, kind: str, which: Tensor) -> Tensor:
    return study_.encoded(kind, study_.shipped.config.query_mode)[which].float()


def pairs_of(analogies: Analogies) -> list[tuple[Tensor, Tensor]]:
    """Take the example pairs as fits take them: pictures (H, W, 3) in 0–1."""
    return [tuple(floats(pair).movedim(1, -1)) for pair in analogies.examples]


def spread_over(n: int, count: int) -> Tensor:
    """Choose `count` of n places, or all if there are fewer, evenly from the first on."""
    count = min(n, count)
    return torch.arange(count) * n // count


def select(analogies: Analogies, which: Tensor) -> Analogies:
    """Choose some analogies."""
    return analogies._replace(
        edits=[analogies.edits[index] for index in which],
        examples=analogies.examples[which],
        tasks=analogies.tasks[which],
        grids=type(analogies.grids)(*(latents[which] for latents in analogies.grids)),
    )


def count(basis: TrainableBasis) -> Values:
    """Count what a basis learns: its LoRAs, and what routes them."""
    loras = sum(layer.down.numel() + layer.up.numel() for _, layer in basis.named_layers())
    return Values(loras, sum(parameter.numel() for parameter in basis.parameters()) - loras)


def means(solved: Solved) -> dict[str, float | None]:
    """Average what analogies came to, each over those where it could be measured; None where that is none."""
    averages = {name: getattr(solved, name).nanmean() for name in solved._fields if name != "made"}
    return {name: round(mean.item(), 5) if mean.isfinite() else None for name, mean in averages.items()}


def jobs(done: Iterable[tuple[str, int]], worker: int = 0, workers: int = 1) -> list[tuple[str, int]]:
    """List a worker's rows and seeds that are not done yet; all seeds of a row go to one, which encodes for all."""
    done = set(done)
    return [job for job in product(ROWS[worker::workers], SEEDS) if job not in done]


def run(worker: int = 0, workers: int = 1, results: Path = RESULTS) -> None:
    """Measure what is not in `results` yet; of several workers each does its share, on one core."""
    torch.set_num_threads(1)
    mine = jobs([(row["row"], row["seed"]) for row in study.read(results)], worker, workers)
    if not mine:
        return
    reach = ReachStudy()
    for name, seed in mine:
        found = reach.measure_variant(VARIANTS[name], seed) if name in VARIANTS else reach.measure_way(WAYS[name], seed)
        row = {"row": name, "seed": seed, **found}
        print(row, flush=True)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
