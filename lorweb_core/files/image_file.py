"""Pictures in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from ..errors import LoRWebError, shown
from .atomic import replacing
from .tensor_files import regular_file

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats that are read, by Pillow's names. Of others some start programs, as PostScript does."""

MOST_PIXELS = 200_000_000
MOST_BYTES = 1_000_000_000


def read_image(path: str | Path, what: str = "The picture") -> Tensor:
    """Read the first frame of a picture: (H, W, 3), float32 in 0–1, turned as its EXIF orientation says.

    Transparency is dropped. 16-bit grey is scaled; floats are taken as 0–1, or as 0–255 where some are above 1.
    what: what to call it where something is wrong. Raises LoRWebError if there is none, if it is in none of FORMATS or
    larger than MOST_PIXELS or MOST_BYTES, or if it cannot be read; pipes and devices are never opened.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise LoRWebError(f"{what} {shown(path)}: there is no such file.")
    try:
        size = regular_file(path, "picture").st_size
        if size > MOST_BYTES:
            raise _Refused(f"has {size:,} bytes; at most {MOST_BYTES:,} are read.")
        with open(path, "rb") as file:
            pixels = _levels(file)
    except _Refused as refused:
        raise LoRWebError(f"{what} {shown(path)} {refused}") from refused
    except LoRWebError as error:
        raise LoRWebError(f"{what} {error}") from error
    except Exception as error:  # of damaged files Pillow's plugins raise whatever comes of them
        raise LoRWebError(f"{what} {shown(path)} is not an image that can be read ({shown(error)}).") from error
    return torch.from_numpy(pixels).float().div_(255)


def write_png(picture: Tensor, path: Path) -> Image.Image:
    """Write a picture, (H, W, 3), float in 0–1 or uint8, and return it as it was written.

    Raises LoRWebError if it cannot be written; an older one stays then.
    """
    image = as_image(picture)
    with replacing(path) as file:
        image.save(file, "PNG")
    return image


def as_image(picture: Tensor) -> Image.Image:
    """Turn a picture into Pillow's: (H, W, 3), uint8, or float, which is clamped to 0–1, on any device."""
    from PIL import Image

    return Image.fromarray(as_levels(picture).numpy())


def as_levels(picture: Tensor) -> Tensor:
    """Round a picture, (H, W, 3), float, which is clamped to 0–1, or uint8, to uint8 on the CPU."""
    picture = picture.cpu()
    return (picture.float().clamp(0, 1) * 255).round().byte() if picture.is_floating_point() else picture


class _Refused(Exception):
    """Say what is wrong with a picture, as the rest of a sentence that begins with its name."""


def _levels(file: BinaryIO) -> ndarray:
    """Decode the first frame: (H, W, 3), uint8 or, of floats, float32 in 0–255."""
    import numpy
    from PIL import ImageOps

    with _opened(file) as image:
        if min(image.size) < 1:
            raise _Refused("is not an image that can be read (it has no pixels).")
        if image.width * image.height > MOST_PIXELS:
            raise _Refused(
                f"has {image.width} × {image.height} pixels; at most {MOST_PIXELS:,} are read. Make it smaller."
            )
        upright = ImageOps.exif_transpose(image)
    if upright.mode[0] in "IF":
        grey = _wide_grey(numpy.asarray(upright))
        return numpy.repeat(grey[..., None], 3, 2)
    if upright.mode in ("P", "RGBa"):  # whose transparency goes by way of RGBA
        upright = upright.convert("RGBA")
    return numpy.array(upright.convert("RGB"))


def _opened(file: BinaryIO) -> Image.Image:
    """Read a picture's header.

    By Pillow's plugins and not by its `open`, whose bounds on the number of pixels are another, and global.
    """
    from PIL import (  # noqa: F401
        BmpImagePlugin,
        Image,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    beginning = file.read(16)
    file.seek(0)
    for name in FORMATS:
        make, accepts = Image.OPEN[name]
        if accepts and accepts(beginning) is True:
            return make(file, "")
    raise _Refused("is not an image that can be read: expected PNG, JPEG, WebP, BMP or TIFF.")


def _wide_grey(grey: ndarray) -> ndarray:
    """Scale grey of more than 8 bits to 0–255, which Pillow's `convert` would clip."""
    import numpy

    least, most = grey.min(), grey.max()
    if grey.dtype.kind == "f":
        if not (numpy.isfinite(least) and numpy.isfinite(most)):
            raise _Refused("has values that are not finite. Save it again, as PNG.")
        if least < 0 or most > 255:
            raise _Refused(f"has values from {least:g} to {most:g}; expected 0 to 1, or 0 to 255. Save it as PNG.")
        return grey.astype("float32") * (255 if most <= 1 else 1)
    if least < 0 or most > 65535:
        raise _Refused(f"has values from {least} to {most}; expected 8 or 16 bits. Save it as PNG.")
    return (grey / 257).astype("uint8")
