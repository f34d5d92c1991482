"""Twelve shapes, as signed distances in an object's own coordinates: its middle at 0, half its width 1, y downwards."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
"""Coordinates u and v, any shape → distance to the edge, about, negative inside."""


def _circle(u: Tensor, v: Tensor, radius: float = 0.9) -> Tensor:
    return (u**2 + v**2).sqrt() - radius


def _box(u: Tensor, v: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(u.abs() - width, v.abs() - height)


def _polygon(corners: int, radius: float, turn: float = 0.0) -> Distance:
    """Make a regular polygon, a corner upwards: the farthest of the lines through its sides."""
    angles = [2 * pi * (side + 0.5) / corners + turn for side in range(corners)]
    inner = radius * cos(pi / corners)

    def distance(u: Tensor, v: Tensor) -> Tensor:
        return torch.stack([u * sin(angle) - v * cos(angle) for angle in angles]).amax(0) - inner

    return distance


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Measure to a line from a tip to the notch beside it, in each fifth of the circle."""
    fifth = 2 * pi / 5
    angle = (torch.atan2(u, -v) + fifth / 2) % fifth - fifth / 2
    radius = (u**2 + v**2).sqrt()
    return 0.89 * radius * angle.sin().abs() + 0.45 * (radius * angle.cos() - 1.1)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u, v, 0.95, 0.33), _box(u, v, 0.33, 0.95))


def _heart(u: Tensor, v: Tensor) -> Tensor:
    lobes = ((u.abs() - 0.45) ** 2 + (v + 0.35) ** 2).sqrt() - 0.5
    tip = torch.maximum(u.abs() * 0.8 + v * 0.6 - 0.65, 0.6 * (u.abs() - 0.45) - 0.8 * (v + 0.35))
    return torch.minimum(lobes, tip)


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_circle(u, v, 0.95), -_circle(u - 0.45, v + 0.1, 0.72))


def _drop(u: Tensor, v: Tensor) -> Tensor:
    tip = torch.maximum(u.abs() * 0.87 - (v + 1.0) * 0.49, v - 0.05)
    return torch.minimum(_circle(u, v - 0.3, 0.62), tip)


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (_circle(u, v, 0.62)).abs() - 0.28


SHAPES: dict[str, Distance] = {
    "circle": _circle,
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "triangle": lambda u, v: _polygon(3, 1.15)(u, v - 0.2),
    "star": _star,
    "diamond": _polygon(4, 1.05),
    "pentagon": _polygon(5, 0.98),
    "hexagon": _polygon(6, 0.95, pi / 6),
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "drop": _drop,
    "ring": _ring,
}

ROUND = ("circle", "ring")
"""Shapes that look alike however they are turned."""
