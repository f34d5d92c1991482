"""The learned basis: N LoRAs per layer with their keys, and the routing that mixes them for a query."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import LARGEST, BasisLayer, read_checkpoint
from .config import BasisConfig, find_config, read_config
from .config_completion import complete_config
from .errors import LoRWebError, named, shown
from .files.tensor_files import FileIdentity, checkpoint_identity
from .mixture import Mixture
from .query_network import QueryNetwork, network_tensors
from .routing import mixing_coefficients

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all); it may raise to stop the work."""

# Checkpoints whose values were read and found finite, in this process.
_finite: set[tuple[FileIdentity, ...]] = set()

# Queries projected for as many layers at a time as make this many rows: few calls, and bounded memory for patch modes.
_ROWS = 4096


@dataclass(frozen=True, eq=False, repr=False)
class LoRABasis:
    """Hold a basis: its layers by name, `transformer.` included. Their tensors are views of the memory-mapped file."""

    layers: dict[str, BasisLayer]
    config: BasisConfig
    identity: tuple[FileIdentity, ...]
    """Identity of the checkpoint's file; of one in several files that of its index first, then theirs."""
    query_network: QueryNetwork | None = None
    """Network that the query goes through before all layers; None in published bases."""

    def __repr__(self) -> str:
        return f"<LoRABasis {shown(self.name) if self.identity else ''}, {len(self.layers)} layers>"

    @property
    def name(self) -> str:
        return Path(self.identity[0][0]).name

    @property
    def query_width(self) -> int:
        """Return Q, the length of the query that all layers of a basis with an external query take."""
        return next(iter(self.layers.values())).query_width

    def route(self, query: Tensor | None = None) -> Mixture:
        """Mix the basis for one analogy, or for n at once.

        query: (Q,), (k, Q/k) or (n, k, Q/k), as `encode_queries` gives it; of patch modes (t, Q) or (n, t, Q), where
        each of the t tokens is a query of its own. None, and only None, for an activation-routed basis, whose
        coefficients come into being in the layers. Raises LoRWebError if the query does not fit, or if it, the basis or
        a coefficient is not finite.
        """
        self.check_values()
        if not self.config.external_query:
            if query is not None:
                raise LoRWebError(
                    f"{named(self.name)} is routed by each layer's own input (external_query: false): it takes no "
                    "query."
                )
            return Mixture(self, {})
        queries = self._queries(query)
        if self.query_network:
            queries = self.query_network(queries)
        n, t, _ = queries.shape
        rows = queries.flatten(0, 1).T.contiguous()
        layers = list(self.layers.values())
        together = max(1, _ROWS // (n * t))
        coefficients = torch.cat(
            [self._coefficients(layers[i : i + together], rows, n, t) for i in range(0, len(layers), together)]
        )
        finite = coefficients.isfinite().flatten(1).all(1)
        if not finite.all():
            broken = list(self.layers)[int(finite.int().argmin())]
            raise LoRWebError(
                f"{named(self.name)}: the coefficients of layer {named(broken)} have NaN or infinity. The query, its "
                "projection or the keys are too large: the image encoder or the file is broken."
            )
        if n == 1:
            coefficients = coefficients[:, 0]
        return Mixture(self, dict(zip(self.layers, coefficients, strict=True)))

    def _queries(self, query: Tensor | None) -> Tensor:
        """Bring any form of the query to (n, t, Q), float32 on the CPU: t queries of each of n analogies."""
        trained = f"it was trained with {self.config.external_query_model} and query mode {self.config.query_mode}"
        if query is None:
            raise LoRWebError(
                f"{named(self.name)} is routed by images (external_query: true) but got no query: {trained}."
            )
        width = self.query_width
        while query.ndim < 3:
            query = query[None]
        parts, size = query.shape[-2:]
        if query.ndim != 3 or not len(query) or width not in (parts * size, size):
            values = query.numel() // max(1, len(query))
            raise LoRWebError(
                f"The query has {values} values, {tuple(query.shape)}, but {named(self.name)} takes {width}: "
                f"{trained}. Give that image encoder."
            )
        query = query.reshape(len(query), -1, width).float().cpu()
        if not query.isfinite().all():
            raise LoRWebError("The query has values that are not finite: the image encoder or an image is broken.")
        return query

    def _coefficients(self, layers: list[BasisLayer], rows: Tensor, n: int, t: int) -> Tensor:
        """Compute the coefficients of some layers, (layers, n, N), for the queries `rows`, (Q, n·t), of n analogies."""
        keys = torch.stack([layer.keys for layer in layers]).float()
        projections = [layer.projection for layer in layers if layer.projection is not None]
        if not projections:
            projected = rows.expand(len(layers), -1, -1)
        else:
            # The projections are most of what routing reads. One at a time in float32, in a workspace that stays
            # in the processor's cache, each is read once from the file's own dtype.
            workspace = rows.new_empty(projections[0].shape)
            projected = torch.stack([workspace.copy_(projection) @ rows for projection in projections])
        return mixing_coefficients(
            projected.mT.unflatten(1, (n, t)),
            keys[:, None],
            self.config.lora_heads,
            self.config.lora_softmax,
            self.config.mixing_coeffs_type,
            self.config.lora_parts,
        )

    def check_values(self, progress: Progress | None = None) -> None:
        """Check that all values are finite, reading each once per file.

        Raises LoRWebError on the first layer with NaN or infinity, or whose A, B and scale can make a ΔW with them.
        """
        if self.identity in _finite:
            return
        for name, values in network_tensors(self.query_network).items():
            if not math.isfinite(_largest(values)):
                raise LoRWebError(
                    f"{named(self.name)}: {name} has NaN or infinity. The file is damaged, or its training diverged: "
                    "download it again or use an earlier checkpoint."
                )
        for done, (name, layer) in enumerate(self.layers.items()):
            if progress:
                progress(done, len(self.layers))
            held = {what: getattr(layer, what) for what in ("A", "B", "keys", "projection")}
            largest = {what: _largest(values) for what, values in held.items() if values is not None}
            for what, value in largest.items():
                if not math.isfinite(value):
                    raise LoRWebError(
                        f"{named(self.name)}: {what} of layer {named(name)} has NaN or infinity. The file is damaged, "
                        "or its training diverged: download it again or use an earlier checkpoint."
                    )
            n, _, rank = layer.A.shape
            # Of any coefficients up to 1; each factor counts at least 1, as it is formed by itself.
            if n * rank * max(1, abs(layer.scale)) * max(1, largest["A"]) * max(1, largest["B"]) > LARGEST:
                raise LoRWebError(
                    f"{named(self.name)}: A, B and the scale of layer {named(name)} are so large, {largest['A']:.3g}, "
                    f"{largest['B']:.3g} and {layer.scale:.3g}, that ΔW is not finite. The file is damaged, or its "
                    "training diverged: download it again or use an earlier checkpoint."
                )
        _finite.add(self.identity)


def _largest(values: Tensor) -> float:
    """Find the largest absolute value, in one pass without a copy; NaN if one is NaN."""
    low, high = (float(end) for end in values.aminmax())
    return max(-low, high)


def load_basis(path: str | Path, config: str | Path | None = None) -> LoRABasis:
    """Memory-map a LoRWeB checkpoint and check all of it that can be checked without reading its values.

    path: a .safetensors file, or the .safetensors.index.json of one in several files. config: a training YAML; None
    takes the one beside the file (`<name>.yaml`, else `config.yaml`). What is not in it, or without one all, is taken
    from the tensors and the released settings. Raises LoRWebError, naming file and layer, if the two do not make a
    basis.
    """
    path = Path(path)
    file, held = named(path), read_checkpoint(path)
    config = find_config(path) if config is None else Path(config)
    settings = complete_config(file, held, named(config) if config else None, read_config(config) if config else {})
    return LoRABasis(held.layers, settings, checkpoint_identity(path), held.query_network)
