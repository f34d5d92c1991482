"""Measure what an analogy loses when it is sampled for less: b' alone, and references kept between steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lorweb_core.basis import load_basis
from lorweb_core.kept_references import EACH_STEP, Refresh
from small_world import study
from small_world.world.benchmark import Benchmark, open_benchmark
from small_world.worlds import PLAIN

SEEDS = (1000, 2000, 3000)
"""Seeds of the noise; one for each of a batch's first analogies is added."""

SPLITS = ("seen", "new_pairs")


class Way(NamedTuple):
    """Choose what is sampled, and in which of the eight steps references are computed."""

    sampled: str = "grid"
    refresh: Refresh = EACH_STEP


PUBLISHED = "as published"
WAYS = {
    PUBLISHED: Way(),
    "b' alone": Way("result"),
    "b' alone, references from the first step": Way("result", Refresh(0)),
    "b' alone, references every 4th step": Way("result", Refresh(4)),
    "whole grid, references from the first step": Way("grid", Refresh(0)),
    "whole grid, references every 2nd step": Way("grid", Refresh(2)),
}


def measure(bases: Sequence[Path] = (PLAIN.basis,)) -> None:
    """Print, as a table, the error of b' in each way, and its mean ratio to the first basis's as published."""
    benchmark = open_benchmark(PLAIN)
    print("| basis | way | " + " | ".join(f"{split}, error | ratio" for split in SPLITS) + " |")
    print("| --- | --- |" + " --- |" * 2 * len(SPLITS))
    published: dict[str, list[float]] = {}
    for path in bases:
        for name, way in WAYS.items():
            errors = {split: _errors(benchmark, path, way, split) for split in SPLITS}
            published = published or errors
            cells = []
            for split, found in errors.items():
                ratios = [one / other for one, other in zip(found, published[split], strict=True)]
                cells += [f"{sum(found) / len(found):.4f}", f"{sum(ratios) / len(ratios):.3f}"]
            print(f"| {path.stem} | {name} | {' | '.join(cells)} |", flush=True)


def _errors(benchmark: Benchmark, basis: Path, way: Way, split: str) -> list[float]:
    """Measure the mean error of b' for each seed."""
    variant = replace(study.SHIPPED[PLAIN], sampled=way.sampled)
    analogies = benchmark.analogies(split, variant.show_pair, variant.sampled)
    trained = study.untrained(benchmark, variant)
    trained.load(load_basis(basis).layers)
    handles = trained.attach(benchmark.base.model, benchmark.base.linears)
    try:
        results = [study.evaluate(benchmark, variant, trained, analogies, way.refresh, seed) for seed in SEEDS]
        return [result["error"] for result in results]
    finally:
        for handle in handles:
            handle.remove()
