"""A mixture on disk: a few hundred kilobytes of coefficients and thumbnails, good only with the basis they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..basis import LoRABasis
from ..errors import LoRWebError
from ..files.atomic import replacing
from ..mixture import Mixture
from ..tensor_files import read_tensors
from ..thumbnails import Thumbnails
from .fingerprint import fingerprint

FORMAT = "lorweb mixture 1"
_COEFFICIENTS = "coefficients."


def is_mixture(metadata: Mapping[str, str]) -> bool:
    """Tell by a file's metadata whether `save_mixture` wrote it."""
    return metadata.get("format") == FORMAT


def save_mixture(mixture: Mixture, path: str | Path) -> None:
    """Write a mixture, of one analogy or of a batch, as safetensors.

    Raises LoRWebError if its basis is activation-routed, or if the file cannot be written; an older file stays then.
    """
    tensors = {
        f"{_COEFFICIENTS}{layer}": c.clone() for layer, c in zip(mixture.basis.layers, mixture.table, strict=True)
    }
    for index, shown in enumerate(mixture.thumbnails):
        # Copies: a picture may be part of several analogies, and safetensors takes no tensor twice.
        tensors |= {f"thumbnail.{index}.{picture}": pixels.clone() for picture, pixels in shown._asdict().items()}
    metadata = {
        "format": FORMAT,
        "basis": mixture.basis.name,
        "fingerprint": fingerprint(mixture.basis),
        "config": json.dumps(asdict(mixture.basis.config)),
    }
    content = save(tensors, metadata)
    with replacing(Path(path), len(content)) as file:
        file.write(content)


def load_mixture(path: str | Path, basis: LoRABasis) -> Mixture:
    """The mixture saved at `path`, on the basis that it was saved of.

    Raises LoRWebError if the file is no mixture, or one of another basis.
    """
    path = Path(path)
    metadata = read_metadata(path)
    if metadata["fingerprint"] != fingerprint(basis):
        raise LoRWebError(
            f"{path.name} is a mixture of another basis: of {metadata['basis']} with fingerprint "
            f"{metadata['fingerprint'][:12]}, and given is {basis.name} with {fingerprint(basis)[:12]}. Coefficients "
            "mean nothing to another basis: load the one that it was made with."
        )
    tensors = read_tensors(path)
    # Copies: a file that stays mapped cannot be replaced on Windows.
    coefficients = {layer: tensors[f"{_COEFFICIENTS}{layer}"].clone() for layer in basis.layers}
    mixture = Mixture(basis, coefficients, _thumbnails(tensors))
    mixture.check_values()
    return mixture


def read_metadata(path: Path) -> dict[str, str]:
    """What a mixture's file says of itself. Raises LoRWebError if it is not a mixture's."""
    tensors = read_tensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT or not {"basis", "fingerprint"} <= metadata.keys():
        held = "a basis" if any(key.endswith(".lora_keys") for key in tensors) else "something else"
        raise LoRWebError(
            f"{path.name} is not a saved mixture but {held}. Choose a file that Save Mixture wrote, or make one with "
            "the Analogy Encoder."
        )
    return metadata


def _thumbnails(tensors: dict[str, Tensor]) -> tuple[Thumbnails, ...]:
    count = sum(name.startswith("thumbnail.") and name.endswith(".b") for name in tensors)
    return tuple(
        Thumbnails(*(tensors[f"thumbnail.{index}.{picture}"].clone() for picture in Thumbnails._fields))
        for index in range(count)
    )
