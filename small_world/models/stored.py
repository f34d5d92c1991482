"""The models of a world as they are kept: half precision, in `models/`, each with the name of its world in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lorweb_core.basis import LoRABasis
from lorweb_core.basis import load_basis as load_any_basis
from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.encoder import VisionEncoder, load_encoder
from lorweb_core.errors import LoRWebError, shown
from lorweb_core.files.safetensors_writer import write_all
from lorweb_core.files.tensor_files import read_metadata, read_tensors
from small_world.models import flux
from small_world.models.autoencoder import TinyAutoencoder, blocks_in
from small_world.worlds import World

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPVisionModelWithProjection

OF = "small_world"
"""Key of the world's name in the metadata of its files."""


def metadata(world: World) -> dict[str, str]:
    """Make the metadata of a world's file."""
    return {"format": "pt", OF: world.name}


def save(world: World, weights: Mapping[str, Tensor], path: Path) -> None:
    """Write the weights of a world's model in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_all(path, {name: tensor.half() for name, tensor in weights.items()}, metadata(world))


def save_encoder(world: World, model: CLIPVisionModelWithProjection) -> None:
    """Write a world's image encoder in transformers' layout, in half precision."""
    model.half().save_pretrained(world.encoder)
    save(world, model.state_dict(), world.encoder / "model.safetensors")


def check(world: World, path: Path, command: str) -> None:
    """Raise LoRWebError if a file is not there, or is no model of the world; command: makes the right one."""
    make = f"`python -m small_world {command} --world {world.name}` makes the right one."
    if not path.exists():
        raise LoRWebError(f"{shown(path)} is not there. {make}")
    of = read_metadata(path).get(OF)
    if of != world.name:
        other = f"of the world {shown(of)}" if of else "of no world that it names"
        raise LoRWebError(f"{shown(path)} is a model {other}; expected one of {shown(world.name)}. {make}")


def read(world: World, path: Path, command: str) -> dict[str, Tensor]:
    """Read the weights of a world's model, float32. Raises LoRWebError as `check` does, and for a damaged file."""
    check(world, path, command)
    return {name: tensor.float() for name, tensor in read_tensors(path).items()}


def _filled(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def load_autoencoder(world: World) -> TinyAutoencoder:
    """Load the autoencoder, frozen, float32."""
    weights = read(world, world.autoencoder, "autoencoder")
    return _filled(TinyAutoencoder(blocks_in(weights)), weights).to(memory_format=torch.channels_last)


def load_vision(world: World) -> VisionEncoder:
    """Load the image encoder, frozen, float32."""
    check(world, world.encoder / "model.safetensors", "encoder")
    return VisionEncoder.from_transformers(load_encoder(world.encoder).float().requires_grad_(False))


def load_transformer(world: World) -> FluxTransformer2DModel:
    """Load the base's transformer, frozen, float32."""
    weights = read(world, world.base, "base")
    return _filled(flux.untrained(world.size), weights)


def load_base(world: World, autoencoder: TinyAutoencoder, dtype: torch.dtype = torch.float32) -> FluxBase:
    """Load the base as trainings take it; it decodes through the autoencoder."""
    transformer = load_transformer(world).to(dtype)
    return FluxBase(transformer, lambda latents: autoencoder.decode(latents.float()).clamp(0, 1).movedim(1, -1))


def load_basis(world: World) -> LoRABasis:
    """Load the basis that is kept."""
    check(world, world.basis, "basis")
    return load_any_basis(world.basis)
