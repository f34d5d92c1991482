"""Ways to bring routing nearer to what fitting finds, in the world of families: one line each in the results.

Some train as ever, with another router or other settings. Some learn one free point of the space for each edit, with
the LoRAs and without an encoder, and then regress the router onto these points, from queries of many scenes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from lorweb_core.basis import LoRABasis
from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.fitting.fit import fit_mixture
from lorweb_core.training.seeds import generator
from lorweb_core.training.settings.config import TrainSettings
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.training.trainer import Training
from small_world import study, study_report
from small_world.printed_progress import PrintedProgress
from small_world.reach_study import BATCH, FIT, KINDS, SEEDS, SOLVED, ReachStudy, means, pairs_of
from small_world.study import Variant
from small_world.world.drawn_analogies import AnalogySource, judge, queries, sample, solve
from small_world.worlds import Edit

RESULTS = Path(__file__).parent.parent / "docs" / "small_world_router.jsonl"
MEASURED = ("seen", *KINDS)
PLAIN = Variant(16, 1, sampled="result", batch=BATCH)
NETWORK = replace(PLAIN, network=256)
LONGER = 100
"""Steps that a regressed router is trained on together with its LoRAs."""
LONGER_RATE = 2e-3
SHARPNESS = 4.0
"""Logits of the free points by what is learned: a point is met some twenty times and is to get far from even shares."""
REGRESSION_STEPS, REGRESSION_BATCH, REGRESSION_RATE = 600, 256, 3e-3

TRAINED = {
    "plain": PLAIN,
    "query_network 256": NETWORK,
    "lora_heads 4": replace(PLAIN, heads=4),
    "query_dropout 0.1": replace(PLAIN, dropout=0.1),
    "coefficient_entropy 0.02": replace(PLAIN, entropy=0.02),
    "coefficient_entropy -0.02": replace(PLAIN, entropy=-0.02),
    f"plain, {PLAIN.steps + LONGER} steps": replace(PLAIN, steps=PLAIN.steps + LONGER),
}
"""Ways that train LoRAs and router together from the first step."""

FITTED = f"plain, fitted, {FIT.steps} steps"
"""Way that says what is to be reached on the whole families: mixtures of the plain basis, fitted to each example."""

POINTS = "a free point for each edit"
"""Way without a router, which knows the trained edits only."""


class Regressed(NamedTuple):
    """Choose a router that is regressed onto the free points."""

    variant: Variant = PLAIN
    mixed: bool = False
    """True where two edits' queries are mixed, and their points alike."""
    longer: int = 0
    """Steps after it, of router and LoRAs."""


REGRESSED = {
    "regressed": Regressed(),
    "regressed, query_network 256": Regressed(NETWORK),
    "regressed, query_network 256, mixed": Regressed(NETWORK, mixed=True),
    f"regressed, query_network 256, {LONGER} steps more": Regressed(NETWORK, longer=LONGER),
}

ROWS = (*TRAINED, FITTED, POINTS, *REGRESSED)


class Points(NamedTuple):
    """Hold LoRAs, and a point of their space for each trained edit."""

    basis: TrainableBasis
    """A basis whose queries are `told`."""
    edits: list[Edit]
    coefficients: Tensor
    """(layers, edits, N)"""

    def told(self, edits: Sequence[Edit]) -> Tensor:
        """Make queries that tell which edits these are, (n, 1, number of edits)."""
        return told(places(edits, self.edits), len(self.edits))


def places(asked: Sequence[Edit], edits: Sequence[Edit]) -> Tensor:
    """Find where each of n edits is among others, (n,)."""
    of = {edit: index for index, edit in enumerate(edits)}
    return torch.tensor([of[edit] for edit in asked])


def told(which: Tensor, count: int) -> Tensor:
    """Make queries, (n, 1, count), that choose by keys of this width: a key has an edit's logits by SHARPNESS."""
    return SHARPNESS * count**0.5 * torch.eye(count)[which][:, None]


class RouterStudy:
    """Hold what all measurements share."""

    def __init__(self, reach: ReachStudy | None = None) -> None:
        self.reach = reach or ReachStudy()
        self.trained = lru_cache(1)(self._train_as_ever)
        self.points = lru_cache(1)(self._learn_points)

    def measure(self, way: str, seed: int) -> dict:
        """Train in a way, and solve analogies of every kind."""
        began = time.perf_counter()
        if way in TRAINED:
            basis = self.trained(way, seed)
            return {**self._seconds(began), **self._evaluate(basis, TRAINED[way], seed)}
        if way == FITTED:
            fitted = self._fit(self.trained("plain", seed), "whole", seed)
            return {**self._seconds(began), "whole": fitted}
        points = self.points(seed)
        if way == POINTS:
            analogies, _ = self.reach.ask("seen", SOLVED)
            return {
                **self._seconds(began),
                "seen": self._solve(points.basis, "seen", points.told(analogies.edits), seed),
            }
        regressed = REGRESSED[way]
        basis = self._regress(regressed, points, seed)
        if regressed.longer:
            settings = replace(regressed.variant.settings, steps=regressed.longer, lr=LONGER_RATE)
            self._train(basis, self.reach.encoded("trained", PLAIN.mode), settings, seed, way)
        return {**self._seconds(began), **self._evaluate(basis, regressed.variant, seed)}

    def _seconds(self, began: float) -> dict[str, int]:
        return {"seconds": round(time.perf_counter() - began)}

    def _evaluate(self, basis: TrainableBasis, variant: Variant, seed: int) -> dict[str, dict[str, float | None]]:
        encoded = {kind: self.reach.encoded(kind, variant.mode) for kind in MEASURED}
        chosen = {kind: encoded[kind][self.reach.ask(kind, SOLVED)[1]].float() for kind in MEASURED}
        return {kind: self._solve(basis, kind, chosen[kind], seed) for kind in MEASURED}

    def _solve(self, basis: TrainableBasis, kind: str, asked: Tensor, seed: int) -> dict[str, float | None]:
        benchmark, (analogies, _) = self.reach.benchmark, self.reach.ask(kind, SOLVED)
        handles = basis.attach(benchmark.base.model, benchmark.base.linears)
        try:
            return means(solve(analogies, asked, basis, benchmark.base, benchmark.encoder, seed=seed))
        finally:
            for handle in handles:
                handle.remove()

    def _train(self, basis: TrainableBasis, asked: Tensor, settings: TrainSettings, seed: int, what: str) -> None:
        analogies = self.reach.analogies("trained", True, settings.sampled)
        source = AnalogySource(analogies, asked, settings.batch_size, seed)
        training = Training(basis, self.reach.benchmark.base, source, settings)
        training.run(study.printed(f"{what}, seed {seed}", settings.steps))
        training.detach()

    def _train_as_ever(self, way: str, seed: int) -> TrainableBasis:
        basis, training = self.reach.train(TRAINED[way], seed)
        training.detach()
        return basis

    def _fit(self, basis: TrainableBasis, kind: str, seed: int) -> dict[str, float | None]:
        """Fit a mixture to the pair of each analogy that bases solve, from the routed one."""
        benchmark, (analogies, which) = self.reach.benchmark, self.reach.ask(kind, SOLVED)
        held = LoRABasis(basis.published(), basis.config, ((f"seed {seed}", 0, 0, 0, 0),))
        starts = [held.route(query) for query in self.reach.encoded(kind, PLAIN.mode)[which].float()]
        settings = replace(FIT, seed=seed)
        fitted = [
            fit_mixture(benchmark.base, self.reach.encoders, held, start, [pair], settings).table
            for start, pair in zip(starts, pairs_of(analogies), strict=True)
        ]
        attached = AttachedBasis(held, benchmark.base)
        with torch.no_grad(), attached.attached():
            attached.mix(torch.stack(fitted, 1))
            made = sample(analogies, torch.arange(len(fitted)), benchmark.base, seed)
        return means(judge(analogies, made, benchmark.encoder))

    def _learn_points(self, seed: int) -> Points:
        benchmark = self.reach.benchmark
        trained = self.reach.analogies("trained", True, PLAIN.sampled).edits
        edits = list(dict.fromkeys(trained))
        config = replace(PLAIN.config(benchmark.world), query_projection_type="none")
        torch.manual_seed(seed)
        basis = TrainableBasis(benchmark.base.shapes, config, len(edits))
        for layer in basis.layers:
            torch.nn.init.zeros_(layer.keys)
        self._train(basis, told(places(trained, edits), len(edits)), PLAIN.settings, seed, POINTS)
        with torch.no_grad():
            coefficients = torch.stack(list(basis.route(told(torch.arange(len(edits)), len(edits))).values()))
        return Points(basis, edits, coefficients)

    def _regress(self, regressed: Regressed, points: Points, seed: int) -> TrainableBasis:
        """Take over the LoRAs of the points, and learn a router that gives each query its edit's point."""
        torch.manual_seed(seed)
        basis = study.untrained(self.reach.benchmark, regressed.variant)
        with torch.no_grad():
            for own, layer in zip(basis.layers, points.basis.layers, strict=True):
                own.down.copy_(layer.down)
                own.up.copy_(layer.up)
        trained = self.reach.analogies("trained", True, PLAIN.sampled).edits
        wanted = points.coefficients[:, places(trained, points.edits)].repeat(1, 2, 1)
        regress(basis, self._scenes, wanted, regressed.mixed, seed)
        return basis

    @cached_property
    def _scenes(self) -> Tensor:
        """Encode queries of every trained edit in twice as many scenes as trainings have, first of examples."""
        analogies = self.reach.analogies("trained", True, PLAIN.sampled)
        swapped = analogies._replace(examples=analogies.tasks)
        others = queries(swapped, PLAIN.mode, self.reach.benchmark.encoder)
        return torch.cat([self.reach.encoded("trained", PLAIN.mode), others.half()])


def regress(basis: TrainableBasis, asked: Tensor, wanted: Tensor, mixed: bool, seed: int) -> None:
    """Learn keys, projections and query network, so that queries get the coefficients wanted, by their cross-entropy.

    asked: (n, k, E). wanted: (layers, n, N). mixed: mix each query with another one, and what is wanted alike.
    """
    router = [parameter for name, parameter in basis.named_parameters() if not name.endswith((".down", ".up"))]
    optimizer = torch.optim.AdamW(router, lr=REGRESSION_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, REGRESSION_RATE, total_steps=REGRESSION_STEPS)
    progress = PrintedProgress(f"regression, seed {seed}", REGRESSION_STEPS)
    for step in progress.begin(0):
        random = generator(seed, 2, step)
        which = torch.randint(len(asked), (REGRESSION_BATCH,), generator=random)
        query, target = asked[which].float(), wanted[:, which]
        if mixed:
            share = torch.rand(REGRESSION_BATCH, 1, generator=random)
            query = query.lerp(query.roll(1, 0), share[..., None])
            target = target.lerp(target.roll(1, 1), share)
        routed = torch.stack(list(basis.route(query).values()))
        loss = -(target * routed.clamp(min=1e-8).log()).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.show(loss=loss.item())


def jobs(done: Sequence[tuple[str, int]], worker: int = 0, workers: int = 1) -> list[tuple[str, int]]:
    """List a worker's ways and seeds that are not done yet; those that need the same training go to one worker."""
    groups = [(POINTS, *REGRESSED), ("plain", FITTED), *((way,) for way in TRAINED if way != "plain")]
    mine = [(ways, seed) for ways, seed in product(groups, SEEDS)][worker::workers]
    return [(way, seed) for ways, seed in mine for way in ways if (way, seed) not in done]


def run(worker: int = 0, workers: int = 1, results: Path = RESULTS) -> None:
    """Measure what is not in `results` yet, on one core; of several workers each does its share.

    The page's table is written anew after each way, so that a run may be ended early.
    """
    torch.set_num_threads(1)
    left = jobs([(row["way"], row["seed"]) for row in study.read(results)], worker, workers)
    if not left:
        return
    router = RouterStudy()
    for way, seed in left:
        row = {"way": way, "seed": seed, **router.measure(way, seed)}
        print(row, flush=True)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        study_report.write_table(study_report.PAGE, table(study.read(results)), "router")


def table(rows: list[dict]) -> str:
    """Format results as a table in Markdown: error of b' by that of copying b, with its spread."""
    lines = [
        "| error of b′ / of copying b | " + " | ".join(kind.replace("_", " ") for kind in MEASURED) + " | seconds |",
        "| --- |" + " --- |" * (len(MEASURED) + 1),
    ]
    for way in ROWS:
        found = [row for row in rows if row["way"] == way]
        if found:
            cells = [_shares([row[kind] for row in found if kind in row]) for kind in MEASURED]
            lines.append(f"| {way} | {' | '.join(cells)} | {mean(row['seconds'] for row in found):.0f} |")
    return "\n".join(lines) + "\n"


def _shares(found: list[dict[str, float]]) -> str:
    if not found:
        return ""
    middle, deviation = study_report.spread([one["error"] / one["copying"] for one in found])
    return f"{middle:.3f} ± {deviation:.3f}"
