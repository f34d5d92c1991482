"""The 2×2 grid of Kontext's extended attention, [a a'; b b'], and b' cut out of it again.

Sizes are the published ones: NVlabs/LoRWeB's inference.py, and the Kontext pipeline of diffusers that it runs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import LoRWebError

# Sizes (width, height) that FLUX.1-Kontext was trained on (diffusers, pipeline_flux_kontext.py), one way round.
_KONTEXT = ((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104))
KONTEXT_SIZES = (*_KONTEXT, (1024, 1024), *((height, width) for width, height in _KONTEXT))

MULTIPLE = 16
"""Pixels: the autoencoder's 8 times FLUX's patches of 2."""

MIN_SIDE = 16
"""Pixels: smaller images hold nothing to edit."""

FITS = ("stretch", "pad", "crop")
"""How an image of another shape than a's comes into its cell: as published, with black borders, or cut."""


class Size(NamedTuple):
    """Pixels."""

    height: int
    width: int


def rgb_image(image: Tensor, name: str) -> Tensor:
    """Check one image of the triplet: (H, W, C) or (1, H, W, C), RGB or RGBA → (H, W, 3). Alpha is dropped."""
    if image.ndim == 4:
        if len(image) != 1:
            raise LoRWebError(
                f"{name} is a batch of {len(image)} images; expected one. Pick one, e.g. with ImageFromBatch."
            )
        image = image[0]
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise LoRWebError(
            f"{name} has the shape {tuple(image.shape)}; expected height, width and 3 (RGB) or 4 (RGBA) channels."
        )
    if min(image.shape[:2]) < MIN_SIDE:
        raise LoRWebError(
            f"{name} is {image.shape[1]}×{image.shape[0]} pixels; expected at least {MIN_SIDE} a side. "
            "Give a larger image."
        )
    return image[..., :3]


def grid_sizes(a: Size, megapixels: float = 1.0) -> tuple[Size, Size]:
    """Sizes of the sampled grid and of the reference grid for an `a` of this size.

    The sampled grid has a's shape and about `megapixels` · 1024² pixels; the reference grid is the Kontext size
    of the nearest shape, scaled by the same factor. Sides are multiples of 16.
    """
    if not 0 < megapixels < float("inf"):
        raise LoRWebError(f"megapixels is {megapixels}; expected a number above 0, 1.0 as published.")
    aspect = a.width / a.height
    area = megapixels * 1024**2
    sampled = Size(_multiple(round((area / aspect) ** 0.5)), _multiple(round((area * aspect) ** 0.5)))
    width, height = min(KONTEXT_SIZES, key=lambda size: abs(aspect - size[0] / size[1]))
    return sampled, Size(_multiple(height * megapixels**0.5), _multiple(width * megapixels**0.5))


def _multiple(pixels: float) -> int:
    return max(MULTIPLE, int(pixels) // MULTIPLE * MULTIPLE)


def reference_grid(
    a: Tensor, a_prime: Tensor, b: Tensor, sampled: Size, reference: Size, fit: str = "stretch"
) -> Tensor:
    """[a a'; b b], (H, W, 3) in 0–1, of the size `reference`; images are (h, w, 3), each of any size.

    Each image is resampled once, from its own pixels to its cell. Shapes are fitted to a cell of the sampled grid,
    so that `cut_result` can undo the fit knowing only the sampled grid.
    """
    _check_fit(fit)
    cell = Size(reference.height // 2, reference.width // 2)
    shape = Size(sampled.height // 2, sampled.width // 2)
    a, a_prime, b = (_fit(image, cell, shape, fit) for image in (a, a_prime, b))
    return torch.cat([torch.cat([a, a_prime], 1), torch.cat([b, b], 1)], 0)


def cut_result(grid: Tensor, b: Size | None = None, fit: str = "stretch") -> Tensor:
    """b', the bottom-right quarter of decoded grids (n, H, W, 3); with `b` at b's size, the fit undone.

    A crop cannot be undone: what was cut off is not in the grid. The part that is comes back at b's scale.
    """
    _check_fit(fit)
    height, width = grid.shape[1] // 2, grid.shape[2] // 2
    quarter = grid[:, height:, width:]
    if b is None:
        return quarter
    cell = Size(height, width)
    if fit == "pad":
        top, left, inner = _inside(b, cell)
        quarter = quarter[:, top : top + inner.height, left : left + inner.width]
    elif fit == "crop":
        b = _inside(cell, b)[2]
    return resize(quarter, b)


def resize(images: Tensor, size: Size) -> Tensor:
    """Bicubic, antialiased, clamped: (n, H, W, 3) → (n, *size, 3)."""
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    pixels = F.interpolate(images.movedim(-1, 1).float(), tuple(size), mode="bicubic", antialias=True)
    return pixels.clamp(0, 1).movedim(1, -1)


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise LoRWebError(f"fit is {fit!r}; expected one of: {', '.join(FITS)}.")


def _fit(image: Tensor, cell: Size, shape: Size, fit: str) -> Tensor:
    """One image (h, w, 3) into a cell whose content has the aspect of `shape`."""
    size = Size(*image.shape[:2])
    if fit == "crop":
        top, left, size = _inside(shape, size)
        image = image[top : top + size.height, left : left + size.width]
    if fit != "pad":
        return resize(image[None], cell)[0]
    top, left, inner = _inside(size, shape)
    down, right = cell.height / shape.height, cell.width / shape.width
    top, left = round(top * down), round(left * right)
    inner = Size(max(1, round(inner.height * down)), max(1, round(inner.width * right)))
    canvas = image.new_zeros((*cell, 3))
    canvas[top : top + inner.height, left : left + inner.width] = resize(image[None], inner)[0]
    return canvas


def _inside(shape: Size, frame: Size) -> tuple[int, int, Size]:
    """The largest box of this shape in the middle of a frame: top, left, size."""
    scale = min(frame.height / shape.height, frame.width / shape.width)
    size = Size(max(1, round(shape.height * scale)), max(1, round(shape.width * scale)))
    return (frame.height - size.height) // 2, (frame.width - size.width) // 2, size
