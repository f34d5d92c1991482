"""Pairs whose a' is shifted or scaled against a: found by phase correlation, and cut to what both show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .grid import Size, resize, scaled_inside

COARSE, FINE = 128, 256
"""Pixels a side of the pictures that are compared."""

MOST_SHIFT = 0.25
"""Part of a side that a' may be shifted by to be found."""

MOST_SCALE = 1.25
"""Factor that a' may be larger or smaller by to be found."""

LEAST_SHIFT, LEAST_SCALE = 0.01, 1.015
"""Part of a side, and factor, below which a pair is as good as aligned: a third of a token in the published grid."""

CLEARLY = 1.5
"""Factor by which the correlation must be higher than without a shift, for edits change pictures too."""

LEAST_HEIGHT = 0.25
"""Correlation below which nothing is taken for a shift, of 1 for pictures that differ in nothing else.

Of 592 pairs of the small world's edits, aligned, 4 are then taken to be shifted: turned upside down, all of them.
"""

BETTER = 0.8
"""Factor by which the pictures' difference, where both show something, must be smaller than without a shift."""

BLUR = 0.15
"""Standard deviation of the frequencies that count, in cycles a pixel: finer ones are mostly noise."""


class Displacement(NamedTuple):
    """Say where a' shows what a shows: at scale · x + shift from the middle, in parts of its sides."""

    scale: float = 1.0
    down: float = 0.0
    right: float = 0.0

    @property
    def notable(self) -> bool:
        """Tell whether it is more than pairs usually have."""
        shift = max(abs(self.down), abs(self.right))
        return shift > LEAST_SHIFT or not 1 / LEAST_SCALE <= self.scale <= LEAST_SCALE


ALIGNED = Displacement()


def find_displacement(a: Tensor, a_prime: Tensor) -> Displacement:
    """Find how a' is shifted and scaled against a, images (H, W, 3) in 0–1; ALIGNED where nothing is clearly better.

    Each is stretched to a square first. Rotations, and what is beyond MOST_SHIFT and MOST_SCALE, are not found.
    """
    coarse, fine = ((_grey(a, side), _grey(a_prime, side)) for side in (COARSE, FINE))
    steps = torch.linspace(-1, 1, 31).tolist()
    rough = max((_correlate(*coarse, MOST_SCALE**step) for step in steps), key=lambda found: found[0])
    near = [rough[1].scale * 1.01 ** (step / 4) for step in range(-5, 6)]
    height, found = max((_correlate(*fine, scale) for scale in near), key=lambda found: found[0])
    clearly = height > max(LEAST_HEIGHT, CLEARLY * _correlate(*fine, 1.0, still=True)[0])
    return found if found.notable and clearly and _closer(*fine, found) else ALIGNED


def cut_to_common(a: Tensor, a_prime: Tensor, displacement: Displacement) -> tuple[Tensor, Tensor]:
    """Cut a pair, (H, W, 3) each, to what both show, so that a' lies on a; both come in a's size and shape."""
    size, scale = Size(*a.shape[:2]), displacement.scale
    shifts = displacement.down, displacement.right
    spans = [_common(side, scale, shift) for side, shift in zip(size, shifts, strict=True)]
    kept = scaled_inside(size, Size(*(last - first for first, last in spans)))
    first = [start + (end - start - part) // 2 for (start, end), part in zip(spans, kept, strict=True)]
    ends = [(start, start + part) for start, part in zip(first, kept, strict=True)]
    moved = [
        (_of_a_prime(start / side, scale, shift, own), _of_a_prime(end / side, scale, shift, own))
        for (start, end), side, own, shift in zip(ends, size, a_prime.shape[:2], shifts, strict=True)
    ]
    return _cut(a, ends, size), _cut(a_prime, moved, size)


def _of_a_prime(at: float, scale: float, shift: float, side: int) -> int:
    """Find the pixel of a side of a' that shows what is at this part, from 0 to 1, of the side of a."""
    return round(((at - 0.5) * scale + shift + 0.5) * side)


def _cut(image: Tensor, ends: Sequence[tuple[int, int]], size: Size) -> Tensor:
    (top, bottom), (left, right) = ends
    return resize(image[None, top:bottom, left:right], size)[0]


def _common(side: int, scale: float, shift: float) -> tuple[int, int]:
    """Find the pixels of a side of a that a' shows too: the first, and the one after the last."""
    first, last = (((end - shift) / scale + 0.5) * side for end in (-0.5, 0.5))
    return max(0, -int(-first // 1)), min(side, int(last))


def _grey(image: Tensor, side: int) -> Tensor:
    return resize(image[None].float().cpu(), Size(side, side))[0].mean(-1)


def _moved(image: Tensor, displacement: Displacement) -> Tensor:
    """Resample a grey image, (s, s), so that it lies on what it is displaced against."""
    scale, down, right = displacement
    across = torch.tensor([[[scale, 0.0, 2 * right], [0.0, scale, 2 * down]]])
    grid = F.affine_grid(across, [1, 1, *image.shape], align_corners=False)
    return F.grid_sample(image[None, None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0, 0]


def _correlate(a: Tensor, a_prime: Tensor, scale: float, still: bool = False) -> tuple[float, Displacement]:
    """Find the highest phase correlation, and the shift it is at, if a' is taken to be larger by this factor.

    still: only without a shift.
    """
    side = len(a)
    window = torch.hann_window(side, periodic=False)
    window = window[:, None] * window
    scaled = _moved(a_prime, Displacement(scale))
    one, other = (torch.fft.rfft2((image - image.mean()) * window) for image in (a, scaled))
    cross = other * one.conj()
    low = torch.exp(-(_frequencies(side) ** 2) / (2 * BLUR**2))
    surface = torch.fft.irfft2(cross / cross.abs().clamp_min(1e-9) * low, s=(side, side)) / low.mean()
    surface = surface.abs()  # of an edit that inverts it, a picture has its lowest value where it lies
    most = 1 if still else int(MOST_SHIFT * side)
    near = torch.fft.fftshift(surface)[side // 2 - most : side // 2 + most + 1, side // 2 - most : side // 2 + most + 1]
    row, column = divmod(int(near.argmax()), near.shape[1])
    down, right = (scale * _summit(line, at, most) / side for line, at in ((near[:, column], row), (near[row], column)))
    return float(near.max()), Displacement(scale, down, right)


def _frequencies(side: int) -> Tensor:
    return torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side))


def _summit(line: Tensor, at: int, middle: int) -> float:
    """Find the top of the parabola through a line's highest value and its neighbours, counted from the middle."""
    if not 0 < at < len(line) - 1:
        return float(at - middle)
    before, top, after = line[at - 1 : at + 2].tolist()
    bend = before - 2 * top + after
    return at - middle + (0.5 * (before - after) / bend if bend else 0.0)


def _closer(a: Tensor, a_prime: Tensor, displacement: Displacement) -> bool:
    """Tell whether the pictures differ clearly less when aligned, in what both show, each without its mean."""
    (top, bottom), (left, right) = (
        _common(len(a), displacement.scale, shift) for shift in (displacement.down, displacement.right)
    )
    if bottom - top < len(a) / 2 or right - left < len(a) / 2:
        return False

    def difference(image: Tensor) -> Tensor:
        parts = [each[top:bottom, left:right] for each in (a, image)]
        return (parts[0] - parts[0].mean() - parts[1] + parts[1].mean()).abs().mean()

    return bool(difference(_moved(a_prime, displacement)) < BETTER * difference(a_prime))
