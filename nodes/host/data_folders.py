"""Which folders of pictures a node reads: those that whoever reaches the web page may see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...lorweb_core import LoRWebError
from ...lorweb_core.errors import shown
from ...lorweb_core.training.data.analogies import list_names
from ...lorweb_core.training.data.data_reader import DataReader
from .model_files import DATASETS

ANYWHERE = "LORWEB_TRAIN_ANYWHERE"
"""Environment variable: where it is 1, every folder of the machine is read."""

DEEPEST = 3
"""Folders from that of a dataset down to its pictures, in every layout, and the pictures' own level."""


def roots() -> list[Path]:
    """List the folders in which all must lie that is read; none if all may be read."""
    return [] if os.environ.get(ANYWHERE) == "1" else _known()


def _known() -> list[Path]:
    return [Path(folder_paths.get_input_directory()), *map(Path, folder_paths.get_folder_paths(DATASETS))]


def find_folder(typed: str) -> Path:
    """Find the folder that is meant by a path below one of the known folders, or by an absolute one within them.

    typed: as a person types it, or as a file manager copies it. Of several the first that is there is taken. Raises
    LoRWebError, in the same words whether it exists or not, for a path that is not allowed.
    """
    path, reader = typed.strip().strip('"'), DataReader(roots())
    if not path:
        raise LoRWebError(
            f"folder is empty: give the path of a folder of pictures before and after an edit. {_allowed()}"
        )
    if path.startswith(("~/", "~\\")):
        path = os.path.expanduser(path)
    meant = [Path(root, path) for root in _known()]
    allowed = [each for each in meant if reader.allows(each)]
    there = next(filter(os.path.isdir, allowed), None)
    if there is None and allowed != meant:
        raise LoRWebError(
            f"folder {shown(typed)} is not where pictures for training may lie. {_allowed()} To allow another place, "
            f"name it under {DATASETS} in extra_model_paths.yaml; to allow every place, start ComfyUI with "
            f"{ANYWHERE}=1 in its environment."
        )
    return there or (meant[0] if roots() else Path(path))


def files(folder: Path) -> Iterator[Path]:
    """List the files that may be a dataset's. Raises LoRWebError if a link leads out of `roots`."""
    reader, level = DataReader(roots()), [folder]
    for _ in range(DEEPEST):
        entries = [path for each in level for path in reader.entries(each)]
        level = [path for path in entries if reader.has_folder(path)]
        yield from sorted(set(entries) - set(level))


def _allowed() -> str:
    """Say which folders there are, in a sentence or two."""
    places = " or ".join(shown(root) for root in _known())
    return f"They lie in {places}. What is there: {list_names(sorted(_offered()), 20) or 'no folder'}."


def _offered() -> set[str]:
    """Find the folders directly in the known ones."""
    reader, names = DataReader(_known()), set()
    for root in _known():
        try:
            names.update(
                path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "." and reader.allows(path)
            )
        except OSError:  # none is there, or it may not be read
            continue
    return names
