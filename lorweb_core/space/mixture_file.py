"""A mixture on disk: a few hundred kilobytes of coefficients and thumbnails, good only with the basis they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..basis import LoRABasis
from ..errors import LoRWebError, named, shown
from ..files import tensor_files
from ..files.atomic import replacing
from ..files.tensor_files import read_tensors
from ..mixture import Mixture
from ..pictures.thumbnails import LONGEST_SIDE, Thumbnails
from .fingerprint import fingerprint

FORMAT = "lorweb mixture 1"
_COEFFICIENTS = "coefficients."
_ORIGIN = "origin."
_MOST_THUMBNAILS = 1000


def is_mixture(metadata: Mapping[str, str]) -> bool:
    """Tell by a file's metadata whether `save_mixture` wrote it."""
    return metadata.get("format") == FORMAT


def save_mixture(mixture: Mixture, path: str | Path) -> None:
    """Write a mixture, of one analogy or of a batch, and its origin, if it has one, as safetensors.

    Raises LoRWebError if its basis is activation-routed, or if the file cannot be written; an older file stays then.
    """
    tensors = _by_layer(_COEFFICIENTS, mixture, mixture.table)
    if mixture.origin:
        tensors |= _by_layer(_ORIGIN, mixture, mixture.origin_table)
    for index, triplet in enumerate(mixture.thumbnails[:_MOST_THUMBNAILS]):
        # Copies: a picture may be part of several analogies, and safetensors takes no tensor twice.
        tensors |= {f"thumbnail.{index}.{picture}": pixels.clone() for picture, pixels in triplet._asdict().items()}
    metadata = {
        "format": FORMAT,
        "basis": mixture.basis.name,
        "fingerprint": fingerprint(mixture.basis),
        "config": json.dumps(asdict(mixture.basis.config)),
    }
    content = save(tensors, metadata)
    with replacing(Path(path), len(content)) as file:
        file.write(content)


def _by_layer(prefix: str, mixture: Mixture, table: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}{layer}": c.clone() for layer, c in zip(mixture.basis.layers, table, strict=True)}


def load_mixture(path: str | Path, basis: LoRABasis) -> Mixture:
    """Load the mixture saved at `path` onto the basis that it was saved of.

    Raises LoRWebError, naming the file, if it is no mixture or one of another basis, or if what it holds is not what
    `save_mixture` writes for that basis.
    """
    path = Path(path)
    file = named(path)
    tensors, metadata = _read(path)
    if metadata["fingerprint"] != fingerprint(basis):
        raise LoRWebError(
            f"{file} is a mixture of another basis: of {named(metadata['basis'])} with fingerprint "
            f"{named(metadata['fingerprint'][:12])}, and given is {named(basis.name)} with {fingerprint(basis)[:12]}. "
            "Coefficients mean nothing to another basis: load the one that it was made with."
        )
    held = {prefix: _without(prefix, tensors) for prefix in (_COEFFICIENTS, _ORIGIN)}
    others = {name: t for name, t in tensors.items() if not name.startswith(tuple(held))}
    mixture = Mixture(basis, _coefficients(file, held[_COEFFICIENTS], basis), _thumbnails(file, others))
    # Files of older versions have none.
    if held[_ORIGIN]:
        origin = Mixture(basis, _coefficients(f"{file}, its origin", held[_ORIGIN], basis))
        if origin.table.shape != mixture.table.shape:
            raise LoRWebError(
                f"{file} is of {mixture.analogies} analogies and its origin of {origin.analogies}. The file is "
                "damaged: save the mixture again."
            )
        mixture = replace(mixture, origin=origin)
    mixture.check_values(file)
    return mixture


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Find the tensors whose names begin so, by the rest of the name."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def read_metadata(path: Path) -> dict[str, str]:
    """Read what a mixture's file says of itself. Raises LoRWebError if it is not a mixture's."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = read_tensors(path), tensor_files.read_metadata(path)
    if metadata.get("format") != FORMAT or not {"basis", "fingerprint"} <= metadata.keys():
        held = "a basis" if any(key.endswith(".lora_keys") for key in tensors) else "something else"
        raise LoRWebError(
            f"{named(path)} is not a saved mixture but {held}. Choose a file that Save Mixture wrote, or make one with "
            "the Analogy Encoder."
        )
    return tensors, metadata


def _coefficients(file: str, found: Mapping[str, Tensor], basis: LoRABasis) -> dict[str, Tensor]:
    """Find the coefficients of every layer, in the basis's order: all (N,), or all (n, N).

    Raises LoRWebError if they are not.
    """
    for layers, what in (basis.layers.keys() - found.keys(), "lacks"), (found.keys() - basis.layers.keys(), "has"):
        if layers:
            raise LoRWebError(
                f"{file} {what} coefficients of layer {named(min(layers))}, which the basis "
                f"{'has' if what == 'lacks' else 'lacks'}. The file is damaged: save the mixture again."
            )
    n = len(next(iter(basis.layers.values())).keys)
    first = found[next(iter(basis.layers))]
    for layer, c in found.items():
        where = f"{file}: the coefficients of layer {named(layer)}"
        if c.dtype != torch.float32:
            raise LoRWebError(f"{where} are stored as {c.dtype}; expected float32. Save the mixture again.")
        if c.ndim not in (1, 2) or c.shape[-1] != n or not len(c) or c.shape != first.shape:
            raise LoRWebError(
                f"{where} have the shape {shown(tuple(c.shape))}; expected ({n},), or (n, {n}) of n analogies, and the "
                "same in all layers. Save the mixture again."
            )
    # Copies: a file that stays mapped cannot be replaced on Windows.
    return {layer: found[layer].clone() for layer in basis.layers}


def _thumbnails(file: str, tensors: Mapping[str, Tensor]) -> tuple[Thumbnails, ...]:
    """Make of all tensors that are no coefficients the thumbnails that they must be, or raise LoRWebError."""
    count = len(tensors) // len(Thumbnails._fields)
    if count > _MOST_THUMBNAILS:
        raise LoRWebError(f"{file} has {count:,} thumbnails; expected {_MOST_THUMBNAILS:,} at most.")
    names = [[f"thumbnail.{index}.{picture}" for picture in Thumbnails._fields] for index in range(count)]
    foreign = tensors.keys() - {name for triplet in names for name in triplet}
    if foreign:
        raise LoRWebError(
            f"{file} holds {named(min(foreign))}, which is neither coefficients nor a thumbnail of a, a_prime and b, "
            "counted from 0. The file is damaged: save the mixture again."
        )
    for name, picture in tensors.items():
        shape = tuple(picture.shape)
        if (
            picture.dtype != torch.uint8
            or len(shape) != 3
            or shape[2] != 3
            or not 0 < min(shape[:2]) <= max(shape[:2]) <= LONGEST_SIDE
        ):
            raise LoRWebError(
                f"{file}: {name} is {picture.dtype} of the shape {shown(shape)}; expected a picture (h, w, 3) of "
                f"bytes, up to {LONGEST_SIDE} pixels a side. Save the mixture again."
            )
    return tuple(Thumbnails(*(tensors[name].clone() for name in triplet)) for triplet in names)
