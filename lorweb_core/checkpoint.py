"""A LoRWeB file on disk → its tensors by layer. Knows names and shapes, no method."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import LoRWebError

# Last part of a tensor's name (a final ".weight" apart) → what it is. Other trainers spell A and B their way.
ROLES = {
    "lora_A": "A",
    "lora_down": "A",
    "lora_B": "B",
    "lora_up": "B",
    "lora_keys": "keys",
    "att_lora_to_q": "projection",
    "alpha": "alpha",
}

LayerTensors = dict[str, Tensor]
FileIdentity = tuple[str, int, int]


def file_identity(path: str | Path) -> FileIdentity:
    """Path, size in bytes and time of change in ns: differs once a file was replaced."""
    stat = os.stat(path)
    return os.path.realpath(path), stat.st_size, stat.st_mtime_ns


def read_checkpoint(path: str | Path) -> dict[str, LayerTensors]:
    """Memory-map a LoRWeB file: layer name → role → tensor, in the file's dtype; no value is read yet.

    Raises LoRWebError if it is not a readable safetensors file or holds tensors of another kind.
    """
    path = Path(path)
    _check_container(path)
    layers: dict[str, LayerTensors] = {}
    unknown: list[str] = []
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise LoRWebError(
            f"{path.name} is damaged: {error}. Download it again and compare its size with the source's."
        ) from error
    for key, tensor in tensors.items():
        layer, _, kind = key.removesuffix(".weight").rpartition(".")
        role = ROLES.get(kind)
        if role is None:
            unknown.append(key)
        else:
            layers.setdefault(layer, {})[role] = tensor
    _check_kind(path, layers, unknown)
    return layers


def _check_container(path: Path) -> None:
    """Tell apart, by their first bytes, the files that are no safetensors at all."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise LoRWebError(f"{path}: the basis cannot be read ({error.strerror}).") from error
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


def _check_kind(path: Path, layers: dict[str, LayerTensors], unknown: Iterable[str]) -> None:
    if not any("keys" in tensors for tensors in layers.values()):
        if any("A" in tensors for tensors in layers.values()):
            raise LoRWebError(
                f"{path.name} is an ordinary LoRA: it has no lora_keys to mix by. Load it with Load LoRA; "
                "a LoRWeB basis is a file like lorweb_model.safetensors."
            )
        raise LoRWebError(f"{path.name} is not a LoRWeB basis: no layer in it has lora_A, lora_B and lora_keys.")
    if unknown:
        raise LoRWebError(
            f"{path.name} holds {len(unknown)} tensors that a LoRWeB basis does not have, {unknown[0]} among them. "
            f"Known are those ending in: {', '.join(ROLES)}."
        )
