"""Edits of the plain world: single ones and pairs of them; which are kept from training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from small_world.world.plain.scenes import (
    ATTRIBUTES,
    COLOURS,
    FILTERS,
    SEASONS,
    SHAPES,
    TEXTURES,
    Scenes,
    draw_scenes,
    render,
)

Edit = tuple[str, ...]
"""One or two names of SINGLE."""

SINGLE: dict[str, tuple[str, int]] = {
    **{name: ("colour", value) for value, name in enumerate(COLOURS)},
    **{name: ("shape", value) for value, name in enumerate(SHAPES)},
    **{name: ("texture", value) for value, name in enumerate(TEXTURES) if value},
    **{name: ("season", value) for value, name in enumerate(SEASONS)},
    "face": ("face", 1),
    "sun": ("sun", 1),
    "tilt": ("tilted", 1),
    "flip": ("flipped", 1),
    **{name: ("filter", value) for value, name in enumerate(FILTERS) if value},
}
"""Name of an edit → the attribute that it sets, and to what."""

NEW: tuple[str, ...] = ("yellow", "dots", "night")
"""Single edits that no basis is trained on, nor any pair with them."""

_COLOURLESS = {"gray", "outline"}
_ONE_IN = 4


def all_edits() -> tuple[list[Edit], list[Edit]]:
    """List single edits, and the pairs whose edits both show: they set two attributes, and neither hides the other."""
    pairs = [
        (one, other)
        for one, other in combinations(SINGLE, 2)
        if SINGLE[one][0] != SINGLE[other][0] and not (one in COLOURS and other in _COLOURLESS)
    ]
    return [(name,) for name in SINGLE], pairs


def split() -> tuple[list[Edit], list[Edit], list[Edit]]:
    """Split edits into seen ones, new pairs of seen ones, and new single ones; a basis is trained on the first only.

    A quarter of the pairs is new, the same ones always. The base model, which is taught by words, has not seen these
    pairs either, but every single edit.
    """
    singles, pairs = all_edits()
    known = [pair for pair in pairs if not set(pair) & set(NEW)]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).tolist()
    held = len(known) // _ONE_IN
    seen = [edit for edit in singles if edit[0] not in NEW]
    return seen + [known[i] for i in order[held:]], [known[i] for i in order[:held]], [(name,) for name in NEW]


def taught_by_words() -> list[Edit]:
    """List what the base model is taught: every single edit, and every pair but the new ones."""
    singles, pairs = all_edits()
    kept = set(split()[1])
    return singles + [pair for pair in pairs if pair not in kept]


def edit_scenes(scenes: Scenes, edit: Edit) -> Scenes:
    """Make an edit to scenes."""
    changed: dict[str, Tensor] = {}
    for name in edit:
        attribute, value = SINGLE[name]
        changed[attribute] = torch.full_like(getattr(scenes, attribute), value)
    return replace(scenes, **changed)


def scenes_for(edit: Edit, n: int, generator: torch.Generator) -> Scenes:
    """Draw random scenes in which each part of the edit changes something."""
    scenes = draw_scenes(n, generator)
    for name in edit:
        attribute, value = SINGLE[name]
        other = torch.randint(1, ATTRIBUTES[attribute], (n,), generator=generator)
        has = getattr(scenes, attribute)
        scenes = replace(scenes, **{attribute: torch.where(has == value, (value + other) % ATTRIBUTES[attribute], has)})
    return scenes


def draw_pairs(edits: Sequence[Edit], each: int, generator: torch.Generator) -> Tensor:
    """Draw `each` pairs of every edit, one edit after the other: (n, 2, 3, SIDE, SIDE), uint8 as in a file."""
    pairs = []
    for edit in edits:
        before = scenes_for(edit, each, generator)
        pairs.append(torch.stack([render(before), render(edit_scenes(before, edit))], 1).mul(255).round().byte())
    return torch.cat(pairs)
