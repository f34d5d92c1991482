"""Pictures of scenes in rows and columns, with their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lorweb_core.pictures.canvas import Canvas
from small_world.world.plain.scenes import SIDE

SHOWN = 2 * SIDE
"""Side of a shown picture, in pixels."""

_GAP = 10
_TOP = 34


def picture_table(
    columns: Sequence[str], rows: Mapping[str, Sequence[Tensor | None]], left: int = 250, text: int = 16
) -> Tensor:
    """Draw rows of pictures, (3, SIDE, SIDE) in 0–1, below their columns' names → (H, W, 3) in 0–1.

    None leaves a place free. left: room for the rows' names, in pixels. text: the columns' size of type.
    """
    step = SHOWN + _GAP
    canvas = Canvas(left + len(columns) * step, _TOP + len(rows) * step, "light")
    for column, name in enumerate(columns):
        canvas.text((left + column * step + SHOWN / 2, 8), name, text, anchor="ma")
    for row, (name, pictures) in enumerate(rows.items()):
        height = _TOP + row * step
        canvas.text((left - 14, height + SHOWN / 2), name, 15, anchor="rm")
        for column, picture in enumerate(pictures):
            if picture is not None:
                shown = picture.repeat_interleave(SHOWN // SIDE, 1).repeat_interleave(SHOWN // SIDE, 2)
                canvas.picture((left + column * step, height), shown.movedim(0, -1))
    return canvas.tensor()
