"""A frozen image encoder with its preprocessing: images of any size in, embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import LoRWebError

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

# CLIP's normalization (openai/CLIP, clip.py).
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder:
    """`tower` embeds squares of `image_size` pixels: (k, 3, S, S) float in 0–1 → (k, E).

    The tower does its own normalization and chooses its own device and dtype.
    """

    def __init__(self, tower: Callable[[Tensor], Tensor], image_size: int):
        self.tower = tower
        self.image_size = image_size

    @classmethod
    def from_transformers(cls, model: CLIPVisionModelWithProjection) -> VisionEncoder:
        """Wrap a transformers CLIP vision model; its embedding is `image_embeds`."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_CLIP_MEAN, _CLIP_STD))

        def tower(squares: Tensor) -> Tensor:
            with torch.no_grad():
                return model(((squares - mean) / std).to(model.device, model.dtype)).image_embeds

        return cls(tower, model.config.image_size)

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """k images (H, W, 3), float in 0–1, each of any size → (k, E), float32 on the CPU; one pass for all."""
        squares = torch.stack([centre_square(image, self.image_size) for image in images])
        return self.tower(squares).float().cpu()


def load_clip(source: str | Path, local_files_only: bool = False) -> CLIPVisionModelWithProjection:
    """A CLIP image encoder from a folder in transformers' layout or a Hugging Face id.

    Raises LoRWebError if it is another kind of model or lacks tensors; OSError or ValueError, as transformers does, if
    there is none.
    """
    from transformers import AutoConfig, CLIPVisionModelWithProjection

    kind = AutoConfig.from_pretrained(source, local_files_only=local_files_only).model_type
    if kind not in ("clip", "clip_vision_model"):
        raise LoRWebError(f"{source} is a {kind} model, not a CLIP image encoder.")
    model, loaded = CLIPVisionModelWithProjection.from_pretrained(
        source, local_files_only=local_files_only, use_safetensors=True, output_loading_info=True
    )
    # What a file lacks, transformers makes up from random numbers.
    if loaded["missing_keys"]:
        raise LoRWebError(f"{source} is no whole CLIP image encoder: it has no {min(loaded['missing_keys'])}.")
    return model.eval()


def centre_square(image: Tensor, size: int) -> Tensor:
    """CLIP's crop: shortest side to `size` (bicubic), then the centre. (H, W, 3) → (3, size, size), in 0–1.

    Rounded to 8 bits, as the image processors of CLIP, transformers and ComfyUI all do.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    scaled = (size * height // short, size * width // short)
    pixels = image.float().cpu().movedim(-1, 0)[None]
    if scaled != (height, width):
        pixels = F.interpolate(pixels, scaled, mode="bicubic", antialias=True)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    square = pixels[0, :, top : top + size, left : left + size]
    return (square.clamp(0, 1) * 255).round() / 255
