"""A LoRWeB file on disk → its layers, checked. Knows names and shapes, not the method."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import LoRWebError, named, shown
from .files.tensor_files import read_tensors
from .query_network import TENSORS, QueryNetwork, read_network


class BasisLayer(NamedTuple):
    """Hold the basis of one Linear layer, in the file's dtype."""

    A: Tensor
    """(N, in, r)"""
    B: Tensor
    """(N, r, out)"""
    keys: Tensor
    """(N, D)"""
    projection: Tensor | None
    """W_q, (D, Q); None where the keys are compared with the query itself, D = Q."""
    scale: float = 1.0
    """Factor of ΔW: alpha / r where the file has an alpha."""

    @property
    def query_width(self) -> int:
        """Return Q, the length of the query that this layer takes."""
        return (self.keys if self.projection is None else self.projection).shape[1]

    @property
    def fits_own_input(self) -> bool:
        """Tell whether the layer's own input can be its query, as in activation-routed bases."""
        return self.query_width == self.A.shape[1]


class Checkpoint(NamedTuple):
    """Hold what is in a LoRWeB file, in the file's dtype."""

    layers: dict[str, BasisLayer]
    """Layers by name."""
    query_network: QueryNetwork | None
    """Network that the query goes through before all layers; None in published files."""


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
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST = 1e28
"""Limit of a scale, and of each value of ΔW for coefficients up to 1: float32 ends at 3.4e38, and edited coefficients,
strengths and the layers' inputs still go onto it.
"""
PUBLISHED = {"A": "lora_A", "B": "lora_B", "keys": "lora_keys", "projection": "att_lora_to_q.weight"}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Memory-map a LoRWeB file: its layers, and its query network if it has one. No value is read, but for alphas.

    path: a .safetensors file, or the .safetensors.index.json of one in several files.
    Raises LoRWebError, naming file and layer, if it is no safetensors file, holds tensors of another kind, or if a
    layer's tensors are incomplete or disagree.
    """
    path = Path(path)
    file = named(path)
    found: dict[str, dict[str, Tensor]] = {role: {} for role in ROLES.values()}
    unknown: list[str] = []
    tensors = read_tensors(path)
    for key, tensor in tensors.items():
        if key in TENSORS:
            continue
        layer, _, kind = key.rpartition(".")
        if kind == "weight":
            layer, _, kind = layer.rpartition(".")
        role = ROLES.get(kind)
        if role is None:
            unknown.append(key)
        elif found[role].setdefault(layer, tensor) is not tensor:
            raise LoRWebError(
                f"{file}: layer {named(layer)} has two tensors for its {role}, {named(key)} is one. Save it with one "
                f"of them, {PUBLISHED.get(role, role)}."
            )
    _check_kind(file, found, unknown)
    A, B, keys, projection = (found[role] for role in PUBLISHED)
    layers = {name: BasisLayer(A[name], B[name], keys[name], projection.get(name)) for name in A}
    _check_geometry(file, layers)
    for name, alpha in found["alpha"].items():
        layers[name] = layers[name]._replace(scale=_scale(file, name, alpha, layers[name]))
    widths = {layer.query_width: name for name, layer in layers.items()}
    return Checkpoint(layers, read_network(file, tensors, widths, DTYPES))


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
            f"{file} holds {len(unknown)} tensors that a LoRWeB basis does not have, {named(unknown[0])} among them. "
            f"Known are those ending in: {', '.join(ROLES)}."
        )
    names = set().union(*found.values())
    # Without a single projection, the basis is one of `query_projection_type: none`.
    parts = {role: spelled for role, spelled in PUBLISHED.items() if role != "projection" or found[role]}
    for role, spelled in parts.items():
        lacking = names - found[role].keys()
        if lacking:
            raise LoRWebError(
                f"{file}: layer {named(min(lacking))} has no {spelled}. The file is incomplete: download it again, or "
                f"save it with {', '.join(parts.values())} of every layer."
            )


def _scale(file: str, name: str, alpha: Tensor, layer: BasisLayer) -> float:
    where = f"{file}: alpha of layer {named(name)}"
    if alpha.is_complex() or alpha.dtype == torch.bool or (alpha.is_floating_point() and alpha.dtype.itemsize < 2):
        raise LoRWebError(f"{where} is stored as {alpha.dtype}; expected one finite number, as float16 or float32.")
    if alpha.numel() != 1 or not alpha.isfinite():
        raise LoRWebError(f"{where} is {shown(alpha.flatten()[:8].tolist())}; expected one finite number.")
    scale = float(alpha) / layer.A.shape[-1]
    if abs(scale) > LARGEST:
        raise LoRWebError(f"{where} is {float(alpha)}; expected one finite number that leaves ΔW finite, such as 1.")
    return scale


def _check_geometry(file: str, layers: dict[str, BasisLayer]) -> None:
    """Check each distinct geometry once: hundreds of layers share a handful."""
    geometries: dict[tuple, str] = {}
    for name, (A, B, keys, projection, _) in layers.items():
        # Without a projection the keys stand in for it: their width is the query's.
        last = keys if projection is None else projection
        shapes = (A.shape, B.shape, keys.shape, last.shape)
        geometries.setdefault((*shapes, A.dtype, B.dtype, keys.dtype, last.dtype, last is not keys), name)

    for (A, B, keys, last, *dtypes, projected), name in geometries.items():
        where = f"{file}: layer {named(name)}"
        for dtype in dtypes:
            if dtype not in DTYPES:
                raise LoRWebError(f"{where} is stored as {dtype}; expected float16, bfloat16 or float32.")
        if (len(A), len(B), len(keys), len(last)) != (3, 3, 2, 2) or 0 in (*A, *B, *keys, *last):
            also = (f", att_lora_to_q {shown(tuple(last))}", ", att_lora_to_q (D, Q)") if projected else ("", "")
            raise LoRWebError(
                f"{where} has the shapes A {shown(tuple(A))}, B {shown(tuple(B))}, keys "
                f"{shown(tuple(keys))}{also[0]}; expected A (N, in, r), B (N, r, out), keys (N, D){also[1]}."
            )
        for symbol, sizes in {
            "N, the number of LoRAs,": {"A": A[0], "B": B[0], "lora_keys": keys[0]},
            "r, the rank,": {"A": A[2], "B": B[1]},
            "D, the width of the keys,": {"lora_keys": keys[1], "att_lora_to_q": last[0] if projected else keys[1]},
        }.items():
            if len(set(sizes.values())) > 1:
                listed = ", ".join(f"{size} in {tensor}" for tensor, size in sizes.items())
                raise LoRWebError(f"{where}: {symbol} disagrees: {listed}.")
    _check_shared(file, geometries)


def _check_shared(file: str, geometries: dict[tuple, str]) -> None:
    """Check what all layers have in common: N, D and the query, unless every layer is routed by its own input."""
    own_input = all(last[1] == A[1] for A, _, _, last, *_ in geometries)
    first: tuple[str, tuple[int, ...]] | None = None
    for (A, _, keys, last, *_, projected), name in geometries.items():
        # In this order N, D, Q; D and Q are one where nothing projects.
        shared: tuple[int, ...] = (A[0], keys[1], last[1]) if projected else (A[0], keys[1])
        if own_input:
            shared = shared[:-1]
        first = first or (name, shared)
        if shared != first[1]:
            symbols = ", ".join("NDQ"[: len(shared)])
            raise LoRWebError(
                f"{file}: layer {named(name)} has {symbols} = {shared} but layer {named(first[0])} has {first[1]}; "
                "one query routes all layers, so these must agree, unless each layer's query is as wide as its own "
                "input."
            )
