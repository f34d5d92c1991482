"""Check what the command line is given: texts, paths, and where files may be written."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import LoRWebError, named, shown
from .files.atomic import check_writable


def a_path(text: str) -> str:
    """Check that a system may have such a path. Raises ValueError for half a character, or NUL, in it."""
    if b"\0" in os.fsencode(text):
        raise ValueError
    return text


def a_text(text: str) -> str:
    """Check that a text is whole. Raises ValueError for half a character in it."""
    text.encode()
    return text


def check_out(out: Path, example: str) -> None:
    """Check that a file may be written there, as far as its folder goes. example: a name for it.

    Raises LoRWebError, which calls it --out.
    """
    if not os.path.isdir(out.parent):
        raise LoRWebError(f"--out {shown(out)}: there is no folder {shown(out.parent)}. Create it first.")
    if os.path.isdir(out):
        raise LoRWebError(f"--out {shown(out)} is a folder. Give a file name in it, e.g. {shown(out / example)}.")
    try:
        check_writable(out.parent)
    except OSError as error:
        raise LoRWebError(
            f"--out {shown(out)}: the folder {shown(out.parent)} cannot be written to ({error.strerror})."
        ) from error


def check_mixture_out(out: Path) -> None:
    """Check that a mixture may be written there. Raises LoRWebError."""
    check_out(out, "mixture.safetensors")
    if out.suffix != ".safetensors":
        raise LoRWebError(f"--out {shown(out)} ends in {named(out.suffix) or 'no suffix'}; expected .safetensors.")
