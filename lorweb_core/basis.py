"""The learned basis: N LoRAs per layer with their keys, and the routing that mixes them for a query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import BasisLayer, FileIdentity, file_identity, read_checkpoint
from .config import BasisConfig, find_config, read_config
from .errors import LoRWebError
from .mixture import Mixture
from .routing import mixing_coefficients

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all); it may raise to stop the work."""

# Files whose values were read and found finite, in this process.
_finite: set[FileIdentity] = set()


@dataclass(frozen=True, eq=False)
class LoRABasis:
    """Layers by name, `transformer.` included. Their tensors are views of the memory-mapped file."""

    layers: dict[str, BasisLayer]
    config: BasisConfig
    identity: FileIdentity

    @property
    def name(self) -> str:
        return Path(self.identity[0]).name

    @property
    def query_width(self) -> int:
        """Q, the length of the query that the projections take."""
        return next(iter(self.layers.values())).projection.shape[1]

    def route(self, query: Tensor) -> Mixture:
        """Mix the basis for one analogy.

        query: (Q,), (k, Q/k) or (1, k, Q/k), as `encode_query` gives it. Raises LoRWebError if its length is
        not Q, or if it or the basis has values that are not finite.
        """
        self.check_values()
        if query.numel() != self.query_width:
            raise LoRWebError(
                f"The query has {query.numel()} values, {tuple(query.shape)}, but {self.name} takes "
                f"{self.query_width}: it was trained with {self.config.external_query_model} "
                f"and query mode {self.config.query_mode}. Give that image encoder."
            )
        query = query.flatten().float().cpu()
        if not query.isfinite().all():
            raise LoRWebError("The query has values that are not finite: the image encoder or an image is broken.")
        layers = self.layers.values()
        # The projections are most of what routing reads. One at a time in float32, in a workspace that stays
        # in the processor's cache, each is read once from the file's own dtype.
        workspace = query.new_empty(self.layers[next(iter(self.layers))].projection.shape)
        projected = torch.stack([torch.mv(workspace.copy_(layer.projection), query) for layer in layers])
        coefficients = mixing_coefficients(
            projected[:, None],
            torch.stack([layer.keys for layer in layers]).float(),
            self.config.lora_heads,
            self.config.lora_softmax,
            self.config.mixing_coeffs_type,
        )
        return Mixture(self, dict(zip(self.layers, coefficients, strict=True)))

    def check_values(self, progress: Progress | None = None) -> None:
        """Read every value once per file and raise LoRWebError on the first layer with NaN or infinity."""
        if self.identity in _finite:
            return
        for done, (name, layer) in enumerate(self.layers.items()):
            if progress:
                progress(done, len(self.layers))
            for what in ("A", "B", "keys", "projection"):
                if not _all_finite(getattr(layer, what)):
                    raise LoRWebError(
                        f"{self.name}: {what} of layer {name} has NaN or infinity. The file is damaged, or its "
                        "training diverged: download it again or use an earlier checkpoint."
                    )
        _finite.add(self.identity)


def _all_finite(values: Tensor) -> bool:
    # A finite sum has only finite terms, and summing needs no copy; a sum may also overflow, hence the second look.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def load_basis(path: str | Path, config: str | Path | None = None) -> LoRABasis:
    """Memory-map a LoRWeB checkpoint and check all of it that can be checked without reading its values.

    config: a training YAML; None takes the one beside the file (`<name>.yaml`, else `config.yaml`), or without
    one the released settings. Raises LoRWebError, naming file and layer, if the two do not make a basis.
    """
    path = Path(path)
    layers = read_checkpoint(path)
    config = find_config(path) if config is None else Path(config)
    settings = read_config(config) if config else BasisConfig()
    if config:
        _check_agreement(path.name, layers, config.name, settings)
    return LoRABasis(layers, settings, file_identity(path))


def _check_agreement(file: str, layers: dict[str, BasisLayer], config_file: str, config: BasisConfig) -> None:
    """Sizes that the config names must be the checkpoint's: N and D, which all layers share, and each layer's r."""
    first = next(iter(layers))
    loras_num, keys_dim = layers[first].keys.shape
    ranks = {layer.A.shape[2]: name for name, layer in layers.items()}
    sizes = [("loras_num", loras_num, first), ("lora_keys_dim", keys_dim, first)]
    for key, size, name in (*sizes, *(("linear", rank, name) for rank, name in ranks.items())):
        told = getattr(config, key)
        if told not in (None, size):
            raise LoRWebError(
                f"{config_file} says {key}: {told}, but {file}: layer {name} has {size}. It is another training's "
                "config: choose the one saved with this checkpoint, or move it away to have sizes read from tensors."
            )
    if keys_dim % config.lora_heads:
        raise LoRWebError(
            f"{config_file} says lora_heads: {config.lora_heads}, but the keys of {file} are {keys_dim} wide, which "
            "these heads do not divide."
        )
