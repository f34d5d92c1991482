"""A basis of another query mode than the shipped one's, for studies: trained when it is first asked for, and kept."""

from __future__ import annotations

from lorweb_core.basis import LoRABasis, load_basis
from small_world import study
from small_world.models import shipped_basis
from small_world.models.one_cycle import CACHE, Kept
from small_world.world.benchmark import Benchmark

OTHER = study.Variant(16, 1, "cat-aa'b", steps=700)
"""The basis that encodes a, a' and b one after the other, as the released one does."""


def other_basis(benchmark: Benchmark, seed: int = 0) -> LoRABasis:
    """Load the basis of OTHER, and train it before if that was not done yet (a quarter of an hour on a free core)."""
    file = CACHE / f"cat-aab-{OTHER.steps}-{seed}.safetensors"
    if not file.exists():
        kept = Kept(file.with_suffix(".state"), repr((OTHER, seed)))
        shipped_basis.train(benchmark, OTHER, seed, file, kept)
    return load_basis(file)
