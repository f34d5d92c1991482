"""Where the parts of an inspection's picture are: rows of layers by group, columns of LoRAs, all in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..layer_names import grouped, parse
from ..space.inspection import Inspection

MARGIN = 24
LABELS = 124  # names of groups and numbers of blocks, left of the heat maps
GAP = 32  # between columns of the picture
BARS = 80
PROFILE = 130
SLOT = 36  # of a group at least: two lines of its name
THUMBNAIL = 96


class Group(NamedTuple):
    """Place the layers of one kind and stream, by block."""

    kind: str
    stream: str
    layers: list[int]
    """Indices in the basis's order."""
    blocks: list[tuple[str, int]]
    """Block of each layer."""
    top: int
    """Top of its first row, pixels."""
    slot: tuple[int, int]
    """Pixels from where to where it may be labelled."""


class Layout(NamedTuple):
    """Say what is where, in pixels."""

    groups: list[Group]
    row: int
    """Height of a layer."""
    cell: int
    """Width of a LoRA's column."""
    panels: list[int]
    """Left of each heat map."""
    panel: int
    """Width of a heat map's column in the picture."""
    profiles: tuple[int, int]
    """Left of each profile."""
    thumbnail: int
    """Longest side of a thumbnail."""
    top: int
    """Top of what is under the title."""
    base: int
    """Height on which the bars stand."""
    bottom: int
    """Height under the last group."""
    width: int
    height: int


def layout_for(inspection: Inspection) -> Layout:
    count, n = inspection.coefficients.shape
    maps = 3 if inspection.compared else 1
    cell = min(48, max(1, (960 if maps == 3 else 640) // maps // n))
    panel = max(n * cell, 210)
    panels = [MARGIN + LABELS + i * (panel + GAP) for i in range(maps)]
    first = panels[-1] + panel + GAP
    profiles = (first, first + PROFILE + GAP)
    shown = [inspection, *([inspection.compared.other] if inspection.compared else [])]
    top = MARGIN + 64
    thumbnail = min(THUMBNAIL, (panel - 16) // 3) if maps > 1 else THUMBNAIL
    base = top + 44 + BARS + (thumbnail + 36 if any(view.thumbnails for view in shown) else 0)
    row = min(28, max(2, 1000 // count)) if count <= 700 else 1
    groups, bottom = _group(inspection.layers, base + 26, row)
    width, height = profiles[1] + PROFILE + MARGIN, bottom + 94
    return Layout(groups, row, cell, panels, panel, profiles, thumbnail, top, base, bottom, width, height)


def _group(layers: Sequence[str], top: int, row: int) -> tuple[list[Group], int]:
    """Place the groups that there are, from `top` downwards, and tell where the last one ends."""
    groups = []
    for kind, stream, members in grouped(layers):
        height = max(SLOT, len(members) * row)
        blocks = [parse(layers[i])[:2] for i in members]
        inside = top + (height - len(members) * row) // 2
        groups.append(Group(kind, stream, members, blocks, inside, (top, top + height)))
        top += height + 8
    return groups, top - 8
