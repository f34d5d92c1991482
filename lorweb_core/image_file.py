"""Pictures in files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .errors import LoRWebError


def read_image(path: str | Path, what: str = "The picture") -> Tensor:
    """(H, W, 3), float32 in 0–1, turned as its EXIF orientation says; transparency is dropped.

    what: what to call it where something is wrong. Raises LoRWebError if there is none, or if it cannot be read.
    """
    import numpy
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit grey, which convert() would clip instead of scaling
                upright = Image.fromarray((numpy.asarray(upright) / 257).astype("uint8"))
            pixels = numpy.array(upright.convert("RGB"))
    except FileNotFoundError as error:
        raise LoRWebError(f"{what} {path}: there is no such file.") from error
    # Pillow's plugins raise the others on damaged files, beside OSError.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LoRWebError(f"{what} {path} is not an image that can be read ({error}).") from error
    return torch.from_numpy(pixels).float() / 255
