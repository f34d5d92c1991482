"""The grid of Kontext's extended attention, [a a'; b b'], and b' cut out of it again.

Sizes are the published ones: NVlabs/LoRWeB's inference.py, and the Kontext pipeline of diffusers that it runs.
Published is one pair (a, a'); further pairs that demonstrate the same edit are further rows above b's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import LoRWebError, shown

# Sizes (width, height) that FLUX.1-Kontext was trained on (diffusers, pipeline_flux_kontext.py), one way round.
_KONTEXT = ((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104))
KONTEXT_SIZES = (*_KONTEXT, (1024, 1024), *((height, width) for width, height in _KONTEXT))

MULTIPLE = 16
"""Pixels that sides are multiples of: the autoencoder's 8 times FLUX's patches of 2."""

MOST_MEGAPIXELS = 256
"""Most of what is sampled, in 1024² pixels; FLUX was made for 1 or 2."""

FITS = ("stretch", "pad", "crop")
"""Ways in which an image of another shape than a's comes into its cell: as published, with black borders, or cut."""


class Size(NamedTuple):
    """Give the size of a picture in pixels."""

    height: int
    width: int


def area_size(shape: Size, megapixels: float) -> Size:
    """Find a size of about `megapixels` · 1024² pixels in this shape; sides are multiples of 16."""
    if not 0 < megapixels <= MOST_MEGAPIXELS:
        raise LoRWebError(
            f"megapixels is {shown(megapixels)}; expected a number above 0, up to {MOST_MEGAPIXELS}, 1.0 as published."
        )
    aspect = shape.width / shape.height
    area = megapixels * 1024**2
    return Size(_multiple(round((area / aspect) ** 0.5)), _multiple(round((area * aspect) ** 0.5)))


def grid_sizes(a: Size, megapixels: float = 1.0, pairs: int = 1, whole_cells: bool = False) -> tuple[Size, Size]:
    """Compute the sizes of the sampled grid and of the reference grid for an `a` of this size.

    The sampled grid has about `megapixels` · 1024² pixels and cells of a's shape. With one pair, as published, the
    reference grid is the Kontext size of the nearest shape, scaled by the same factor. Sides are multiples of 16, and
    with whole_cells those of the cells too, as always with several pairs.
    """
    if whole_cells or pairs > 1:
        # Nothing was trained on taller grids, nor on a cell alone. Equal sizes with cells of whole tokens put each
        # token of b exactly where the token is that it becomes; a Kontext size would shift them, more with every row.
        rows = pairs + 1
        cell = area_size(a, megapixels / (2 * rows))
        grid = Size(rows * cell.height, 2 * cell.width)
        return grid, grid
    sampled = area_size(a, megapixels)
    aspect = a.width / a.height
    width, height = min(KONTEXT_SIZES, key=lambda size: abs(aspect - size[0] / size[1]))
    return sampled, Size(_multiple(height * megapixels**0.5), _multiple(width * megapixels**0.5))


def _multiple(pixels: float) -> int:
    return max(MULTIPLE, int(pixels) // MULTIPLE * MULTIPLE)


def reference_grid(
    pairs: Sequence[tuple[Tensor, Tensor]], b: Tensor, sampled: Size, reference: Size, fit: str = "stretch"
) -> Tensor:
    """Lay out [a a'; b b], (H, W, 3) in 0–1, of the size `reference`; images are (h, w, 3), each of any size.

    Of several pairs (a, a') each has a row: [a a'; …; a a'; b b].

    Each image is resampled once, from its own pixels to its cell. Shapes are fitted to a cell of the sampled grid,
    so that `cut_result` can undo the fit knowing only the sampled grid.
    """
    rows = len(pairs) + 1
    cell = Size(reference.height // rows, reference.width // 2)
    shape = Size(sampled.height // rows, sampled.width // 2)
    cells = [[fitted(image, cell, shape, fit) for image in pair] for pair in pairs]
    last = fitted(b, cell, shape, fit)
    return torch.cat([torch.cat(row, 1) for row in (*cells, [last, last])], 0)


def cut_result(grid: Tensor, b: Size | None = None, fit: str = "stretch", pairs: int = 1) -> Tensor:
    """Cut b', the bottom-right cell, out of decoded grids (n, H, W, 3) of so many pairs.

    b: the size to bring it to, with the fit undone; None leaves it as it is.
    """
    check_pairs(pairs)
    height, width = grid.shape[1] // (pairs + 1), grid.shape[2] // 2
    if not (height and width):
        raise LoRWebError(
            f"The picture is {grid.shape[2]}×{grid.shape[1]} pixels, too small for a grid of {pairs} pair(s) and b. "
            "Give the decoded grid, and as many pairs as it shows."
        )
    return undo_fit(grid[:, pairs * height :, width:], b, fit)


def undo_fit(last: Tensor, b: Size | None = None, fit: str = "stretch") -> Tensor:
    """Bring b', (n, h, w, 3), from its cell to b's size, with the fit undone; None leaves it as it is.

    A crop cannot be undone: what was cut off is not in the cell. The part that is comes back at b's scale.
    """
    check_fit(fit)
    if b is None:
        return last
    cell = Size(*last.shape[1:3])
    if fit == "pad":
        top, left, inner = _inside(b, cell)
        last = last[:, top : top + inner.height, left : left + inner.width]
    elif fit == "crop":
        b = _inside(cell, b)[2]
    return resize(last, b)


def check_pairs(pairs: int) -> None:
    """Raise LoRWebError if a grid cannot be one of so many pairs."""
    if not 1 <= pairs <= 10_000:
        raise LoRWebError(f"pairs is {shown(pairs)}; expected a whole number from 1 to 10,000.")


def resize(images: Tensor, size: Size) -> Tensor:
    """Resize, bicubic, antialiased, clamped: (n, H, W, 3) → (n, *size, 3)."""
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    pixels = F.interpolate(images.movedim(-1, 1).float(), tuple(size), mode="bicubic", antialias=True)
    return pixels.clamp(0, 1).movedim(1, -1)


def fit_inside(image: Tensor, box: Size, enlarge: bool = True) -> Tensor:
    """Scale an image, (H, W, 3), in its own shape to the largest size that the box holds; on the CPU."""
    size = scaled_inside(Size(*image.shape[:2]), box, enlarge)
    return resize(image[None].float().cpu(), size)[0]


def scaled_inside(shape: Size, box: Size, enlarge: bool = True) -> Size:
    """Return the largest size of this shape that the box holds, 1 pixel a side at least."""
    scale = min(box.height / shape.height, box.width / shape.width)
    if not enlarge:
        scale = min(1.0, scale)
    return Size(max(1, round(shape.height * scale)), max(1, round(shape.width * scale)))


def check_fit(fit: str) -> None:
    """Raise LoRWebError if this is none of FITS."""
    if fit not in FITS:
        raise LoRWebError(f"fit is {shown(fit)}; expected one of: {', '.join(FITS)}.")


def fitted(image: Tensor, cell: Size, shape: Size, fit: str) -> Tensor:
    """Fit one image (h, w, 3) into a cell whose content has the aspect of `shape`."""
    check_fit(fit)
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
    """Place the largest box of this shape in the middle of a frame: top, left, size."""
    size = scaled_inside(shape, frame)
    return (frame.height - size.height) // 2, (frame.width - size.width) // 2, size
