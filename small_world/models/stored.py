"""The models of the small world as they are kept: half precision, in `models/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn

from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.encoder import VisionEncoder, load_encoder
from lorweb_core.files.safetensors_writer import write_all
from small_world.models import flux
from small_world.models.autoencoder import TinyAutoencoder
from small_world.models.files import AUTOENCODER, BASE, ENCODER, FOLDER
from small_world.models.files import BASIS as BASIS

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


def save(model: nn.Module, path: Path) -> None:
    """Write a model's weights in half precision."""
    FOLDER.mkdir(exist_ok=True)
    write_all(path, {name: tensor.half() for name, tensor in model.state_dict().items()}, {"format": "pt"})


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval().requires_grad_(False)


def load_autoencoder() -> TinyAutoencoder:
    """Load the autoencoder, frozen, float32."""
    return _load(TinyAutoencoder(), AUTOENCODER).to(memory_format=torch.channels_last)


def load_vision() -> VisionEncoder:
    """Load the image encoder, frozen, float32."""
    return VisionEncoder.from_transformers(load_encoder(ENCODER).float().requires_grad_(False))


def load_transformer() -> FluxTransformer2DModel:
    """Load the base's transformer, frozen, float32."""
    return _load(flux.untrained(), BASE)


def load_base(autoencoder: TinyAutoencoder, dtype: torch.dtype = torch.float32) -> FluxBase:
    """Load the base as trainings take it; it decodes through the autoencoder."""
    transformer = load_transformer().to(dtype)
    return FluxBase(transformer, lambda latents: autoencoder.decode(latents.float()).clamp(0, 1).movedim(1, -1))
