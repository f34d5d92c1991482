"""Scenes of the plain world: an object in a landscape, drawn from a handful of attributes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from small_world.world.painting import Draw, cover, paint

SIDE = 64
"""Side of a picture, in pixels."""

COLOURS = {
    "red": (0.85, 0.18, 0.18),
    "orange": (0.98, 0.58, 0.12),
    "yellow": (0.98, 0.88, 0.20),
    "green": (0.15, 0.62, 0.30),
    "blue": (0.15, 0.32, 0.88),
    "purple": (0.58, 0.22, 0.72),
}
SHAPES = ("circle", "square", "triangle", "star")
TEXTURES = ("plain", "stripes", "dots")
# Sky, ground, and the specks on the ground (flowers, leaves, snow).
SEASONS = {
    "spring": ((0.66, 0.86, 0.98), (0.50, 0.80, 0.40), (0.98, 0.60, 0.80)),
    "summer": ((0.28, 0.60, 0.96), (0.92, 0.80, 0.42), (0.80, 0.64, 0.28)),
    "autumn": ((0.84, 0.78, 0.70), (0.66, 0.40, 0.20), (0.92, 0.56, 0.14)),
    "winter": ((0.72, 0.80, 0.88), (0.96, 0.97, 1.00), (0.78, 0.86, 0.96)),
}
FILTERS = ("none", "gray", "invert", "night", "blur", "pixelate", "outline")

HORIZON = 0.35
"""How far the horizon is below the middle, as a share of the picture's half height."""


@dataclass(frozen=True)
class Scenes:
    """Describe n scenes; each attribute is a tensor (n,). Integers are indices into the tables above."""

    x: Tensor
    """The object's middle, −1 left to 1 right."""
    y: Tensor
    """The object's middle, −1 top to 1 bottom."""
    size: Tensor
    """Half the object's width."""
    specks: Tensor
    """Where on the ground the specks are."""
    shape: Tensor
    colour: Tensor
    texture: Tensor
    season: Tensor
    face: Tensor
    """1 with a face, else 0; sun, tilted and flipped likewise."""
    sun: Tensor
    tilted: Tensor
    """The object is turned by an eighth."""
    flipped: Tensor
    """The picture is upside down."""
    filter: Tensor

    def __len__(self) -> int:
        return len(self.x)


# Attributes that say what is in a picture, and how many values each has.
ATTRIBUTES = {
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "texture": len(TEXTURES),
    "season": len(SEASONS),
    "face": 2,
    "sun": 2,
    "tilted": 2,
    "flipped": 2,
    "filter": len(FILTERS),
}


def draw_scenes(n: int, generator: torch.Generator, edited: float = 0.0) -> Scenes:
    """Draw n random scenes; edited: the share in which each of sun, tilt, flip and filter is there already."""
    draw = Draw(n, generator)
    return Scenes(
        x=draw.between(-0.28, 0.28),
        y=draw.between(-0.2, 0.2),
        size=draw.between(0.5, 0.7),
        specks=draw.between(0, 1),
        shape=draw.one_of(len(SHAPES)),
        colour=draw.one_of(len(COLOURS)),
        texture=draw.sometimes(draw.one_of(len(TEXTURES)), 0.5),
        season=draw.one_of(len(SEASONS)),
        face=draw.sometimes(torch.ones(n, dtype=torch.long), 0.3),
        sun=draw.sometimes(torch.ones(n, dtype=torch.long), edited),
        tilted=draw.sometimes(torch.ones(n, dtype=torch.long), edited),
        flipped=draw.sometimes(torch.ones(n, dtype=torch.long), edited),
        filter=draw.sometimes(draw.one_of(len(FILTERS)), edited),
    )


def render(scenes: Scenes, side: int = SIDE) -> Tensor:
    """Draw scenes as pictures, (n, 3, side, side), float32 in 0–1. Filters that blur are as fine at any side."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    picture = _landscape(scenes, x, y)
    picture = _object(scenes, picture, x, y)
    picture = torch.where(_wide(scenes.flipped) == 1, picture.flip(2), picture)
    filtered = picture.clone()
    for index, name in enumerate(FILTERS):
        if name != "none" and (chosen := scenes.filter == index).any():
            filtered[chosen] = _FILTERS[name](picture[chosen])
    return filtered.clamp(0, 1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _table(rows) -> Tensor:
    return torch.tensor(list(rows))


def _landscape(scenes: Scenes, x: Tensor, y: Tensor) -> Tensor:
    sky, ground, specks = (_table(colours)[scenes.season] for colours in zip(*SEASONS.values(), strict=True))
    n = len(scenes)
    picture = sky[:, :, None, None].expand(n, 3, *x.shape)
    picture = paint(picture, cover(HORIZON - y).expand(n, -1, -1), ground)
    # Specks in two rows, moved along by the scene's own phase.
    rows = torch.floor((y - HORIZON) / 0.3)
    place = (x[None] + 2 * scenes.specks[:, None, None] + 0.37 * rows) % 0.8 - 0.4
    height = (y - HORIZON) % 0.3 - 0.15
    picture = paint(picture, cover((place**2 + height**2).sqrt() - 0.09) * (y > HORIZON), specks)
    sun = cover(((x - 0.68) ** 2 + (y + 0.68) ** 2).sqrt() - 0.22)
    return paint(picture, sun * scenes.sun[:, None, None], torch.tensor((1.0, 0.95, 0.45)))


def _object(scenes: Scenes, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Draw the object in coordinates of its own: middle at 0, half its width 1, turned if it is tilted."""
    u = (x - scenes.x[:, None, None]) / scenes.size[:, None, None]
    v = (y - scenes.y[:, None, None]) / scenes.size[:, None, None]
    angle = scenes.tilted[:, None, None] * torch.pi / 4
    u, v = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
    distances = torch.stack([_SHAPES[name](u, v) for name in SHAPES], 1)
    size = scenes.size[:, None, None]
    distance = distances[torch.arange(len(scenes)), scenes.shape] * size
    body = _table(COLOURS.values())[scenes.colour]
    marks = torch.stack([torch.zeros_like(u), *(_TEXTURES[name](u, v) for name in TEXTURES[1:])], 1)
    mark = marks[torch.arange(len(scenes)), scenes.texture]
    picture = paint(picture, cover(distance - 0.05), torch.full((3,), 0.08))
    picture = paint(picture, cover(distance), body)
    picture = paint(picture, cover(distance) * mark, 1 - 0.35 * (1 - body))
    eyes = torch.minimum((u - 0.3) ** 2, (u + 0.3) ** 2) + (v + 0.1) ** 2
    ring = ((u**2 + (v - 0.05) ** 2).sqrt() - 0.45).abs() - 0.11
    mouth = torch.maximum(ring, 0.22 - v)
    strokes = torch.maximum(cover((eyes.sqrt() - 0.16) * size), cover(mouth * size))
    return paint(picture, strokes * scenes.face[:, None, None], torch.full((3,), 0.08))


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v - 0.75, (u.abs() * 1.73 - v - 1.0) / 2)


def _star(u: Tensor, v: Tensor) -> Tensor:
    """Measure the distance to a star: in each fifth of the circle, to a line from a tip to the notch beside it."""
    fifth = 2 * torch.pi / 5
    angle = (torch.atan2(u, -v) + fifth / 2) % fifth - fifth / 2
    radius = (u**2 + v**2).sqrt()
    across, along = radius * angle.sin().abs(), radius * angle.cos()
    return 0.89 * across + 0.45 * (along - 1.1)


_SHAPES = {
    "circle": lambda u, v: (u**2 + v**2).sqrt() - 0.95,
    "square": lambda u, v: torch.maximum(u.abs(), v.abs()) - 0.85,
    "triangle": _triangle,
    "star": _star,
}
_TEXTURES = {
    "stripes": lambda u, v: ((u + v) % 0.9 < 0.36).float(),
    "dots": lambda u, v: (((u % 0.8) - 0.4) ** 2 + ((v % 0.8) - 0.4) ** 2 < 0.05).float(),
}


def _gray(picture: Tensor) -> Tensor:
    return picture.mean(1, keepdim=True).expand_as(picture)


def _blur(picture: Tensor) -> Tensor:
    for _ in range(2):
        picture = F.avg_pool2d(F.pad(picture, (3, 3, 3, 3), mode="replicate"), 7, 1)
    return picture


def _pixelate(picture: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(picture, 8), scale_factor=8)


def _outline(picture: Tensor) -> Tensor:
    """Draw dark lines on white where brightness or colour changes."""
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]).abs()
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]).abs()
    change = across + down
    return (1 - 1.2 * change.amax(1, keepdim=True)).clamp(0, 1).expand_as(picture)


_FILTERS = {
    "gray": _gray,
    "invert": lambda picture: 1 - picture,
    "night": lambda picture: picture * torch.tensor((0.28, 0.30, 0.50))[:, None, None],
    "blur": _blur,
    "pixelate": _pixelate,
    "outline": _outline,
}
