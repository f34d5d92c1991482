"""Each model of a world, trained from its seed and stored; what was interrupted goes on where it stopped."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import torch

from small_world import study
from small_world.models import autoencoder, flux, shipped_basis, stored
from small_world.models.one_cycle import CACHE, Kept
from small_world.world.benchmark import open_benchmark
from small_world.worlds import World

SEED = 0
LESSONS_SEED = 1


def kept(world: World, what: str, *settings: object, after: tuple[Path, ...] = ()) -> Kept:
    """Say where a training's state is kept; after: files of models that it leans on, which are told by contents."""
    contents = (sha256(path.read_bytes()).hexdigest()[:16] for path in after)
    return Kept(CACHE / f"{world.name}-{what}.state", " ".join(map(str, (what, *settings, *contents))))


def train_autoencoder(world: World) -> None:
    """Train and store the autoencoder."""
    steps, blocks = world.autoencoder_steps, world.autoencoder_blocks
    going_on = kept(world, "autoencoder", steps, blocks, SEED)
    model = autoencoder.train(world.draw_pictures, blocks, going_on, steps, seed=SEED)
    stored.save(world, model.state_dict(), world.autoencoder)


def train_encoder(world: World) -> None:
    """Train and store the image encoder."""
    stored.save_encoder(world, world.train_encoder(kept(world, "encoder", SEED), SEED))


def train_base(world: World, compiled: bool = False) -> None:
    """Teach the base edits by words, and store it; it needs the autoencoder. compiled: see `flux.train`."""
    encode = stored.load_autoencoder(world).encode
    steps, batch = world.base_steps, world.base_batch
    going_on = kept(world, "base", steps, batch, SEED, after=(world.autoencoder,))
    going_on.read()  # before the lessons are drawn, which takes minutes
    generator = torch.Generator().manual_seed(LESSONS_SEED)
    lessons = flux.encode_lessons(encode, *world.draw_lessons(generator), generator)
    model = flux.untrained(world.size, SEED)
    flux.train(model, lessons, going_on, steps, batch, seed=SEED, compiled=compiled)
    stored.save(world, model.state_dict(), world.base)


def train_basis(world: World) -> None:
    """Train and store the basis; it needs all three."""
    variant, benchmark = study.SHIPPED[world], open_benchmark(world)
    frozen = (world.autoencoder, world.encoder / "model.safetensors", world.base)
    shipped_basis.train(benchmark, variant, SEED, world.basis, kept(world, "basis", variant, SEED, after=frozen))
