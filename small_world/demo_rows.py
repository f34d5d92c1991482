"""The analogies that `python tools/demo.py` makes, always the same for a world, and their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from small_world import install
from small_world.worlds import FAMILIES, PLAIN, SHIPPED, Edit, file_name

KINDS = {
    "new_pairs": "two edits never seen together",
    "outside": "a value beyond those seen",
    "whole": "a kind never seen, fitted",
    "new_edits": "an edit never seen, fitted",
}
"""Split of a world that is held out from its basis → how it is said on the sheet."""

FITTED = ("whole", "new_edits")
"""Kinds whose mixtures are fitted to the pair; those of the others are routed."""

FIT_STEPS = 20


class Row(NamedTuple):
    """Describe an analogy of two drawn scenes."""

    edit: Edit
    label: str
    """The edit, in words that a stranger reads."""
    kind: str
    """One of KINDS."""
    seed: int
    """Seed of the two scenes, in both of which the edit is plain to see."""

    @property
    def fit_steps(self) -> int:
        return FIT_STEPS if self.kind in FITTED else 0

    def file(self, picture: str) -> str:
        """Name the file of one of `install.PICTURES`."""
        return f"{file_name(self.edit)}-{picture}.png"


_PLAIN = (
    Row(("orange", "star"), "orange + star", "new_pairs", 1),
    Row(("triangle", "winter"), "triangle + winter", "new_pairs", 2),
    Row(("square", "gray"), "square + gray", "new_pairs", 3),
    Row(("star", "sun"), "star + sun", "new_pairs", 4),
    Row(("red", "flip"), "red + upside down", "new_pairs", 5),
    Row(("summer", "face"), "summer + face", "new_pairs", 6),
    Row(("night",), "night", "new_edits", 7),
    Row(("yellow",), "yellow", "new_edits", 8),
)

_FAMILIES = (
    Row(("colour 90", "outline 0.2"), "yellow-green + thick outline", "new_pairs", 1),
    Row(("turn 30", "season winter"), "object turned 30° + winter", "new_pairs", 9),
    Row(("tree -0.75", "season spring"), "tree + spring", "new_pairs", 3),
    Row(("saturation 0", "zoom 1.3"), "gray + closer", "new_pairs", 2),
    Row(("hour 0",), "midnight", "outside", 6),
    Row(("border 0.34 1",), "very wide white border", "outside", 5),
    Row(("vignette 1",), "dark corners", "whole", 0),
    Row(("swap 5",), "red and blue swapped", "whole", 10),
)
"""Edits that read well at 64 pixels, chosen before there was a base or a basis."""

ROWS_OF = {PLAIN: _PLAIN, FAMILIES: _FAMILIES}
ROWS = ROWS_OF[SHIPPED]


def save_pictures(folder: Path) -> None:
    """Save the drawn pictures of every row."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        install.save_triplet(folder, row.edit, torch.Generator().manual_seed(row.seed))
