"""What every training and measurement of a basis shares: the frozen models, and the analogies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.encoder import VisionEncoder
from small_world.models import stored
from small_world.world import edits
from small_world.world.drawn_analogies import Analogies, draw_analogies
from small_world.world.edits import Edit


class Split(NamedTuple):
    """Choose analogies: of what edits, how many of each, drawn from which seed."""

    edits: list[Edit]
    each: int
    seed: int


_SEEN, _NEW_PAIRS, _NEW_EDITS = edits.split()
SPLITS = {
    "trained": Split(_SEEN, 24, 10),
    "seen": Split(_SEEN[:91], 1, 11),
    "new_pairs": Split(_NEW_PAIRS, 2, 12),
    "new_edits": Split(_NEW_EDITS, 16, 13),
}
EVALUATED = ("seen", "new_pairs", "new_edits")


class Benchmark(NamedTuple):
    """Hold the frozen models, and the analogies to train and measure on."""

    base: FluxBase
    encoder: VisionEncoder
    analogies: Callable[..., Analogies]
    """Draws one of SPLITS by name, with the pair in the grid or without, for what is sampled; the same each time."""


def open_benchmark() -> Benchmark:
    """Load the models; analogies are drawn when they are asked for, once."""
    autoencoder = stored.load_autoencoder()

    @cache
    def analogies(name: str, show_pair: bool = True, sampled: str = "grid") -> Analogies:
        split = SPLITS[name]
        return draw_analogies(split.edits, split.each, split.seed, autoencoder.encode, show_pair, sampled)

    return Benchmark(stored.load_base(autoencoder), stored.load_vision(), analogies)
