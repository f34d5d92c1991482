"""The pictures that the bundled workflows open with: two edits that no model has seen, and pictures to make them on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lorweb_core.files.image_file import write_png
from small_world.world.edits import Edit, edit_scenes, scenes_for
from small_world.world.scenes import Scenes, render, select

FOLDER = Path(__file__).parent.parent / "workflows" / "pictures"

SIDE = 512
"""Side of an example picture, in pixels: a cell of Kontext's grid. In the small world they are scaled down."""

EDITS: dict[str, Edit] = {"": ("orange", "sun"), "_2": ("red", "summer")}
"""Endings of the names of an edit's pictures → the edit, one of the new pairs."""


SEED = 6
"""Seed of the scenes, chosen among sixteen by the eye."""


def example_scenes() -> dict[str, Scenes]:
    """Draw the scenes: for each edit one before and after it, one to edit, and what that should become."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = {}
    for ending, edit in EDITS.items():
        scenes = scenes_for(edit, 2, generator)
        before, picture = select(scenes, slice(0, 1)), select(scenes, slice(1, 2))
        named = {"before": before, "picture": picture}
        named |= {"after": edit_scenes(before, edit), "truth": edit_scenes(picture, edit)}
        drawn |= {f"{name}{ending}": scene for name, scene in named.items()}
    return drawn


def draw_examples(folder: Path = FOLDER) -> None:
    """Draw all but the truth: `lorweb_before.png`, `lorweb_after.png`, `lorweb_picture.png`, then `_2`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in example_scenes().items():
        if not name.startswith("truth"):
            write_png(as_picture(scene), folder / f"lorweb_{name}.png")


def as_picture(scene: Scenes) -> Tensor:
    """Render one scene as a picture, (SIDE, SIDE, 3) in 0–1."""
    return render(scene, SIDE)[0].movedim(0, -1)
