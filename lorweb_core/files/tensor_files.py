"""Safetensors on disk, in one file or in several with an index: their tensors by name, memory-mapped."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import LoRWebError, named, shown

INDEX_SUFFIX = ".safetensors.index.json"
"""Suffix of the index of a basis in several files, laid out as Hugging Face does."""

_SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}(?=\.safetensors$)")

_LARGEST_INDEX = 100_000_000
"""Most bytes of an index, as of a safetensors header."""

LastingIdentity = tuple[str, int, int]
FileIdentity = tuple[str, int, int, int, int]

# What a path can lead to that holds no data to read: opening a pipe waits for somebody who writes into it.
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_file(path: str | Path, what: str = "file") -> os.stat_result:
    """Return the system's record of a file that is to be read; nothing is opened, links are followed.

    what: is to be read. Raises LoRWebError if it is not there, or is a folder, pipe, socket or device.
    """
    place = shown(PurePath(path))
    try:
        found = os.stat(path)
    except OSError as error:
        raise LoRWebError(f"{place}: the {what} cannot be read ({error.strerror}).") from error
    except ValueError as error:  # UnicodeEncodeError, or NUL in it
        raise LoRWebError(f"{place}: the {what} cannot be read, as no path on this machine is called so.") from error
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise LoRWebError(f"{place} is {_KINDS.get(kind, 'no ordinary file')}; expected a file. It was not opened.")
    return found


def read_file(path: Path, most: int, what: str = "file") -> bytes:
    """Read a small file whole.

    what: is to be read. most: bytes. Raises LoRWebError as `regular_file` does, and if it is larger or cannot be read.
    """
    regular_file(path, what)
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise LoRWebError(f"{shown(path)}: the {what} cannot be read ({error.strerror}).") from error
    if len(content) > most:
        raise LoRWebError(f"{named(path)} is no {what}: it has more than {most:,} bytes.")
    return content


def file_identity(path: str | Path) -> FileIdentity:
    """Return what differs once a file was replaced: path, bytes, times of its content's and its own change (ns), inode.

    Good within a process: a copy or a backup of the same file has another one. Raises LoRWebError as `regular_file`.
    """
    found = regular_file(path)
    return (*_lasting(path, found), found.st_ctime_ns, found.st_ino)


def lasting_identity(path: str | Path) -> LastingIdentity:
    """Return what tells a file's states apart from one run to the next, also after a backup was restored: path, bytes
    and time of change in ns. Raises LoRWebError as `regular_file` does.
    """
    return _lasting(path, regular_file(path))


def _lasting(path: str | Path, found: os.stat_result) -> LastingIdentity:
    return os.path.abspath(path), found.st_size, found.st_mtime_ns


def checkpoint_identity(path: str | Path) -> tuple[FileIdentity, ...]:
    """Return the identity of every file of a checkpoint: of `path` itself, and of the shards if it is an index."""
    path = Path(path)
    shards = sorted(set(_read_index(path).values())) if is_index(path) else []
    return tuple(file_identity(file) for file in (path, *(path.with_name(shard) for shard in shards)))


def is_index(path: str | Path) -> bool:
    return str(path).lower().endswith(INDEX_SUFFIX)


def is_shard(path: str | Path) -> bool:
    return _SHARD.search(str(path)) is not None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map every tensor by name. path: a .safetensors file, or the .safetensors.index.json of one in several files.

    Raises LoRWebError, naming the file, if it is none, is damaged, or is not whole.
    """
    if is_index(path):
        return _read_shards(path)
    if is_shard(path):
        index = path.with_name(_SHARD.sub("", path.name)).with_suffix(INDEX_SUFFIX)
        raise LoRWebError(f"{named(path)} is one of several files of a basis. Choose their index, {named(index)}.")
    return _map_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts in the header of a .safetensors file. Raises LoRWebError as `read_tensors` does."""
    _check_container(path)
    with _damage_in_words(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def _map_file(path: Path) -> dict[str, Tensor]:
    _check_container(path)
    with _damage_in_words(path):
        return load_file(path)


@contextmanager
def _damage_in_words(path: Path) -> Iterator[None]:
    """Put what the safetensors package raises on a damaged file in our words."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise LoRWebError(
            f"{named(path)} is damaged: {named(str(error))}. Download it again and compare its size with the source's."
        ) from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Map all tensors of the files that an index names; they must be the ones that it says, each where it says."""
    where = _read_index(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(where.values())):
        try:
            held = _map_file(index.with_name(shard))
        except LoRWebError as error:
            raise LoRWebError(f"{named(index)} needs all its files: {error}") from error
        foreign = next((key for key in held if where.get(key) != shard), None)
        if foreign is not None:
            raise LoRWebError(
                f"{named(shard)} holds {named(foreign)}, which {named(index)} does not place there: they are of two "
                "downloads. "
                "Download index and files again."
            )
        tensors |= held
    lacking = next((key for key in where if key not in tensors), None)
    if lacking is not None:
        raise LoRWebError(
            f"{named(index)} places {named(lacking)} in {named(where[lacking])}, which does not hold it: they are of "
            "two downloads. Download index and files again."
        )
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    """Read an index: tensor → name of the file beside it that holds it."""
    content = read_file(path, _LARGEST_INDEX, "index")
    try:
        where = json.loads(content.decode("utf-8"))["weight_map"]
        names = set(where.values())
        valid = bool(names) and all(isinstance(name, str) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise LoRWebError(
            f"{named(path)} is not the index of a basis in several files: expected JSON with a weight_map in it that "
            "names the file of each tensor. Download it again."
        )
    for name in names:
        # Another folder's file is none of the index's business.
        if not name.lower().endswith(".safetensors") or re.search(r"[/\\:\0]", name):
            raise LoRWebError(
                f"{named(path)} names the file {shown(name)}; expected the name of a .safetensors file in the "
                "same folder."
            )
    return where


def _check_container(path: Path) -> None:
    """Tell apart, by their first bytes, the files that are no safetensors at all."""
    size = regular_file(path).st_size
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(9)
    except OSError as error:
        raise LoRWebError(f"{shown(path)}: the file cannot be read ({error.strerror}).") from error
    if size == 0:
        raise LoRWebError(f"{named(path)} is empty: the download did not finish. Download it again.")
    # Safetensors begins with the length of its JSON header; any first byte may be one of that length's.
    is_header = head[8:] == b"{"
    if is_header and int.from_bytes(head[:8], "little") <= size - 8:
        return
    if not is_header and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise LoRWebError(
            f"{named(path)} is a pickle (.pt, .ckpt, .bin), which can run code when loaded. "
            "Only safetensors is read: ask the author for a .safetensors file."
        )
    raise LoRWebError(
        f"{named(path)} is cut short or not a safetensors file: it has no header that fits in its {size:,} bytes. "
        "Download it again."
    )
