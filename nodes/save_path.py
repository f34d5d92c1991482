"""Where a node saves a file: in a models folder of the host, under a name that a person typed."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import folder_paths
from comfy_api.latest import io

from ..lorweb_core import LoRWebError

IF_EXISTS = ("number", "replace")


def inputs(what: str, default: str) -> list:
    """The two inputs of a node that saves."""
    return [
        io.String.Input("name", default=default, tooltip=f"Of {what}, without suffix; may begin with a subfolder."),
        io.Combo.Input(
            "if_exists",
            options=list(IF_EXISTS),
            default="number",
            tooltip="number: an older file stays, the new one gets a number behind its name. replace: the older one "
            "is replaced once the new one is whole.",
        ),
    ]


def save_path(folder: str, name: str, if_exists: str) -> Path:
    """The .safetensors file to write for a name; its folder exists then.

    folder: the host's name of a models folder. Raises LoRWebError if the name leads out of it, is none that every
    system takes, or if the folder cannot be written to.
    """
    if if_exists not in IF_EXISTS:
        raise LoRWebError(f"if_exists is {if_exists!r}; expected one of: {', '.join(IF_EXISTS)}.")
    name = name.strip().replace("\\", "/").removesuffix(".safetensors")
    parts = PurePosixPath(name).parts
    if not parts or any(part in ("..", "/") or part != part.strip(" .") for part in parts):
        raise LoRWebError(
            f"The name {name!r} does not stay in models/{folder}. Give a name like my_edit or lorweb/my_edit."
        )
    if re.search(r'[<>:"|?*\x00-\x1f]', name):
        raise LoRWebError(f'The name {name!r} has a character that files cannot have: one of < > : " | ? * is in it.')
    wanted = Path(folder_paths.get_folder_paths(folder)[0], *parts)
    path = wanted.with_name(f"{wanted.name}.safetensors")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK) and not path.is_dir()
    except OSError as error:
        raise LoRWebError(f"{path.parent} cannot be made ({error.strerror}). Choose another name.") from error
    if not writable:
        raise LoRWebError(f"{path} cannot be written. Choose another name, or allow ComfyUI to write there.")
    number = 2
    while if_exists == "number" and path.exists():
        path = wanted.with_name(f"{wanted.name}-{number}.safetensors")
        number += 1
    return path
