"""The basis that is kept in `models/`: the study's best, trained for longer."""

from __future__ import annotations

from pathlib import Path

import torch

from lorweb_core.basis_file import write_basis
from lorweb_core.checkpoint import BasisLayer
from lorweb_core.query_network import QueryNetwork
from small_world import study
from small_world.models import stored
from small_world.models.one_cycle import Kept
from small_world.world.benchmark import Benchmark, open_benchmark
from small_world.worlds import World


def measure(world: World) -> None:
    """Print how the base solves analogies when words tell it the edits, and the basis when examples show them."""
    variant, benchmark = study.SHIPPED[world], open_benchmark(world)
    untrained = study.untrained(benchmark, variant)
    for name in world.measured:
        analogies = benchmark.analogies(name, variant.show_pair, variant.sampled)._replace(by_words=True)
        print("base,", name, study.evaluate(benchmark, variant, untrained, analogies), flush=True)
    for name, results in study.evaluate_splits(benchmark, variant, study.shipped(benchmark)).items():
        print("basis,", name, results, flush=True)


def train(benchmark: Benchmark, variant: study.Variant, seed: int, path: Path, kept: Kept) -> None:
    """Train a basis, or go on with what is kept of it, and write it in half precision."""
    torch.manual_seed(seed)
    basis = study.untrained(benchmark, variant)
    study.train(basis, benchmark, variant, seed, kept).detach()
    trained = f"small_world basis, {variant.n} LoRAs of rank {variant.rank}, {variant.steps} steps, seed {seed}"
    network = basis.published_network()
    write_basis(
        path,
        {name: [layer] for name, layer in basis.published().items()},
        lambda layer: BasisLayer(*(tensor.half() for tensor in layer[:4])),
        basis.config,
        {"trained": trained, **stored.metadata(benchmark.world)},
        query_network=network and QueryNetwork(*(values.half() for values in network)),
    )
