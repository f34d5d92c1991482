"""The pictures that the bundled workflows open with: two edits that no model has seen, and pictures to make them on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lorweb_core.files.image_file import write_png
from small_world.world.painting import select
from small_world.world.plain.edits import Edit, edit_scenes, scenes_for
from small_world.world.plain.scenes import Scenes, render

FOLDER = Path(__file__).parent.parent / "workflows" / "pictures"

SIDE = 512
"""Side of an example picture, in pixels: a cell of Kontext's grid. In the small world they are scaled down."""

EDITS: tuple[Edit, Edit] = (("orange", "sun"), ("red", "summer"))
"""Edits that are shown, of the new pairs."""

SEED = 6
"""Seed of the scenes, chosen among sixteen by the eye."""


def example_scenes() -> dict[str, Scenes]:
    """Draw the scenes: one before and after each edit, two to edit, and what the first of them should become."""
    generator = torch.Generator().manual_seed(SEED)
    (before, picture), (_, picture_2) = (
        [select(scenes, slice(i, i + 1)) for i in range(2)] for scenes in (scenes_for(e, 2, generator) for e in EDITS)
    )
    after, after_2 = (edit_scenes(before, edit) for edit in EDITS)
    drawn = {"before": before, "after": after, "after_2": after_2, "picture": picture, "picture_2": picture_2}
    return drawn | {"truth": edit_scenes(picture, EDITS[0])}


def draw_examples(folder: Path = FOLDER) -> None:
    """Draw all but the truth, each as `lorweb_<name>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in example_scenes().items():
        if name != "truth":
            write_png(as_picture(scene), folder / f"lorweb_{name}.png")


def as_picture(scene: Scenes) -> Tensor:
    """Render one scene as a picture, (SIDE, SIDE, 3) in 0–1."""
    return render(scene, SIDE)[0].movedim(0, -1)
