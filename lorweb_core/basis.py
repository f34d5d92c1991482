"""The learned basis: N LoRAs per layer with their keys, and the routing that mixes them for a query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .checkpoint import FileIdentity, LayerTensors, file_identity, read_checkpoint
from .config import BasisConfig, find_config, read_config
from .errors import LoRWebError
from .mixture import Mixture
from .routing import mixing_coefficients

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all); it may raise to stop the work."""

# Files whose values were read and found finite, in this process.
_finite: set[FileIdentity] = set()


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
    tensors = read_checkpoint(path)
    config = find_config(path) if config is None else Path(config)
    settings = read_config(config) if config else BasisConfig()
    layers = {name: _layer(path.name, name, parts) for name, parts in tensors.items()}
    _check_geometry(path.name, layers, settings, config.name if config else None)
    for name, parts in tensors.items():
        if "alpha" in parts:
            layers[name] = layers[name]._replace(scale=_scale(path.name, name, parts))
    return LoRABasis(layers, settings, file_identity(path))


def _layer(file: str, name: str, parts: LayerTensors) -> BasisLayer:
    try:
        return BasisLayer(parts["A"], parts["B"], parts["keys"], parts["projection"])
    except KeyError as missing:
        raise LoRWebError(
            f"{file}: layer {name} has no {_SPELLED[missing.args[0]]}. The file is incomplete: download it again, "
            "or save it with all four tensors of every layer."
        ) from None


def _scale(file: str, name: str, parts: LayerTensors) -> float:
    alpha = parts["alpha"]
    if alpha.numel() != 1 or not alpha.isfinite():
        raise LoRWebError(f"{file}: alpha of layer {name} is {alpha.tolist()}; expected one finite number.")
    return float(alpha) / parts["A"].shape[-1]


_SPELLED = {"A": "lora_A", "B": "lora_B", "keys": "lora_keys", "projection": "att_lora_to_q.weight"}


def _check_geometry(file: str, layers: dict[str, BasisLayer], config: BasisConfig, config_file: str | None) -> None:
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
        for key, size in {"linear": A[2], "loras_num": A[0], "lora_keys_dim": keys[1]}.items():
            told = getattr(config, key)
            if told not in (None, size):
                raise LoRWebError(
                    f"{config_file} says {key}: {told}, but {where} has {size}. It is another training's config: "
                    "choose the one saved with this checkpoint, or move it away to have sizes read from the tensors."
                )
        if keys[1] % config.lora_heads:
            raise LoRWebError(
                f"{config_file} says lora_heads: {config.lora_heads}, but the keys of {where} are {keys[1]} wide, "
                "which these heads do not divide."
            )
