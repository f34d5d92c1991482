"""Images as they are given → the analogies to solve: which pairs (a, a') demonstrate the edit of which b."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .errors import LoRWebError

MIN_SIDE = 16
"""Pixels of the shortest side taken: smaller images hold nothing to edit."""


class Triplet(NamedTuple):
    """Hold one analogy: b, and the pairs (a, a') that demonstrate its edit. Images are (H, W, 3), float in 0–1."""

    pairs: list[tuple[Tensor, Tensor]]
    b: Tensor

    def without_edit(self) -> Triplet:
        """Make the analogy whose pairs show no edit, (a, a): a query of it is the origin of this one's."""
        return Triplet([(a, a) for a, _ in self.pairs], self.b)


def triplets(a: Tensor, a_prime: Tensor, b: Tensor) -> list[Triplet]:
    """Match up images or batches of them, (H, W, C) or (n, H, W, C): one Triplet per b.

    One pair demonstrates the edit of every b; as many pairs as b's are whole triplets; several pairs and one b are
    several demonstrations of one edit. Raises LoRWebError, with the sizes, for any other batches.
    """
    pairs, b = image_pairs(a, a_prime), rgb_images(b, "b")
    if len(b) == 1:
        return [Triplet(pairs, b[0])]
    if len(pairs) not in (1, len(b)):
        raise LoRWebError(
            f"{len(pairs)} pairs (a, a_prime) and {len(b)} b's do not fit together. Give one pair for all b's, a pair "
            "for each b, or several pairs and one b."
        )
    return [Triplet([pair], image) for pair, image in zip(pairs * (len(b) // len(pairs)), b, strict=True)]


def image_pairs(a: Tensor, a_prime: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pair up images or batches of them, (H, W, C) or (n, H, W, C), as (H, W, 3) each.

    Raises LoRWebError, with the sizes, for batches that differ.
    """
    a, a_prime = rgb_images(a, "a"), rgb_images(a_prime, "a_prime")
    if len(a) != len(a_prime):
        raise LoRWebError(
            f"a is a batch of {len(a)} and a_prime of {len(a_prime)} images; they are pairs, so give as many of both."
        )
    return list(zip(a, a_prime, strict=True))


def rgb_images(images: Tensor, name: str) -> Tensor:
    """Check one image or a batch: (H, W, C) or (n, H, W, C), float, RGB or RGBA → (n, H, W, 3). Alpha is dropped.

    Raises LoRWebError, with `name`, for another type of values, another shape, or a side below MIN_SIDE.
    """
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise LoRWebError(f"{name} holds values of the type {kind}; expected floating-point values from 0 to 1.")
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or not len(images) or images.shape[-1] not in (3, 4):
        raise LoRWebError(
            f"{name} has the shape {tuple(images.shape)}; expected images of height, width and 3 (RGB) or 4 (RGBA) "
            "channels."
        )
    if min(images.shape[1:3]) < MIN_SIDE:
        raise LoRWebError(
            f"{name} is {images.shape[2]}×{images.shape[1]} pixels; expected at least {MIN_SIDE} a side. "
            "Give a larger image."
        )
    return images[..., :3]


def each_image(images: Tensor | Sequence[Tensor], name: str) -> list[Tensor]:
    """List every image, (H, W, 3), of one, a batch, or a list of these, (H, W, C) or (n, H, W, C), RGB or RGBA.

    Raises LoRWebError, with `name`, if there is none, or if one is no picture.
    """
    given = [images] if isinstance(images, Tensor) else images
    found = [image for batch in given for image in rgb_images(batch, name)]
    if not found:
        raise LoRWebError(f"{name} is an empty list; expected one image or more.")
    return found


def rgb_image(image: Tensor, name: str) -> Tensor:
    """Check exactly one image: (H, W, C) or (1, H, W, C) → (H, W, 3)."""
    images = rgb_images(image, name)
    if len(images) != 1:
        raise LoRWebError(
            f"{name} is a batch of {len(images)} images; expected one. Pick one, e.g. with ImageFromBatch."
        )
    return images[0]
