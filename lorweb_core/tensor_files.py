"""Safetensors on disk, in one file or in several with an index: their tensors by name, memory-mapped."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import LoRWebError

INDEX_SUFFIX = ".safetensors.index.json"
"""Of the index of a basis in several files, laid out as Hugging Face does."""

_SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}(?=\.safetensors$)")

FileIdentity = tuple[str, int, int]


def file_identity(path: str | Path) -> FileIdentity:
    """Path, size in bytes and time of change in ns: differs once a file was replaced."""
    stat = os.stat(path)
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns


def checkpoint_identity(path: str | Path) -> tuple[FileIdentity, ...]:
    """The identity of every file of a checkpoint: of `path` itself, and of the shards if it is an index."""
    path = Path(path)
    shards = sorted(set(_read_index(path).values())) if is_index(path) else []
    return tuple(file_identity(file) for file in (path, *(path.with_name(shard) for shard in shards)))


def is_index(path: str | Path) -> bool:
    return str(path).lower().endswith(INDEX_SUFFIX)


def is_shard(path: str | Path) -> bool:
    return _SHARD.search(str(path)) is not None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor by name. path: a .safetensors file, or the .safetensors.index.json of one in several files.

    Raises LoRWebError, naming the file, if it is none, is damaged, or is not whole.
    """
    if is_index(path):
        return _read_shards(path)
    if is_shard(path):
        index = path.with_name(_SHARD.sub("", path.name)).with_suffix(INDEX_SUFFIX)
        raise LoRWebError(f"{path.name} is one of several files of a basis. Choose their index, {index.name}.")
    return _map_file(path)


def _map_file(path: Path) -> dict[str, Tensor]:
    _check_container(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise LoRWebError(
            f"{path.name} is damaged: {error}. Download it again and compare its size with the source's."
        ) from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors of the files that an index names; they must be the ones that it says, each where it says."""
    where = _read_index(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(where.values())):
        try:
            held = _map_file(index.with_name(shard))
        except LoRWebError as error:
            raise LoRWebError(f"{index.name} needs all its files: {error}") from error
        foreign = next((key for key in held if where.get(key) != shard), None)
        if foreign is not None:
            raise LoRWebError(
                f"{shard} holds {foreign}, which {index.name} does not place there: they are of two downloads. "
                "Download index and files again."
            )
        tensors |= held
    lacking = next((key for key in where if key not in tensors), None)
    if lacking is not None:
        raise LoRWebError(
            f"{index.name} places {lacking} in {where[lacking]}, which does not hold it: they are of two downloads. "
            "Download index and files again."
        )
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    """Tensor → name of the file beside the index that holds it."""
    try:
        where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = set(where.values())
        valid = bool(names) and all(isinstance(name, str) for name in names)
    except OSError as error:
        raise LoRWebError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise LoRWebError(
            f"{path.name} is not the index of a basis in several files: expected JSON with a weight_map in it that "
            "names the file of each tensor. Download it again."
        )
    for name in names:
        # Another folder's file is none of the index's business.
        if not name.lower().endswith(".safetensors") or re.search(r"[/\\:\0]", name):
            raise LoRWebError(
                f"{path.name} names the file {name!r}; expected the name of a .safetensors file in the same folder."
            )
    return where


def _check_container(path: Path) -> None:
    """Tell apart, by their first bytes, the files that are no safetensors at all."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb", buffering=0) as file:
            head = file.read(9)
    except OSError as error:
        raise LoRWebError(f"{path}: the file cannot be read ({error.strerror}).") from error
    if size == 0:
        raise LoRWebError(f"{path.name} is empty: the download did not finish. Download it again.")
    # Safetensors begins with the length of its JSON header; any first byte may be one of that length's.
    is_header = head[8:] == b"{"
    if is_header and int.from_bytes(head[:8], "little") <= size - 8:
        return
    if not is_header and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise LoRWebError(
            f"{path.name} is a pickle (.pt, .ckpt, .bin), which can run code when loaded. "
            "Only safetensors is read: ask the author for a .safetensors file."
        )
    raise LoRWebError(
        f"{path.name} is cut short or not a safetensors file: it has no header that fits in its {size:,} bytes. "
        "Download it again."
    )
