"""Where a node saves a file: in a models folder of the host, under a name that a person typed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ...lorweb_core.files.file_names import path_inside
from ...lorweb_core.files.new_file import IF_EXISTS, Ours, new_file
from . import shared_inputs


def inputs(what: str, default: str) -> list[io.Input]:
    """Ask a person for the name of what is saved, and what happens to an older file of that name.

    what: 'the file'.
    """
    return [
        io.String.Input(
            "name", default=default, tooltip=f"The name of {what}, without suffix; it may begin with a subfolder."
        ),
        shared_inputs.choice(
            "if_exists",
            IF_EXISTS,
            "number: an older file stays, and the new one gets a number behind its name. replace: the older file is "
            "replaced once the new one is whole, but only if this node wrote it.",
        ),
    ]


def saving(folder: str, name: str, if_exists: str, ours: Ours) -> AbstractContextManager[Path]:
    """Find the .safetensors file to write for a name in one of the host's models folders: see `new_file`."""
    return new_file(root(folder), name, if_exists, ours, f"models/{folder}")


def run_folder(folder: str, name: str) -> Path:
    """Turn a name into the path of a folder in one of the host's models folders: see `path_inside`."""
    return path_inside(root(folder), name.strip().removesuffix(".safetensors"), called=f"models/{folder}")


def root(folder: str) -> Path:
    """Find the first of the places that the host has for a models folder: the one that is saved to."""
    return Path(folder_paths.get_folder_paths(folder)[0])
