from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.latest import io
from safetensors import SafetensorError
from torch import Tensor

from ..lorweb_core import LoRABasis, LoRWebError, VisionEncoder, encode_query
from ..lorweb_core.encoder import load_clip
from ..lorweb_core.grid import rgb_image
from ..lorweb_core.query import check_encoder
from . import sockets


class AnalogyEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyEncoder",
            display_name="Analogy Encoder",
            category="LoRWeB",
            description="Looks at the analogy a : a' :: b : ? and picks the mixture of LoRAs that makes this edit.",
            inputs=[
                sockets.Basis.Input("basis", tooltip="From the LoRWeB Basis Loader."),
                io.Image.Input("a", tooltip="The example before the edit. Any size; one image."),
                io.Image.Input("a_prime", tooltip="The same example after the edit."),
                io.Image.Input("b", tooltip="The picture to edit in the same way."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Load CLIP Vision with CLIP ViT-L/14 (openai/clip-vit-large-patch14). Left open, that "
                    "encoder is loaded from models/clip_vision/clip-vit-large-patch14 or the Hugging Face cache.",
                ),
            ],
            outputs=[sockets.Mixture.Output("mixture", tooltip="Mixing coefficients per layer; for Mixed LoRA Apply.")],
        )

    @classmethod
    def execute(cls, basis: LoRABasis, a: Tensor, a_prime: Tensor, b: Tensor, clip_vision=None) -> io.NodeOutput:
        a, a_prime, b = rgb_image(a, "a"), rgb_image(a_prime, "a_prime"), rgb_image(b, "b")
        needed = basis.config.external_query_model
        encoder = _load_encoder(needed) if clip_vision is None else encoder_from_clip_vision(clip_vision)
        check_encoder(encoder, needed)
        return io.NodeOutput(basis.route(encode_query(encoder, a, a_prime, b, basis.config.query_mode)))


def encoder_from_clip_vision(clip_vision) -> VisionEncoder:
    """Wrap the host's CLIP_VISION, which normalizes, loads and unloads for itself (comfy/clip_vision.py)."""

    def tower(squares: Tensor) -> Tensor:
        return clip_vision.encode_image(squares.movedim(1, -1))["image_embeds"]

    return VisionEncoder(tower, clip_vision.image_size)


def _load_encoder(model_id: str) -> VisionEncoder:
    """The encoder of that Hugging Face id from models/clip_vision or the Hugging Face cache; nothing is downloaded."""
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
        problem = f"cannot be loaded from {found} ({error})" if here else "is not on this machine"
        raise LoRWebError(
            f"The image encoder {model_id} {problem}. Connect Load CLIP Vision with it, or put config.json and "
            f"model.safetensors from https://huggingface.co/{model_id} into {folders[0]}."
        ) from error


def _folder_names(model_id: str) -> tuple[str, str]:
    return model_id.rpartition("/")[2], model_id


@lru_cache(maxsize=1)
def _encoder_from_folder(folder: str) -> VisionEncoder:
    """`folder` may also be a Hugging Face id. The host moves the weights on and off the GPU like any other model's."""
    device = comfy.model_management.text_encoder_device()
    dtype = torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
    model = load_clip(folder, local_files_only=True).to(dtype)
    encoder = VisionEncoder.from_transformers(model)
    # A container, because ModelPatcher sets attributes that transformers models keep for themselves.
    patcher = comfy.model_patcher.ModelPatcher(
        torch.nn.ModuleList([model]), device, comfy.model_management.text_encoder_offload_device()
    )

    def tower(squares: Tensor) -> Tensor:
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        return encoder.tower(squares)

    return VisionEncoder(tower, encoder.image_size)
