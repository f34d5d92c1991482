"""The basis that is shipped: the study's best, trained for longer."""

from __future__ import annotations

from pathlib import Path

import torch

from lorweb_core.basis_file import write_basis
from lorweb_core.checkpoint import BasisLayer
from lorweb_core.training.trainable_basis import TrainableBasis
from small_world import study
from small_world.models import stored
from small_world.world.splits import EVALUATED, open_benchmark


def measure() -> None:
    """Print how the base solves analogies when words tell it the edits, and the basis when examples show them."""
    variant, benchmark = study.SHIPPED, open_benchmark()
    untrained = study.untrained(benchmark, variant)
    for name in EVALUATED:
        analogies = benchmark.analogies(name, variant.show_pair, variant.sampled)._replace(by_words=True)
        print("base,", name, study.evaluate(benchmark, variant, untrained, analogies), flush=True)
    for name, results in study.evaluate_splits(benchmark, variant, study.shipped(benchmark)).items():
        print("basis,", name, results, flush=True)


def train(seed: int = 0) -> None:
    """Train the basis and write it into `models/`."""
    variant, benchmark = study.SHIPPED, open_benchmark()
    torch.manual_seed(seed)
    basis = study.untrained(benchmark, variant)
    study.train(basis, benchmark, variant, seed)
    write(basis, stored.BASIS, variant, seed)


def write(basis: TrainableBasis, path: Path, variant: study.Variant, seed: int) -> None:
    """Write a trained basis in half precision."""
    write_basis(
        path,
        {name: [layer] for name, layer in basis.published().items()},
        lambda layer: BasisLayer(*(tensor.half() for tensor in layer[:4])),
        basis.config,
        {"trained": f"small_world basis, {variant.n} LoRAs of rank {variant.rank}, {variant.steps} steps, seed {seed}"},
    )
