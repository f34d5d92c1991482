"""A folder of pictures → the analogies in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import LoRWebError, shown
from .analogies import Analogy, Picture, list_names, load_picture, split_by_edit
from .data_reader import DataReader, is_text
from .folder_layouts import FOLDER_LAYOUTS, Wanted

__all__ = ["AUTO", "FOLDER_LAYOUTS", "Analogy", "Picture", "load_picture", "read_analogies", "split_by_edit"]

AUTO = "auto"
"""Instead of one of FOLDER_LAYOUTS: whichever the folder has."""


def read_analogies(
    folder: Path,
    control: Path | None = None,
    layout: str = AUTO,
    caption_ext: str = "txt",
    default_caption: str = "",
    analogies_per_edit: int = 64,
    seed: int = 0,
    roots: Iterable[Path] = (),
) -> list[Analogy]:
    """Find the analogies of a folder, in an order that is the same every time; only names are read, no picture is.

    folder, control: the published folder_path and control_path; the latter is of the layout `triplets` only, and may be
    left out where both lie in `folder` as target and control. layout: one of FOLDER_LAYOUTS, or AUTO.
    caption_ext: suffix of caption files. default_caption: where there is none. analogies_per_edit: at most so many are
    made of an edit's pairs, chosen by the seed; triplets are taken as they are, all. Files that lack their other half
    are named in a warning and left out. roots: all that is read must lie in one of these folders, links followed;
    without any, links may lead everywhere. Raises LoRWebError if no analogy is found.
    """
    folder, control = Path(folder), None if control is None else Path(control)
    reader = DataReader(roots)
    for key, path in {"folder_path": folder, "control_path": control}.items():
        if path is not None and not (os.path.isdir(reader.check(path)) and is_text(str(path))):
            raise LoRWebError(f"{key} {shown(path)}: there is no such folder.")
    if layout not in (AUTO, *FOLDER_LAYOUTS):
        raise LoRWebError(f"layout is {shown(layout)}; expected one of: {', '.join((AUTO, *FOLDER_LAYOUTS))}.")
    if control is not None and layout not in (AUTO, "triplets"):
        raise LoRWebError(f"control_path {shown(control)} goes with the layout triplets only, not with {layout}.")
    if not re.fullmatch(r"\.?[^./\\\0]+", caption_ext):
        raise LoRWebError(f"caption_ext is {shown(caption_ext)}; expected the suffix of caption files, such as txt.")
    wanted = Wanted(folder, control, caption_ext, default_caption, analogies_per_edit, seed, reader)
    fitting = (each for name, each in FOLDER_LAYOUTS.items() if layout in (AUTO, name) and each.lies_in(wanted))
    chosen = next(fitting, None)
    analogies = chosen.read(wanted) if chosen else []
    if not analogies:
        forms = " Or ".join(each.form for name, each in FOLDER_LAYOUTS.items() if layout in (AUTO, name))
        raise LoRWebError(
            f"No pairs of pictures found in {shown(folder)}. Looked for: {forms}. What is there: {_contents(wanted)}."
        )
    return analogies


def _contents(wanted: Wanted) -> str:
    reader, folder = wanted.reader, wanted.folder
    folders = set(reader.folders(folder))
    return (
        list_names([f"{path.name}/" if path in folders else path.name for path in reader.entries(folder)], 8)
        or "nothing"
    )
