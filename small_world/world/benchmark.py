"""Open what every training and measurement of a basis shares: the frozen models, and the analogies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.encoder import VisionEncoder
from small_world.models import stored
from small_world.models.one_cycle import CACHE
from small_world.world.drawn_analogies import Analogies, draw_analogies
from small_world.worlds import World


class Benchmark(NamedTuple):
    """Hold a world's frozen models, and the analogies to train and measure on."""

    world: World
    base: FluxBase
    encoder: VisionEncoder
    analogies: Callable[..., Analogies]
    """Draws a split by name, with the pair in the grid or without, for what is sampled; the same each time."""


def open_benchmark(world: World) -> Benchmark:
    """Load the models; analogies are drawn when they are asked for, once, and their latents kept for the next time."""
    autoencoder = stored.load_autoencoder(world)
    encoded_by = world.autoencoder.read_bytes()

    @cache
    def analogies(name: str, show_pair: bool = True, sampled: str = "grid") -> Analogies:
        split = world.splits[name]
        shown = "" if show_pair else "-no-pair"
        digest = sha256(repr(split).encode() + encoded_by).hexdigest()[:16]
        kept = CACHE / f"{world.name}-{name}{shown}-{digest}.safetensors"
        return draw_analogies(world, *split, autoencoder.encode, show_pair, sampled, kept)

    return Benchmark(world, stored.load_base(world, autoencoder), stored.load_vision(world), analogies)
