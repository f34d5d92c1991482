"""A basis of another query mode than the shipped one's, for studies: trained when it is first asked for, and kept."""

from __future__ import annotations

from pathlib import Path

import torch

from lorweb_core.basis import LoRABasis, load_basis
from lorweb_core.training.run_state import read_state, write_state
from lorweb_core.training.trainer import Step
from small_world import study
from small_world.models.shipped_basis import write
from small_world.world.splits import Benchmark

CACHE = Path(__file__).parent.parent.parent / ".cache" / "small_world"
"""The folder of what studies train, which git ignores."""

OTHER = study.Variant(16, 1, "cat-aa'b", steps=700)
"""The basis that encodes a, a' and b one after the other, as the released one does."""

_EACH = 25
"""Steps after which a training's state is written: where it goes on when it is interrupted."""


def other_basis(benchmark: Benchmark, seed: int = 0) -> LoRABasis:
    """Load the basis of OTHER, and train it before if that was not done yet (a quarter of an hour on a free core)."""
    file = CACHE / f"cat-aab-{OTHER.steps}-{seed}.safetensors"
    if not file.exists():
        _train(benchmark, seed, file)
    return load_basis(file)


def _train(benchmark: Benchmark, seed: int, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    basis = study.untrained(benchmark, OTHER)
    training = study.prepare(basis, benchmark, OTHER, seed)
    kept, settings = file.with_suffix(".state"), repr((OTHER, seed))
    if kept.exists() and (state := read_state(kept)).config == settings:
        training.restore(state.state)
    show = study.printed(f"{OTHER.mode}, seed {seed}", OTHER.steps)

    def keep(step: Step) -> None:
        show(step)
        if step.number % _EACH == 0:
            write_state(kept, settings, training.state())

    try:
        training.run(keep)
    finally:
        training.detach()
    write(basis, file, OTHER, seed)
    kept.unlink(missing_ok=True)
