"""The basis that is shipped: as the study's best, but trained for longer, and on grids that are encoded whole."""

from __future__ import annotations

from dataclasses import replace

import torch

from lorweb_core.checkpoint import BasisLayer
from lorweb_core.space.basis_file import write_basis

from . import models, study
from .analogies import KeptSource, PoolSource, solve
from .pool import Pool

STEPS = 1200
EACH = 24
"""Analogies of each edit."""


def measure() -> None:
    """Say how the basis that is kept does on grids encoded whole: errors of b', and what copying b has."""
    world, basis = study.shipped((8, 8, 48))
    for name, count in study.COUNTS.items():
        print(name, study.summary(solve(_source(world, getattr(world, name), 0), basis, world.base, count)), flush=True)


def _source(world: study.World, pool: Pool, seed: int) -> PoolSource:
    variant, batch = study.SHIPPED, study.SETTINGS.batch_size
    return PoolSource(pool, variant.mode, batch, seed, variant.show_pair, world.embed, world.encode)


def train(steps: int = STEPS, seed: int = 0) -> None:
    variant, world = study.SHIPPED, study.open_world((32, 2, 2))
    torch.manual_seed(seed)
    basis = study.untrained(world, variant)
    study.train(
        basis,
        world,
        KeptSource(_source(world, world.seen, seed), EACH, seed),
        replace(study.SETTINGS, steps=steps),
        "basis",
    )
    write_basis(
        models.BASIS,
        {name: [layer] for name, layer in basis.published().items()},
        lambda layer: BasisLayer(*(tensor.half() for tensor in layer[:4])),
        basis.config,
        {"trained": f"small_world basis, {variant.n} LoRAs of rank {variant.rank}, {steps} steps, seed {seed}"},
    )
