"""From the triplet (a, a', b) to the query that a basis is asked with, in the modes of NVlabs/LoRWeB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoder import VisionEncoder
from .errors import LoRWebError

# mode → how the embeddings of a, a' and b, each (E,), become the k parts of the query, (k, E).
QUERY_MODES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cat-aa'b": lambda a, a_prime, b: torch.stack([a, a_prime, b]),
}


@dataclass(frozen=True)
class EncoderSpec:
    """An image encoder that bases are trained with."""

    image_size: int
    """Pixels a side."""


# Hugging Face id, as `external_query_model` names it.
ENCODERS = {"openai/clip-vit-large-patch14": EncoderSpec(image_size=224)}


def check_encoder(encoder: VisionEncoder, needed: str) -> None:
    """Raise LoRWebError if `encoder` cannot be the one of ENCODERS that a basis was trained with."""
    expected = ENCODERS[needed].image_size
    if encoder.image_size != expected:
        raise LoRWebError(
            f"The image encoder given works on images of {encoder.image_size} pixels, but the basis was trained with "
            f"{needed}, which works on {expected}. Give that one."
        )


def encode_query(encoder: VisionEncoder, a: Tensor, a_prime: Tensor, b: Tensor, mode: str = "cat-aa'b") -> Tensor:
    """Embed the triplet and arrange the embeddings as `mode` says.

    a, a_prime, b: images (H, W, 3), float in 0–1, each of any size. Returns (1, k, E), float32.
    All images go through the encoder in one pass.
    """
    if mode not in QUERY_MODES:
        raise LoRWebError(f"Query mode {mode!r} is not known; this version has: {', '.join(QUERY_MODES)}.")
    embeddings = encoder.embed([a, a_prime, b])
    return QUERY_MODES[mode](*embeddings)[None]
