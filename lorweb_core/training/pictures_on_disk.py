"""A folder of pictures → the analogies in it."""

from __future__ import annotations

from pathlib import Path

from ..errors import LoRWebError
from .analogies import Analogy, Picture, load_picture, some, split_by_edit
from .folder_layouts import LAYOUTS, Wanted, entries

__all__ = ["AUTO", "LAYOUTS", "Analogy", "Picture", "load_picture", "read_analogies", "split_by_edit"]

AUTO = "auto"
"""Instead of one of LAYOUTS: whichever the folder has."""


def read_analogies(
    folder: Path,
    control: Path | None = None,
    layout: str = AUTO,
    caption_ext: str = "txt",
    default_caption: str = "",
    analogies_per_edit: int = 64,
    seed: int = 0,
) -> list[Analogy]:
    """The analogies of a folder, in an order that is the same every time; only names are read, no picture is.

    folder, control: the published folder_path and control_path; the latter is of the layout `triplets` only, and may be
    left out where both lie in `folder` as target and control. layout: one of LAYOUTS, or AUTO. caption_ext: suffix of
    caption files. default_caption: where there is none. analogies_per_edit: at most so many are made of an edit's
    pairs, chosen by the seed; triplets are taken as they are, all. Files that lack their other half are named in a
    warning and left out. Raises LoRWebError if no analogy is found.
    """
    folder, control = Path(folder), None if control is None else Path(control)
    for key, path in {"folder_path": folder, "control_path": control}.items():
        if path is not None and not path.is_dir():
            raise LoRWebError(f"{key} {path}: there is no such folder.")
    if layout not in (AUTO, *LAYOUTS):
        raise LoRWebError(f"layout is {layout!r}; expected one of: {', '.join((AUTO, *LAYOUTS))}.")
    if control is not None and layout not in (AUTO, "triplets"):
        raise LoRWebError(f"control_path {control} goes with the layout triplets only, and layout is {layout!r}.")
    fitting = [name for name, each in LAYOUTS.items() if layout in (AUTO, name) and each.lies_in(folder, control)]
    wanted = Wanted(folder, control, caption_ext, default_caption, analogies_per_edit, seed)
    analogies = LAYOUTS[fitting[0]].read(wanted) if fitting else []
    if not analogies:
        forms = " Or ".join(each.form for name, each in LAYOUTS.items() if layout in (AUTO, name))
        raise LoRWebError(
            f"No pairs of pictures found in {folder}. Looked for: {forms}. What is there: {_contents(folder)}."
        )
    return analogies


def _contents(folder: Path) -> str:
    return some([f"{path.name}/" if path.is_dir() else path.name for path in entries(folder)], 8) or "nothing"
