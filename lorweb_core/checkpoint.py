"""A LoRWeB file on disk → its layers, checked. Knows names and shapes, not the method."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import LoRWebError


class BasisLayer(NamedTuple):
    """The basis of one Linear layer, in the file's dtype."""

    A: Tensor
    """(N, in, r)"""
    B: Tensor
    """(N, r, out)"""
    keys: Tensor
    """(N, D)"""
    projection: Tensor
    """W_q, (D, Q)"""
    scale: float = 1.0
    """alpha / r where the file has an alpha."""


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
_PUBLISHED = {"A": "lora_A", "B": "lora_B", "keys": "lora_keys", "projection": "att_lora_to_q.weight"}

FileIdentity = tuple[str, int, int]


def file_identity(path: str | Path) -> FileIdentity:
    """Path, size in bytes and time of change in ns: differs once a file was replaced."""
    stat = os.stat(path)
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns


def read_checkpoint(path: str | Path) -> dict[str, BasisLayer]:
    """Memory-map a LoRWeB file: layer name → its tensors, in the file's dtype. No value is read, but for alphas.

    Raises LoRWebError, naming file and layer, if it is no safetensors file, holds tensors of another kind, or if a
    layer's tensors are incomplete or disagree.
    """
    path = Path(path)
    _check_container(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise LoRWebError(
            f"{path.name} is damaged: {error}. Download it again and compare its size with the source's."
        ) from error
    found: dict[str, dict[str, Tensor]] = {role: {} for role in ROLES.values()}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        if kind == "weight":
            layer, _, kind = layer.rpartition(".")
        role = ROLES.get(kind)
        if role is None:
            unknown.append(key)
        else:
            found[role][layer] = tensor
    _check_kind(path.name, found, unknown)
    A, B, keys, projection = (found[role] for role in _PUBLISHED)
    layers = {name: BasisLayer(A[name], B[name], keys[name], projection[name]) for name in A}
    _check_geometry(path.name, layers)
    for name, alpha in found["alpha"].items():
        layers[name] = layers[name]._replace(scale=_scale(path.name, name, alpha, layers[name]))
    return layers


def _check_container(path: Path) -> None:
    """Tell apart, by their first bytes, the files that are no safetensors at all."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb", buffering=0) as file:
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


def _check_kind(file: str, found: dict[str, dict[str, Tensor]], unknown: list[str]) -> None:
    if not found["keys"]:
        if found["A"]:
            raise LoRWebError(
                f"{file} is an ordinary LoRA: it has no lora_keys to mix by. Load it with Load LoRA; "
                "a LoRWeB basis is a file like lorweb_model.safetensors."
            )
        raise LoRWebError(f"{file} is not a LoRWeB basis: no layer in it has lora_A, lora_B and lora_keys.")
    if unknown:
        raise LoRWebError(
            f"{file} holds {len(unknown)} tensors that a LoRWeB basis does not have, {unknown[0]} among them. "
            f"Known are those ending in: {', '.join(ROLES)}."
        )
    names = set().union(*found.values())
    for role, spelled in _PUBLISHED.items():
        lacking = names - found[role].keys()
        if lacking:
            raise LoRWebError(
                f"{file}: layer {min(lacking)} has no {spelled}. The file is incomplete: download it again, or save it "
                "with all four tensors of every layer."
            )


def _scale(file: str, name: str, alpha: Tensor, layer: BasisLayer) -> float:
    if alpha.numel() != 1 or not alpha.isfinite():
        raise LoRWebError(f"{file}: alpha of layer {name} is {alpha.tolist()}; expected one finite number.")
    return float(alpha) / layer.A.shape[-1]


def _check_geometry(file: str, layers: dict[str, BasisLayer]) -> None:
    """Check each distinct geometry once: hundreds of layers share a handful."""
    geometries: dict[tuple, str] = {}
    for name, (A, B, keys, projection, _) in layers.items():
        shapes = (A.shape, B.shape, keys.shape, projection.shape)
        geometries.setdefault((*shapes, A.dtype, B.dtype, keys.dtype, projection.dtype), name)

    first: tuple[str, tuple[int, int, int]] | None = None
    for (A, B, keys, projection, *dtypes), name in geometries.items():
        where = f"{file}: layer {name}"
        for dtype in dtypes:
            if not dtype.is_floating_point or dtype.itemsize < 2:
                raise LoRWebError(f"{where} is stored as {dtype}; expected float16, bfloat16 or float32.")
        if (len(A), len(B), len(keys), len(projection)) != (3, 3, 2, 2) or 0 in (*A, *B, *keys, *projection):
            raise LoRWebError(
                f"{where} has the shapes A {tuple(A)}, B {tuple(B)}, keys {tuple(keys)}, att_lora_to_q "
                f"{tuple(projection)}; expected A (N, in, r), B (N, r, out), keys (N, D), att_lora_to_q (D, Q)."
            )
        for symbol, sizes in {
            "N, the number of LoRAs,": {"A": A[0], "B": B[0], "lora_keys": keys[0]},
            "r, the rank,": {"A": A[2], "B": B[1]},
            "D, the width of the keys,": {"lora_keys": keys[1], "att_lora_to_q": projection[0]},
        }.items():
            if len(set(sizes.values())) > 1:
                listed = ", ".join(f"{size} in {tensor}" for tensor, size in sizes.items())
                raise LoRWebError(f"{where}: {symbol} disagrees: {listed}.")
        shared = (A[0], *projection)
        first = first or (name, shared)
        if shared != first[1]:
            raise LoRWebError(
                f"{where} has N, D, Q = {shared} but layer {first[0]} has {first[1]}; one query routes all layers, "
                "so these must agree."
            )
