"""Pictures on disk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor

from .atomic import replacing


def write_png(picture: Tensor, path: Path) -> Image.Image:
    """Write a picture, (H, W, 3), float in 0–1 or uint8, and return it as it was written.

    Raises LoRWebError if it cannot be written; an older one stays then.
    """
    image = as_image(picture)
    with replacing(path) as file:
        image.save(file, "PNG")
    return image


def as_image(picture: Tensor) -> Image.Image:
    """Turn a picture, (H, W, 3), float in 0–1 or uint8, into Pillow's."""
    return Image.fromarray(((picture * 255).round().byte() if picture.is_floating_point() else picture).numpy())
