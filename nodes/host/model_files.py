"""Files in the pack's models folders, as the host lists them."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...lorweb_core import LoRWebError
from ...lorweb_core.errors import shown


def listed_files(folder: str, *suffixes: str) -> list[str]:
    """Names, with subfolders, of the files in a models folder that have one of these suffixes."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(suffixes)]


def folders(folder: str) -> str:
    """Describe for a message where the files of a models folder may be."""
    return " or ".join(shown(Path(path)) for path in folder_paths.get_folder_paths(folder))


def listed_file(folder: str, name: str, *suffixes: str) -> Path:
    """The file of that name. Only what the host lists is taken: another name may lead out of the folder."""
    if name not in listed_files(folder, *suffixes):
        raise LoRWebError(
            f"{shown(name)} is not a {suffixes[0]} file in {folders(folder)}. "
            "Put it there and press R, or choose one from the list."
        )
    return Path(folder_paths.get_full_path_or_raise(folder, name))
