"""A frozen image encoder with its preprocessing: images of any size in, embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import LoRWebError, named
from .files.image_file import as_image

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class EncoderSpec:
    """Describe an image encoder that bases are trained with."""

    family: str
    """Name of its family, one of FAMILIES."""
    image_size: int
    """Pixels a side."""
    width: int
    """E, the length of an embedding."""
    token_width: int | None
    """W, the length of a token state, which patch modes take; None where there are none."""
    source: str
    """Hugging Face id of its files."""


# Hugging Face id, as `external_query_model` names it. The published code loads the second into transformers'
# Siglip2VisionModel and lets it ignore mismatched sizes. That class is for checkpoints of flexible resolution: of this
# one, of fixed resolution, it leaves the patch embedding at random values, so none of its numbers can be matched.
ENCODERS = {
    "openai/clip-vit-large-patch14": EncoderSpec(
        "clip",
        image_size=224,
        width=768,
        token_width=1024,
        source="https://huggingface.co/openai/clip-vit-large-patch14",
    ),
    "google/siglip2-base-patch16-224": EncoderSpec(
        "siglip",
        image_size=224,
        width=768,
        token_width=None,
        source="https://huggingface.co/google/siglip2-base-patch16-224",
    ),
    "lorweb/small-world": EncoderSpec(
        "clip",
        image_size=64,
        width=48,
        token_width=96,
        source="small_world/models/plain/small-world of the pack's repository",
    ),
    "lorweb/small-world-families": EncoderSpec(
        "clip",
        image_size=64,
        width=96,
        token_width=128,
        source="small_world/models/families/small-world-families of the pack's repository",
    ),
}


def centre_square(image: Tensor, size: int) -> Tensor:
    """Crop as CLIP does: shortest side to `size` (bicubic), then the centre. (H, W, 3) → (3, size, size), in 0–1."""
    height, width = image.shape[:2]
    short = min(height, width)
    scaled = (size * height // short, size * width // short)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return _resized(image, scaled, top, left, size, "bicubic")


def whole_square(image: Tensor, size: int) -> Tensor:
    """Stretch as SigLIP does: both sides to `size`, bilinear, nothing cut off. (H, W, 3) → (3, size, size), in 0–1.

    As google/siglip2-base-patch16-224's preprocessor_config.json has it: `resample` 2, `size` 224 × 224.
    """
    return _resized(image, (size, size), 0, 0, size, "bilinear")


def _resized(image: Tensor, size: tuple[int, int], top: int, left: int, side: int, kind: str) -> Tensor:
    """Resize as the encoders' own preprocessing does, by Pillow from 8 bits to 8 bits, and cut out a square.

    image: (H, W, 3), float in 0–1. Returns (3, side, side), float32 in 0–1. Columns come before rows, as in every
    Pillow that encoders were trained with; since 13 it would begin with the rows where that is quicker, and token
    states notice a level of grey.
    """
    from PIL import Image

    levels = as_image(image)
    how, (height, width) = Image.Resampling[kind.upper()], size
    square = levels.resize((width, levels.height), how).resize((width, height), how)
    square = square.crop((left, top, left + side, top + side))
    return torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(side, side, 3).movedim(-1, 0) / 255


@dataclass(frozen=True)
class Family:
    """Prepare images for encoders of one kind."""

    square: Callable[[Tensor, int], Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalize(self, squares: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=squares.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (squares - mean) / std


FAMILIES = {
    "clip": Family(
        centre_square,
        mean=(0.48145466, 0.4578275, 0.40821073),  # openai/CLIP, clip.py
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "siglip": Family(whole_square, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),  # the same preprocessor_config.json
}

# `model_type` in the config.json of a folder → the class of transformers. A checkpoint with a text encoder beside the
# image encoder, as published, has the first of each pair.
_CLASSES = {
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
}

Tower = Callable[[Tensor], Tensor]
StatesTower = Callable[[Tensor, tuple[int, ...]], Tensor]


class VisionEncoder:
    """Embed images with a vision tower, prepared as it needs them.

    tower: (k, 3, S, S), float in 0–1, squares of `image_size` pixels → their embeddings, (k, E).
    states: the same squares, and which hidden states → their tokens, (k, T, W), those of one state after another;
    −1 is the last layer's output. None where the encoder is not made for that.
    Both do their own normalization and choose their own device and dtype. family: one of FAMILIES.
    """

    def __init__(self, tower: Tower, image_size: int, family: str = "clip", states: StatesTower | None = None):
        self.tower = tower
        self.image_size = image_size
        self.family = family
        self.states = states

    @classmethod
    def from_transformers(cls, model: PreTrainedModel) -> VisionEncoder:
        """Wrap a CLIPVisionModelWithProjection, a SiglipVisionModel or a Siglip2VisionModel of transformers.

        The embedding is CLIP's `image_embeds` and SigLIP's `pooler_output`. Raises LoRWebError for any other model.
        """
        kind = type(model).__name__
        config: Any = getattr(model, "config", None)
        if kind not in _CLASSES.values() or not getattr(config, "vision_use_head", True):
            raise LoRWebError(
                f"A {kind} cannot be the image encoder; expected transformers' CLIPVisionModelWithProjection, "
                "SiglipVisionModel or Siglip2VisionModel, with its pooling head."
            )
        family = "clip" if kind.startswith("CLIP") else "siglip"

        def run(squares: Tensor, **options: bool):
            pixels = FAMILIES[family].normalize(squares).to(model.device, model.dtype)
            inputs = _patches(pixels, config.patch_size) if kind == "Siglip2VisionModel" else {"pixel_values": pixels}
            with torch.no_grad():
                return model(**inputs, **options)

        def tower(squares: Tensor) -> Tensor:
            return run(squares).image_embeds if family == "clip" else run(squares).pooler_output

        def states(squares: Tensor, layers: tuple[int, ...]) -> Tensor:
            hidden = run(squares, output_hidden_states=True).hidden_states
            return torch.cat([hidden[layer] for layer in layers], 1)

        if kind == "Siglip2VisionModel":
            # Made for any shape; a square of this size has one patch for each of its position embeddings.
            image_size = config.patch_size * isqrt(config.num_patches)
        else:
            image_size = config.image_size
        return cls(tower, image_size, family, states if family == "clip" else None)

    def embed(self, images: Sequence[Tensor], states: tuple[int, ...] = ()) -> Tensor:
        """Embed k images (H, W, 3), float in 0–1, each of any size → (k, t, E), float32 on the CPU; one pass for all.

        t is 1, the embedding; or with `states`, the tokens of these hidden states, one state after the other.
        """
        square = FAMILIES[self.family].square
        squares = torch.stack([square(image, self.image_size) for image in images])
        if not states:
            return self.tower(squares).float().cpu()[:, None]
        if self.states is None:
            raise LoRWebError(f"The image encoder given is a {self.family}; patch tokens are taken from CLIP only.")
        try:
            return self.states(squares, states).float().cpu()
        except IndexError as error:
            raise LoRWebError(
                f"The image encoder given has too few layers: it has no hidden state {states}."
            ) from error


def _patches(pixels: Tensor, size: int) -> dict[str, Tensor]:
    """Cut (k, 3, S, S) into patches for Siglip2VisionModel: row by row, channels last (its image processor's order)."""
    k, _, side, _ = pixels.shape
    count = side // size
    patches = pixels.view(k, 3, count, size, count, size).permute(0, 2, 4, 3, 5, 1).reshape(k, count**2, -1)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones((k, count**2), dtype=torch.int32, device=pixels.device),
        "spatial_shapes": torch.full((k, 2), count, device=pixels.device),
    }


def check_encoder(encoder: VisionEncoder, needed: str) -> None:
    """Raise LoRWebError if `encoder` cannot be the one of ENCODERS that a basis was trained with."""
    expected = ENCODERS[needed]
    if (encoder.family, encoder.image_size) != (expected.family, expected.image_size):
        raise LoRWebError(
            f"The image encoder given is a {encoder.family} for images of {encoder.image_size} pixels, but the basis "
            f"was trained with {needed}, a {expected.family} for {expected.image_size}. Give that one."
        )


def load_encoder(source: str | Path, local_files_only: bool = False) -> PreTrainedModel:
    """Load an image encoder, for `from_transformers`, from a folder in transformers' layout or a Hugging Face id.

    Raises LoRWebError if it is another kind of model or lacks tensors; OSError or ValueError, as transformers does, if
    there is none.
    """
    import transformers

    kind = transformers.AutoConfig.from_pretrained(source, local_files_only=local_files_only).model_type
    if kind not in _CLASSES:
        raise LoRWebError(f"{named(str(source))} is a {named(str(kind))} model, not a CLIP or SigLIP image encoder.")
    try:
        model, loaded = getattr(transformers, _CLASSES[kind]).from_pretrained(
            source, local_files_only=local_files_only, use_safetensors=True, output_loading_info=True
        )
    except RuntimeError as error:  # tensors of other sizes than config.json says
        raise LoRWebError(
            f"{named(str(source))}: its config.json and its tensors do not fit together ({named(str(error))})."
        ) from error
    # What a file lacks, transformers makes up from random numbers.
    if loaded["missing_keys"]:
        raise LoRWebError(
            f"{named(str(source))} is no whole image encoder: it has no {named(min(loaded['missing_keys']))}."
        )
    return model.eval()
