"""The file of an ordinary LoRA, in the layout that every FLUX tool loads.

Keys are diffusers' (`transformer.<layer>.lora_A.weight`, `.lora_B.weight`). Without an alpha each of ComfyUI, Forge,
diffusers and Nunchaku adds lora_B · lora_A as it is; where ranks differ between layers, older diffusers take the first
layer's for all, so that such a file has an alpha per layer, equal to its rank.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from ..basis import Progress
from ..checkpoint import BasisLayer
from ..errors import LoRWebError
from ..files.image_file import as_image
from ..files.safetensors_writer import TensorSpec, write_tensors
from ..mixture import Mixture
from ..space.fingerprint import fingerprint

# Layers that Nunchaku, and hosts with fused weights, take together or not at all.
_TOGETHER = (
    ("attn.to_q", "attn.to_k", "attn.to_v"),
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    ("ff.net.0.proj", "ff.net.2"),
    ("ff_context.net.0.proj", "ff_context.net.2"),
    ("proj_mlp", "proj_out"),
)


def layers_to_write(layers: Mapping[str, BasisLayer], weights: Mapping[str, Tensor]) -> list[str]:
    """List the layers that the mixture changes, and those that loaders take only together with one of these.

    weights: layer → (N,). Raises LoRWebError if all are 0.
    """
    changed = {name for name, weight in weights.items() if weight.any()}
    if not changed:
        raise LoRWebError(
            "The mixture changes nothing: all its coefficients, or the strength, are 0. There is no LoRA to export."
        )
    for name in list(changed):
        for group in _TOGETHER:
            for end in group:
                if name.endswith(f".{end}"):
                    changed |= {name.removesuffix(end) + other for other in group} & layers.keys()
    return [name for name in layers if name in changed]


def write_lora(
    path: Path,
    layers: Mapping[str, BasisLayer],
    ranks: Mapping[str, int],
    kind: torch.dtype,
    tensors: Iterator[Tensor],
    metadata: Mapping[str, str],
    progress: Progress | None,
) -> int:
    """Write a LoRA while its tensors are made; returns the bytes of the file.

    tensors: down and up of each layer in turn; alphas go first, for these must not come between them.
    """
    names = {name: f"transformer.{name.removeprefix('transformer.')}" for name in layers}
    entries, alphas = {}, []
    if len(set(ranks.values())) > 1:
        entries = {f"{names[name]}.alpha": TensorSpec(torch.float32, ()) for name in layers}
        alphas = [torch.tensor(float(ranks[name])) for name in layers]
    for name, layer in layers.items():
        entries[f"{names[name]}.lora_A.weight"] = TensorSpec(kind, (ranks[name], layer.A.shape[1]))
        entries[f"{names[name]}.lora_B.weight"] = TensorSpec(kind, (layer.B.shape[2], ranks[name]))

    def all_tensors() -> Iterator[Tensor]:
        yield from alphas
        yield from tensors

    return write_tensors(path, entries, all_tensors(), metadata, progress)


def lora_metadata(
    mixture: Mixture, title: str, ranks: Mapping[str, int], settings: Mapping[str, object]
) -> dict[str, str]:
    """Describe a LoRA in the fields that kohya's tools and ModelSpec have for it, and `lorweb.*` of our own."""
    lowest, highest = min(ranks.values()), max(ranks.values())
    dim = str(highest) if lowest == highest else "Dynamic"
    metadata = {
        "format": "pt",
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "ss_base_model_version": "flux1",
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": title,
        "modelspec.resolution": "1024x1024",
        "modelspec.date": datetime.now().isoformat(timespec="seconds"),
        "lorweb.basis": mixture.basis.name,
        "lorweb.fingerprint": fingerprint(mixture.basis),
        "lorweb.export": json.dumps(settings),
    }
    if mixture.thumbnails:
        metadata["modelspec.thumbnail"] = _data_url(mixture.thumbnails[0].a_prime)
    return metadata


def is_exported(metadata: Mapping[str, str]) -> bool:
    """Tell by a file's metadata whether it is a LoRA that was exported from a mixture."""
    return "lorweb.export" in metadata


def _data_url(picture: Tensor) -> str:
    """Turn a picture, (h, w, 3), uint8, into a data URL."""
    encoded = io.BytesIO()
    as_image(picture).save(encoded, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
