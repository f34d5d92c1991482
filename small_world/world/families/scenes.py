"""Scenes of the world of families: two objects in a landscape with hills, specks, an hour and a season."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from small_world.world.families.shapes import SHAPES
from small_world.world.painting import Draw, cover, paint

SIDE = 64
"""Side of a picture, in pixels."""

TEXTURES = ("plain", "stripes", "dots", "checks", "rings")
ADDED = ("nothing", "sun", "cloud", "tree", "balloon")
# Sky, hills, ground, and the specks on the ground (flowers, leaves, snow).
SEASONS = {
    "spring": ((0.66, 0.86, 0.98), (0.45, 0.70, 0.52), (0.50, 0.80, 0.40), (0.98, 0.60, 0.80)),
    "summer": ((0.28, 0.60, 0.96), (0.62, 0.62, 0.34), (0.92, 0.80, 0.42), (0.80, 0.64, 0.28)),
    "autumn": ((0.84, 0.78, 0.70), (0.52, 0.34, 0.26), (0.66, 0.40, 0.20), (0.92, 0.56, 0.14)),
    "winter": ((0.72, 0.80, 0.88), (0.76, 0.82, 0.92), (0.96, 0.97, 1.00), (0.78, 0.86, 0.96)),
}
NOON = 12.0
# Light by the hour: how much of red, green and blue is left, at these hours and between them along a line.
HOURS = (0.0, 5.0, 7.0, 9.0, 16.0, 18.0, 20.0, 24.0)
LIGHT = (
    (0.16, 0.18, 0.36),
    (0.36, 0.34, 0.50),
    (0.95, 0.72, 0.66),
    (1.00, 1.00, 1.00),
    (1.00, 1.00, 1.00),
    (1.00, 0.68, 0.42),
    (0.44, 0.30, 0.50),
    (0.16, 0.18, 0.36),
)
THIN = 0.06
"""Width of an object's outline where no edit makes it wider, as a share of half its width."""

DARK = 0.08
"""Brightness of outlines and faces."""


@dataclass(frozen=True)
class Scenes:
    """Describe n scenes; each attribute is a tensor (n,). Lengths are of half the picture's side, y downwards."""

    x: Tensor
    y: Tensor
    size: Tensor
    """Half the main object's width."""
    shape: Tensor
    """Index into SHAPES."""
    colour: Tensor
    """The main object's hue, degrees."""
    texture: Tensor
    """Index into TEXTURES."""
    grain: Tensor
    """Length after which the texture repeats, in halves of the object's width."""
    outline: Tensor
    """Width of the main object's outline, in halves of its width."""
    turn: Tensor
    """Degrees by which the main object is turned."""
    face: Tensor
    """1 with a face, else 0."""
    mouth: Tensor
    """Bend of the face's mouth: 1 smiles, 0 is straight, −1 is sad."""
    other_shape: Tensor
    other_colour: Tensor
    other_x: Tensor
    other_size: Tensor
    added: Tensor
    """Index into ADDED."""
    place: Tensor
    """Where it is, −1 left to 1 right."""
    season: Tensor
    """Index into SEASONS."""
    hour: Tensor
    horizon: Tensor
    hills: Tensor
    """Phase of the hills, in turns."""
    steep: Tensor
    """Height of the hills."""
    specks: Tensor
    """Where on the ground the specks are."""

    def __len__(self) -> int:
        return len(self.x)


def draw_scenes(n: int, generator: torch.Generator) -> Scenes:
    """Draw n random scenes: at noon, and with nothing added."""
    draw = Draw(n, generator)
    side = 2 * draw.one_of(2) - 1.0  # the second object stands on this side of the first
    x = draw.between(0.0, 0.24) * -side
    return Scenes(
        x=x,
        y=draw.between(-0.12, 0.18),
        size=draw.between(0.42, 0.58),
        shape=draw.one_of(len(SHAPES)),
        colour=draw.between(0, 360),
        texture=draw.sometimes(draw.one_of(len(TEXTURES)), 0.4),
        grain=draw.between(0.5, 0.9),
        outline=torch.full((n,), THIN),
        turn=torch.zeros(n),
        face=draw.sometimes(torch.ones(n, dtype=torch.long), 0.3),
        mouth=draw.between(-1, 1),
        other_shape=draw.one_of(len(SHAPES)),
        other_colour=draw.between(0, 360),
        other_x=x + side * draw.between(0.62, 0.85),
        other_size=draw.between(0.2, 0.3),
        added=torch.zeros(n, dtype=torch.long),
        place=torch.zeros(n),
        season=draw.one_of(len(SEASONS)),
        hour=torch.full((n,), NOON),
        horizon=draw.between(0.15, 0.45),
        hills=draw.between(0, 1),
        steep=draw.between(0.05, 0.3),
        specks=draw.between(0, 1),
    )


def render(scenes: Scenes, side: int = SIDE) -> Tensor:
    """Draw scenes as pictures, (n, 3, side, side), float32 in 0–1."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    picture = _landscape(scenes, x, y)
    picture = _other(scenes, picture, x, y)
    picture = _main(scenes, picture, x, y)
    picture = _addition(scenes, picture, x, y)
    return (picture * light(scenes.hour)[:, :, None, None]).clamp(0, 1)


def hue(degrees: Tensor, saturation: float = 0.78, value: float = 0.92) -> Tensor:
    """Convert hues, (n,), to colours, (n, 3): a channel is full within a sixth of the circle of its own hue."""
    away = (degrees[:, None] - torch.tensor((0.0, 120.0, 240.0)) + 180) % 360 - 180
    full = (2 - away.abs() / 60).clamp(0, 1)
    return value * (1 - saturation * (1 - full))


def light(hour: Tensor) -> Tensor:
    """Find the light at hours, (n,) → (n, 3)."""
    hours, lights = torch.tensor(HOURS), torch.tensor(LIGHT)
    after = torch.searchsorted(hours, hour.contiguous(), right=True).clamp(1, len(HOURS) - 1)
    share = ((hour - hours[after - 1]) / (hours[after] - hours[after - 1])).clamp(0, 1)[:, None]
    return lights[after - 1] * (1 - share) + lights[after] * share


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None]


def _landscape(scenes: Scenes, x: Tensor, y: Tensor) -> Tensor:
    tables = (torch.tensor(list(colours)) for colours in zip(*SEASONS.values(), strict=True))
    sky, hills, ground, specks = (table[scenes.season] for table in tables)
    horizon = _wide(scenes.horizon)
    # The sky grows paler towards the horizon.
    pale = ((y + 1) / (horizon + 1)).clamp(0, 1)[:, None] * 0.45
    picture = sky[:, :, None, None] * (1 - pale) + pale
    ridge = horizon - _wide(scenes.steep) * (1 + torch.sin(2 * pi * (0.75 * x + _wide(scenes.hills)))) - 0.03
    picture = paint(picture, cover(ridge - y), hills)
    picture = paint(picture, cover(horizon - y), ground)
    # Specks in two rows, moved along by the scene's own phase.
    below = y - horizon
    place = (x + 2 * _wide(scenes.specks) + 0.37 * torch.floor(below / 0.3)) % 0.8 - 0.4
    height = below % 0.3 - 0.15
    return paint(picture, cover((place**2 + height**2).sqrt() - 0.08) * (below > 0), specks)


def _shape(index: Tensor, u: Tensor, v: Tensor) -> Tensor:
    distance = torch.empty_like(u)
    for number, shape in enumerate(SHAPES.values()):
        if (chosen := index == number).any():
            distance[chosen] = shape(u[chosen], v[chosen])
    return distance


def _other(scenes: Scenes, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Draw the second object, on the ground."""
    size = _wide(scenes.other_size)
    u, v = (x - _wide(scenes.other_x)) / size, (y - _wide(scenes.horizon) - 0.12) / size
    distance = _shape(scenes.other_shape, u, v) * size
    picture = paint(picture, cover(distance - 2 * THIN * size), torch.full((3,), DARK))
    return paint(picture, cover(distance), hue(scenes.other_colour))


def _main(scenes: Scenes, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Draw the main object, in coordinates of its own."""
    size, angle = _wide(scenes.size), _wide(scenes.turn) * pi / 180
    u, v = (x - _wide(scenes.x)) / size, (y - _wide(scenes.y)) / size
    u, v = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
    distance = _shape(scenes.shape, u, v) * size
    body = hue(scenes.colour)
    picture = paint(picture, cover(distance - _wide(scenes.outline) * size), torch.full((3,), DARK))
    picture = paint(picture, cover(distance), body)
    picture = paint(picture, cover(distance) * _marks(scenes, u, v), 1 - 0.35 * (1 - body))
    return paint(picture, _face(scenes, u, v, size), torch.full((3,), DARK))


def _marks(scenes: Scenes, u: Tensor, v: Tensor) -> Tensor:
    """Mark where the texture is light, 0 or 1."""
    grain = _wide(scenes.grain)

    def cell(along: Tensor) -> Tensor:
        return along % grain / grain - 0.5

    kinds = torch.stack(
        [
            torch.zeros_like(u),
            (cell(u + v).abs() < 0.2).float(),
            (cell(u) ** 2 + cell(v) ** 2 < 0.08).float(),
            (cell(u) * cell(v) > 0).float(),
            (cell((u**2 + v**2).sqrt()).abs() < 0.22).float(),
        ],
        1,
    )
    return kinds[torch.arange(len(scenes)), scenes.texture]


def _face(scenes: Scenes, u: Tensor, v: Tensor, size: Tensor) -> Tensor:
    """Cover two eyes and a mouth, a parabola whose bend is the scene's."""
    eyes = (torch.minimum((u - 0.28) ** 2, (u + 0.28) ** 2) + (v + 0.15) ** 2).sqrt() - 0.14
    bow = _wide(scenes.mouth) * (0.16 - 1.6 * u**2)
    mouth = torch.maximum((v - 0.32 - bow).abs() - 0.09, u.abs() - 0.36)
    return torch.maximum(cover(eyes * size), cover(mouth * size)) * _wide(scenes.face)


def _addition(scenes: Scenes, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Draw what was added: in the sky, or a tree in front of everything."""
    u = x - _wide(scenes.place)

    def disc(along: float, down: float, radius: float) -> Tensor:
        return ((u - along) ** 2 + (y - down) ** 2).sqrt() - radius

    cloud = torch.stack([disc(-0.17, -0.68, 0.13), disc(0.02, -0.74, 0.17), disc(0.2, -0.67, 0.12)]).amin(0)
    trunk = torch.maximum((u - 0.0).abs() - 0.06, (y - 0.62).abs() - 0.3)
    string = torch.maximum(u.abs() - 0.025, (y + 0.35).abs() - 0.2)
    parts = {
        "sun": [(disc(0, -0.7, 0.22), (1.0, 0.93, 0.35))],
        "cloud": [(cloud, (0.97, 0.97, 1.0))],
        "tree": [(trunk, (0.42, 0.26, 0.14)), (disc(0, 0.25, 0.28), (0.10, 0.45, 0.20))],
        "balloon": [(string, (0.2, 0.2, 0.2)), (disc(0, -0.68, 0.2), (0.9, 0.12, 0.45))],
    }
    for index, name in enumerate(ADDED):
        for distance, colour in parts.get(name, ()):
            picture = paint(picture, cover(distance) * _wide(scenes.added == index), torch.tensor(colour))
    return picture
