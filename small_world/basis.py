"""The basis that is shipped: as the study's best, but trained for longer, and on grids that are encoded whole."""

from __future__ import annotations

from dataclasses import replace

import torch

from lorweb_core.checkpoint import BasisLayer
from lorweb_core.space.basis_file import write_basis

from . import models, study
from .analogies import KeptSource, PoolSource

STEPS = 1200
EACH = 24
"""Analogies of each edit."""


def train(steps: int = STEPS, seed: int = 0) -> None:
    variant, world = study.SHIPPED, study.open_world((32, 2, 2))
    batch = study.SETTINGS.batch_size
    pairs = PoolSource(world.seen, variant.mode, batch, seed, variant.show_pair, world.embed, world.encode)
    torch.manual_seed(seed)
    basis = study.untrained(world, variant)
    study.train(basis, world, KeptSource(pairs, EACH, seed), replace(study.SETTINGS, steps=steps), "basis")
    write_basis(
        models.BASIS,
        {name: [layer] for name, layer in basis.published().items()},
        lambda layer: BasisLayer(*(tensor.half() for tensor in layer[:4])),
        basis.config,
        {"trained": f"small_world basis, {variant.n} LoRAs of rank {variant.rank}, {steps} steps, seed {seed}"},
    )
