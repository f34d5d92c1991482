"""The image encoder of a basis: the host's CLIP_VISION, or transformers' from a folder of the host's."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import comfy.clip_model
import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...lorweb_core import LoRWebError, VisionEncoder
from ...lorweb_core.encoder import ENCODERS, check_encoder, load_encoder
from ...lorweb_core.errors import named, shown

FAMILIES = {"clip_vision_model": "clip", "siglip_vision_model": "siglip", "siglip2_vision_model": "siglip"}
"""The host's name for a kind of vision tower → ours."""


def find_encoder(needed: str, clip_vision=None) -> VisionEncoder:
    """Find the encoder that a basis was trained with: `clip_vision` if it is given, else that of its folder.

    needed: one of ENCODERS. Raises LoRWebError if `clip_vision` is another, or none is found.
    """
    encoder = _load_encoder(needed) if clip_vision is None else encoder_from_clip_vision(clip_vision)
    check_encoder(encoder, needed)
    return encoder


def encoder_from_clip_vision(clip_vision) -> VisionEncoder:
    """Wrap the host's CLIP_VISION, which normalizes, loads and unloads for itself (comfy/clip_vision.py)."""

    def tower(squares: Tensor) -> Tensor:
        embeddings = clip_vision.encode_image(squares.movedim(1, -1))["image_embeds"]
        if embeddings.ndim != 2:
            raise LoRWebError(
                f"This ComfyUI's Load CLIP Vision reads a {clip_vision.model_type} without its pooling head, and with "
                "it its embedding. Leave clip_vision open, and the encoder is loaded from its folder."
            )
        return embeddings

    def states(squares: Tensor, layers: tuple[int, ...]) -> Tensor:
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        pixels = comfy.clip_model.clip_preprocess(
            squares.movedim(1, -1).to(clip_vision.load_device),
            size=clip_vision.image_size,
            mean=clip_vision.image_mean,
            std=clip_vision.image_std,
        )
        # Every layer's output, (k, layers, T, W).
        hidden = clip_vision.model(pixel_values=pixels.float(), intermediate_output="all")[1]
        return torch.cat([hidden[:, layer] for layer in layers], 1)

    family = FAMILIES.get(clip_vision.model_type, clip_vision.model_type)
    return VisionEncoder(tower, clip_vision.image_size, family, states if family == "clip" else None)


def _load_encoder(model_id: str) -> VisionEncoder:
    """Load an encoder by its id from models/clip_vision or the Hugging Face cache; nothing is downloaded."""
    folders = [
        Path(folder, name)
        for folder in folder_paths.get_folder_paths("clip_vision")
        for name in _folder_names(model_id)
    ]
    found = next((str(folder) for folder in folders if (folder / "config.json").is_file()), model_id)
    try:
        return _encoder_from_folder(found)
    except (OSError, ValueError, SafetensorError) as error:
        here = isinstance(error, LoRWebError) or found != model_id
        problem = f"cannot be loaded from {named(found)} ({named(str(error))})" if here else "is not on this machine"
        # For SigLIP the host has no pooling head, see encoder_from_clip_vision.
        put = "Connect Load CLIP Vision with it, or put" if ENCODERS[model_id].family == "clip" else "Put"
        raise LoRWebError(
            f"The image encoder {model_id} {problem}. {put} config.json and model.safetensors from "
            f"{ENCODERS[model_id].source} into {shown(folders[0])}."
        ) from error


def _folder_names(model_id: str) -> tuple[str, str]:
    return model_id.rpartition("/")[2], model_id


@lru_cache(maxsize=1)
def _encoder_from_folder(folder: str) -> VisionEncoder:
    """Load an encoder from a folder, or by its Hugging Face id from the cache.

    The host moves the weights on and off the GPU like any other model's.
    """
    device = comfy.model_management.text_encoder_device()
    dtype = torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
    model = load_encoder(folder, local_files_only=True).to(dtype)
    encoder = VisionEncoder.from_transformers(model)
    # A container, because ModelPatcher sets attributes that transformers models keep for themselves.
    patcher = comfy.model_patcher.ModelPatcher(
        torch.nn.ModuleList([model]), device, comfy.model_management.text_encoder_offload_device()
    )

    def loaded(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run_loaded(*arguments) -> Tensor:
            comfy.model_management.load_models_gpu([patcher], force_full_load=True)
            return run(*arguments)

        return run_loaded

    states = loaded(encoder.states) if encoder.states else None
    return VisionEncoder(loaded(encoder.tower), encoder.image_size, encoder.family, states)
