"""What every training and measurement of a basis has in common: the frozen models, and the analogies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.encoder import VisionEncoder
from small_world.models import stored as models
from small_world.world import edits
from small_world.world.drawn_analogies import Analogies, draw_analogies
from small_world.world.edits import Edit


class Pool(NamedTuple):
    """Which analogies: of what edits, how many of each, drawn from which seed."""

    edits: list[Edit]
    each: int
    seed: int


_SEEN, _NEW_PAIRS, _NEW_EDITS = edits.split()
POOLS = {
    "trained": Pool(_SEEN, 24, 10),
    "seen": Pool(_SEEN[:91], 1, 11),
    "new_pairs": Pool(_NEW_PAIRS, 2, 12),
    "new_edits": Pool(_NEW_EDITS, 16, 13),
}
SOLVED = ("seen", "new_pairs", "new_edits")


class World(NamedTuple):
    """What all runs have in common."""

    base: FluxBase
    encoder: VisionEncoder
    analogies: Callable[[str, bool], Analogies]
    """By name, one of POOLS, with the pair in the grid or without; the same ones each time."""


def open_world() -> World:
    autoencoder = models.load_autoencoder()

    @cache
    def analogies(name: str, show_pair: bool) -> Analogies:
        pool = POOLS[name]
        return draw_analogies(pool.edits, pool.each, pool.seed, autoencoder.encode, show_pair)

    return World(models.load_base(autoencoder), models.load_vision(), analogies)
