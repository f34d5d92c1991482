"""Edits of whole pictures: colours, detail, places. Each takes pictures (n, 3, side, side) in 0–1 and numbers (n,)."""

from __future__ import annotations

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from small_world.world.families.scenes import hue

_BRIGHTNESS = torch.tensor((0.299, 0.587, 0.114))
# Brightness and two differences of colour, in which a turn changes the hue alone (YIQ, as televisions had it).
_YIQ = torch.tensor(((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""Orders of the channels that `swap` chooses from."""


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def gray(picture: Tensor) -> Tensor:
    """Reduce pictures to their brightness, (n, 1, side, side)."""
    return torch.einsum("nchw,c->nhw", picture, _BRIGHTNESS)[:, None]


def turn_hue(picture: Tensor, degrees: Tensor) -> Tensor:
    angle = degrees * pi / 180
    turn = torch.eye(3).repeat(len(angle), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    return torch.einsum("nij,njhw->nihw", torch.linalg.inv(_YIQ) @ turn @ _YIQ, picture)


def tint(picture: Tensor, degrees: Tensor, share: Tensor) -> Tensor:
    """Blend a colour of a hue over everything."""
    return picture + _wide(share) * (hue(degrees)[:, :, None, None] - picture)


def brighten(picture: Tensor, factor: Tensor) -> Tensor:
    return picture * _wide(factor)


def contrast(picture: Tensor, factor: Tensor) -> Tensor:
    return 0.5 + _wide(factor) * (picture - 0.5)


def saturate(picture: Tensor, factor: Tensor) -> Tensor:
    return gray(picture) + _wide(factor) * (picture - gray(picture))


def gamma(picture: Tensor, exponent: Tensor) -> Tensor:
    return picture.clamp_min(1e-4) ** _wide(exponent)


def posterize(picture: Tensor, levels: Tensor) -> Tensor:
    steps = _wide(levels) - 1
    return (picture * steps).round() / steps


def solarize(picture: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is brighter than a threshold."""
    return torch.where(picture >= _wide(threshold), 1 - picture, picture)


def swap(picture: Tensor, order: Tensor) -> Tensor:
    chosen = torch.tensor(ORDERS)[order.long()]
    return picture.gather(1, chosen[:, :, None, None].expand_as(picture))


def duotone(picture: Tensor, degrees: Tensor) -> Tensor:
    """Colour by brightness: from a dark hue to a light one beside it."""
    dark, bright = hue(degrees, 1.0, 0.4), hue(degrees + 60, 0.5, 1.0)
    return dark[:, :, None, None] + gray(picture) * (bright - dark)[:, :, None, None]


def vignette(picture: Tensor, strength: Tensor) -> Tensor:
    line = torch.linspace(-1, 1, picture.shape[-1])
    away = line[:, None] ** 2 + line[None] ** 2
    return picture * (1 - _wide(strength) * (away / 1.3).clamp(0, 1))


def border(picture: Tensor, width: Tensor, shade: Tensor) -> Tensor:
    """Cover the edge, `width` of half the side, with a shade from black to white."""
    line = (torch.arange(picture.shape[-1]) + 0.5) / picture.shape[-1] * 2 - 1
    from_middle = torch.maximum(line[:, None].abs(), line[None].abs())
    outside = ((from_middle - 1 + _wide(width)) * picture.shape[-1] / 2 + 0.5).clamp(0, 1)
    return picture + outside * (_wide(shade) - picture)


def blur(picture: Tensor, deviation: Tensor) -> Tensor:
    """Blur by a Gauss curve, its deviation in 64ths of the side."""
    line = torch.arange(picture.shape[-1]) * (64 / picture.shape[-1])
    away = (line[:, None] - line[None]) / deviation[:, None, None]
    weights = torch.exp(-(away**2) / 2)
    return _along_both(picture, weights / weights.sum(-1, keepdim=True))


def pixelate(picture: Tensor, size: Tensor) -> Tensor:
    """Average within squares, `size` 64ths of the side wide; they are laid from the middle."""
    line = (torch.arange(picture.shape[-1]) + 0.5) * (64 / picture.shape[-1]) - 32
    cell = torch.floor(line / size[:, None] + 0.5)
    weights = (cell[:, :, None] == cell[:, None]).float()
    return _along_both(picture, weights / weights.sum(-1, keepdim=True))


def _along_both(picture: Tensor, weights: Tensor) -> Tensor:
    """Apply (n, side, side) weights to rows and to columns."""
    return weights[:, None] @ picture @ weights[:, None].mT


def rotate(picture: Tensor, degrees: Tensor) -> Tensor:
    angle = degrees * pi / 180
    return _moved(picture, [[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])


def zoom(picture: Tensor, factor: Tensor) -> Tensor:
    nothing = torch.zeros_like(factor)
    return _moved(picture, [[1 / factor, nothing], [nothing, 1 / factor]])


def shift(picture: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Move everything by halves of the side; what comes in is mirrored."""
    one, nothing = torch.ones_like(right), torch.zeros_like(right)
    return _moved(picture, [[one, nothing], [nothing, one]], (-right, -down))


def mirror(picture: Tensor, way: Tensor) -> Tensor:
    """Mirror across (0), down (1) or both (2)."""
    across, down = torch.where(way == 1, 1.0, -1.0), torch.where(way == 0, 1.0, -1.0)
    nothing = torch.zeros_like(across)
    return _moved(picture, [[across, nothing], [nothing, down]])


def _moved(picture: Tensor, matrix: list[list[Tensor]], offset: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Take each pixel from where matrix and offset, (n,) each, send its place; beyond the edge it is mirrored."""
    offset = offset or (torch.zeros_like(matrix[0][0]),) * 2
    rows = [torch.stack([*row, along], -1) for row, along in zip(matrix, offset, strict=True)]
    grid = F.affine_grid(torch.stack(rows, 1), list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)


def wave(picture: Tensor, height: Tensor) -> Tensor:
    """Push each row aside along a sine, `height` of half the side."""
    one = torch.eye(2, 3).expand(len(picture), -1, -1)
    grid = F.affine_grid(one, list(picture.shape), align_corners=False)
    along = grid[..., 0] + height[:, None, None] * torch.sin(2 * pi * grid[..., 1])
    return F.grid_sample(
        picture, torch.stack([along, grid[..., 1]], -1), padding_mode="reflection", align_corners=False
    )
