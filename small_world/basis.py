"""The basis that is shipped: the study's best variant, trained for longer."""

from __future__ import annotations

from dataclasses import replace

from lorweb_core.checkpoint import BasisLayer
from lorweb_core.space.basis_file import write_basis

from . import models, study

STEPS = 1500


def train(steps: int = STEPS, seed: int = 0) -> None:
    variant = study.SHIPPED
    world = study.open_world()
    basis = study.train(world, variant, seed, replace(study.SETTINGS, steps=steps))
    write_basis(
        models.BASIS,
        {name: [layer] for name, layer in basis.published().items()},
        lambda layer: BasisLayer(*(tensor.half() for tensor in layer[:4])),
        basis.config,
        {"trained": f"small_world basis, {variant.n} LoRAs of rank {variant.rank}, {steps} steps, seed {seed}"},
    )
