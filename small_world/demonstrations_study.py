"""Measure what several pairs of one edit bring to routing, and in which way they are put together best."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from lorweb_core.basis import LoRABasis
from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.kept_references import Refresh
from lorweb_core.query import encode_queries
from lorweb_core.triplet import Triplet
from small_world import study
from small_world.models import stored
from small_world.world.benchmark import Benchmark, open_benchmark
from small_world.world.drawn_analogies import BATCH, STEPS, sample
from small_world.world.drawn_grids import floats
from small_world.world.plain.edits import draw_pairs
from small_world.worlds import PLAIN

SEEDS = (0, 1, 2)
"""Seeds of the further pairs and of the noise."""

PAIRS = 5

HELD_OUT = ("new_pairs", "new_edits")


def _queries(combine: Callable[[Tensor], Tensor]) -> Callable[[LoRABasis, Tensor], Tensor]:
    return lambda basis, queries: basis.route(combine(queries)).table


def _coefficients(combine: Callable[[Tensor], Tensor]) -> Callable[[LoRABasis, Tensor], Tensor]:
    def table(basis: LoRABasis, queries: Tensor) -> Tensor:
        tables = basis.route(queries.flatten(0, 1)).table.unflatten(1, queries.shape[:2])
        return combine(tables.movedim(0, 2)).movedim(1, 0)

    return table


def by_agreement(values: Tensor) -> Tensor:
    """Average (n, pairs, …), each weighted by its cosine, if above 0, with the mean of the others."""
    flat = values.flatten(2)
    others = (flat.sum(1, keepdim=True) - flat) / (flat.shape[1] - 1)
    weights = F.cosine_similarity(flat, others, dim=-1).clamp_min(1e-3)
    weights = weights / weights.sum(1, keepdim=True)
    return (weights[..., None] * flat).sum(1).unflatten(1, values.shape[2:])


WAYS: dict[str, Callable[[LoRABasis, Tensor], Tensor]] = {
    "one pair": _queries(lambda queries: queries[:, 0]),
    "mean of queries": _queries(lambda queries: queries.mean(1)),
    "median of queries": _queries(lambda queries: queries.median(1).values),
    "queries weighted by agreement": _queries(by_agreement),
    "mean of coefficients": _coefficients(lambda tables: tables.mean(1)),
    "median of coefficients": _coefficients(lambda tables: tables.median(1).values),
}
"""Way → the table of n mixtures, (layers, n, N), of queries (n, pairs, k, E)."""


def measure() -> None:
    """Print the error of b' for each way, mean over the seeds, as a table. The grid shows the first pair always."""
    benchmark, basis = open_benchmark(PLAIN), stored.load_basis(PLAIN)
    attached = AttachedBasis(basis, benchmark.base)
    found: dict[tuple[str, str], list[float]] = {}
    for split in HELD_OUT:
        analogies = benchmark.analogies(split, sampled="result")
        tokens = analogies.grids.target[0, 0].numel() // 4
        wanted = floats(analogies.tasks[:, 1])
        for seed in SEEDS:
            queries = _of_pairs(split, seed, benchmark)
            for way, combine in WAYS.items():
                table = combine(basis, queries)
                made = []
                for part in torch.arange(len(wanted)).split(BATCH):
                    with torch.no_grad(), attached.attached(), benchmark.base.keeping(Refresh(0), tokens, STEPS):
                        attached.mix(table[:, part])
                        made.append(sample(analogies, part, benchmark.base, 1000 * (seed + 1) + int(part[0])))
                error = (torch.cat(made) - wanted).square().mean().item()
                found.setdefault((way, split), []).append(error)
                print(f"{split}, seed {seed}, {way}: {error:.4f}", flush=True)
    print("| error of b' | " + " | ".join(HELD_OUT) + " |")
    print("| --- |" + " --- |" * len(HELD_OUT))
    for way in WAYS:
        print(f"| {way} | " + " | ".join(f"{mean(found[way, split]):.4f}" for split in HELD_OUT) + " |")


def _of_pairs(split: str, seed: int, benchmark: Benchmark) -> Tensor:
    """Encode the queries of PAIRS pairs for each analogy, its own first, (n, PAIRS, k, E)."""
    analogies = benchmark.analogies(split, sampled="result")
    each = PLAIN.splits[split].each * (PAIRS - 1)
    more = draw_pairs(PLAIN.splits[split].edits, each, torch.Generator().manual_seed(100 + seed))
    more = more.unflatten(0, (len(analogies.edits), PAIRS - 1))
    pairs = floats(torch.cat([analogies.examples[:, None], more], 1)).movedim(3, -1)
    asked = [Triplet([(a, a_prime)], a) for several in pairs for a, a_prime in several]
    mode = study.SHIPPED[PLAIN].mode
    parts = [encode_queries(benchmark.encoder, asked[i : i + BATCH], mode) for i in range(0, len(asked), BATCH)]
    return torch.cat(parts).unflatten(0, (len(analogies.edits), PAIRS))
