"""The basis that is shipped: the study's best, trained for longer."""

from __future__ import annotations

import torch

from lorweb_core.basis_file import write_basis
from lorweb_core.checkpoint import BasisLayer
from small_world import study
from small_world.models import stored as models
from small_world.world.splits import SOLVED, open_world


def measure() -> None:
    """Say how the base that is kept does when it is told the edits, and the basis when it is shown them."""
    variant, world = study.SHIPPED, open_world()
    nothing = study.untrained(world, variant)
    for name in SOLVED:
        told = world.analogies(name, variant.show_pair)._replace(by_words=True)
        print("base,", name, study.tell(world, variant, nothing, told), flush=True)
    for name, told in study.solve_pools(world, variant, study.shipped(world)).items():
        print("basis,", name, told, flush=True)


def train(seed: int = 0) -> None:
    variant, world = study.SHIPPED, open_world()
    torch.manual_seed(seed)
    basis = study.untrained(world, variant)
    study.train(basis, world, variant, seed)
    write_basis(
        models.BASIS,
        {name: [layer] for name, layer in basis.published().items()},
        lambda layer: BasisLayer(*(tensor.half() for tensor in layer[:4])),
        basis.config,
        {"trained": f"small_world basis, {variant.n} LoRAs of rank {variant.rank}, {variant.steps} steps, seed {seed}"},
    )
