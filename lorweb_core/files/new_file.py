"""A file to be written: under a name that nobody else writes to, and never in the place of what is not ours."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import LoRWebError, shown
from .file_names import check_inside, check_length, path_inside
from .locks import held

IF_EXISTS = ("number", "replace")

Ours = Callable[[Mapping[str, str]], bool]
"""Function that tells by the metadata of a .safetensors file whether it is one that may be replaced."""


@contextmanager
def new_file(root: Path, name: str, if_exists: str, ours: Ours, called: str | None = None) -> Iterator[Path]:
    """Find the .safetensors file to write for a name, inside a folder; within, no other writer is given the same.

    if_exists: 'number' for the first of name, name-2, name-3 … that is not there; 'replace' for the name as it is,
    where there is no file or one that `ours` knows. called: what messages call the folder. Raises LoRWebError if the
    name is refused, see `path_inside`; if what is there is not to be replaced; or if nothing can be written there.
    """
    check_if_exists(if_exists)
    path = path_inside(root, name, ".safetensors", called)
    _make_folder(path.parent)
    check_inside(root, path, called)
    if if_exists == "replace":
        check_ours(path, ours)
        yield path
    else:
        with _numbered(path) as free:
            yield free


def check_if_exists(if_exists: str) -> None:
    """Check that this is a way to treat what exists, or raise LoRWebError."""
    if if_exists not in IF_EXISTS:
        raise LoRWebError(f"if_exists is {shown(if_exists)}; expected one of: {', '.join(IF_EXISTS)}.")


def check_ours(path: Path, ours: Ours) -> None:
    """Raise LoRWebError if there is something at a path that `ours` does not know."""
    if os.path.lexists(path) and not ours(written_metadata(path)):
        raise LoRWebError(
            f"{shown(path)} is there already and was not written by this node, so it is not replaced. Choose another "
            "name, or move it away."
        )


def written_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a .safetensors file; empty for anything else, which is not opened if it is no file."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoRWebError(f"{shown(folder)} cannot be made ({error.strerror}). Choose another name.") from error


@contextmanager
def _numbered(wanted: Path) -> Iterator[Path]:
    """Find the first numbered name that is not there, and keep it from other writers within."""
    for number in count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        check_length(path.name)
        if os.path.lexists(path):
            continue
        with _reserved(path) as mine:
            # Another may have written it, and be done, since it was not there.
            if mine and not os.path.lexists(path):
                yield path
                return


@contextmanager
def _reserved(path: Path) -> Iterator[bool]:
    """Keep a name from other writers; yields whether it was free.

    The name is not taken by an empty file: lists would show it as long as the writing takes.
    """
    # Systems differ in what they take for the same name.
    same = unicodedata.normalize("NFC", path.name).casefold()
    reservation = path.with_name(f".lorweb-{hashlib.sha256(same.encode()).hexdigest()[:16]}.part")
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(held(reservation))
        except OSError as error:
            raise LoRWebError(
                f"{shown(path)} cannot be written ({error.strerror}). Choose another name, or allow writing there."
            ) from error
        yield mine
