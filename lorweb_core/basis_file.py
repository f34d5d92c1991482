"""A basis on disk: the published layout, one layer in memory at a time, and beside it the config that it is read by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from .basis import LoRABasis, Progress, load_basis
from .checkpoint import PUBLISHED, BasisLayer
from .config import BasisConfig
from .errors import LoRWebError, named, shown
from .files.atomic import replacing
from .files.safetensors_writer import TensorSpec, write_tensors
from .query_network import QueryNetwork, network_tensors
from .threads import one_thread

Sources = Mapping[str, Sequence[BasisLayer]]

_MARK = {"lorweb.format": "lorweb basis 1"}
_EARLIER = ({"training_config", "steps"}, {"pruned_from", "kept"}, {"merged_from"})
"""Metadata that bases had before there was the mark."""


def is_written_basis(metadata: Mapping[str, str]) -> bool:
    """Tell by a file's metadata whether `write_basis` wrote it."""
    return _MARK.items() <= metadata.items() or any(keys <= metadata.keys() for keys in _EARLIER)


def write_basis(
    path: Path,
    sources: Sources,
    make: Callable[..., BasisLayer],
    config: BasisConfig,
    metadata: Mapping[str, str],
    progress: Progress | None = None,
    document: Mapping[str, Any] | None = None,
    query_network: QueryNetwork | None = None,
) -> LoRABasis:
    """Write the basis whose layers are `make(*sources[name])`, with `<name>.yaml` beside it, and load it.

    config: how it is routed; its sizes are taken from the layers. document: what the YAML says; None for no more than
    routing needs. query_network: as it is to be stored; `config` says its width. The two files take the place of older
    ones together, once both are whole. Raises LoRWebError if they cannot be written, or if only the config is there,
    which is then another basis's; what was there before is as it was.
    """
    path = Path(path)
    config_path = path.with_suffix(".yaml")
    if config_path.exists() and not path.exists():
        raise LoRWebError(
            f"{named(config_path)} is in {shown(path.parent)} already, without {named(path)}: it may be another "
            "basis's config. Choose another name, or move it away."
        )
    # The header comes first. Hundreds of layers share a handful of geometries: one of each tells what all will be.
    firsts = {_geometry(layers): layers for layers in sources.values()}
    made = {geometry: make(*layers) for geometry, layers in firsts.items()}
    entries = {
        key: TensorSpec(tensor.dtype, tuple(tensor.shape))
        for name, layers in sources.items()
        for key, tensor in _tensors(name, made[_geometry(layers)]).items()
    }
    tensors = (tensor for name, layers in sources.items() for tensor in _tensors(name, make(*layers)).values())
    network = network_tensors(query_network)
    entries |= {key: TensorSpec(tensor.dtype, tuple(tensor.shape)) for key, tensor in network.items()}
    with replacing(config_path) as file:
        written = document or _routing_document(config, next(iter(made.values())))
        file.write(yaml.safe_dump(written, sort_keys=False).encode())
        if config_path.exists():
            # What keeps the config from being replaced must be known before the tensors are.
            config_path.open("r+b").close()
        # Tensors are only copied there, which more threads hardly speed up.
        with one_thread():
            write_tensors(
                path, entries, chain(tensors, network.values()), {"format": "pt", **_MARK, **metadata}, progress
            )
    return load_basis(path)


def _geometry(layers: Sequence[BasisLayer]) -> tuple:
    return tuple((v.dtype, v.shape) if isinstance(v, Tensor) else v for layer in layers for v in layer)


def _tensors(name: str, layer: BasisLayer) -> dict[str, Tensor]:
    """Give a layer under the published names; its scale as an alpha, where it is not the 1 that is taken without."""
    held = {f"{name}.{published}": getattr(layer, role) for role, published in PUBLISHED.items()}
    tensors = {key: values for key, values in held.items() if values is not None}
    if layer.scale != 1:
        tensors[f"{name}.alpha"] = torch.tensor(layer.scale * layer.A.shape[2])
    return tensors


def _routing_document(config: BasisConfig, layer: BasisLayer) -> dict[str, Any]:
    """Make the config of what routing needs, as trainers write it. `layer` gives the sizes."""
    rank = layer.A.shape[2]
    loras_num, keys_dim = layer.keys.shape
    values = asdict(replace(config, loras_num=loras_num, lora_keys_dim=keys_dim))
    del values["linear"]
    if not config.query_network:
        del values["query_network"]  # tools that read what is published do not know it
    train = {"train": {"sampled": values.pop("sampled")}} if config.sampled != BasisConfig.sampled else {}
    kwargs = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    network = {
        "linear": rank,
        "linear_alpha": layer.scale * rank,
        "network_kwargs": {key: value for key, value in kwargs.items() if value is not None},
    }
    return {"config": {"process": [{"network": network, **train}]}}
