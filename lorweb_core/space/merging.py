"""Two bases of one layout as one: each goes on choosing among its own LoRAs, and their changes add up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..basis import LoRABasis, Progress
from ..basis_file import write_basis
from ..checkpoint import BasisLayer
from ..config import BasisConfig
from ..errors import LoRWebError, named
from ..query_network import same_network

_ROUTING = (
    "external_query",
    "external_query_model",
    "query_projection_type",
    "query_mode",
    "query_network",
    "lora_heads",
    "lora_softmax",
    "mixing_coeffs_type",
)


def merge_bases(one: LoRABasis, other: LoRABasis, path: Path, progress: Progress | None = None) -> LoRABasis:
    """Write the basis of all LoRAs of both, with its config beside it, and load it.

    For any query its coefficients are those of `one`, then those of `other`, as each gives them alone. Ranks, widths of
    keys, scales and dtypes may differ: LoRAs of a lower rank get columns of zeros, tensors the wider dtype. Raises
    LoRWebError, naming what differs, if the two have not the same layers or are not routed in the same way by the same
    query, with the same query network or none; if a value of theirs is not finite; or if the file cannot be written.
    """
    _check_alike(one, other)
    one.check_values()
    other.check_values()
    sampled = one.config.sampled if one.config.sampled == other.config.sampled else BasisConfig.sampled
    return write_basis(
        path,
        {name: (layer, other.layers[name]) for name, layer in one.layers.items()},
        partial(merged_layer, heads=one.config.lora_heads),
        replace(one.config, lora_parts=_parts(one) + _parts(other), sampled=sampled),
        {"merged_from": json.dumps([one.name, other.name])},
        progress,
        query_network=one.query_network,
    )


def merged_layer(one: BasisLayer, other: BasisLayer, heads: int) -> BasisLayer:
    """Join the LoRAs of two layers.

    Only one scale is kept, the larger; the other's ratio to it, at most 1, goes into its B. One
    projection serves both: every head has the rows of `one`, then those of `other`, and the keys of each are 0 where
    the other's rows are.
    """
    rank = max(one.A.shape[2], other.A.shape[2])
    scale = max(one.scale, other.scale, key=abs)
    both = (one, other)
    A = torch.cat([_padded(layer.A, (0, rank - layer.A.shape[2])) for layer in both])
    B = torch.cat([_padded(_rescaled(layer, scale), (0, 0, 0, rank - layer.B.shape[1])) for layer in both])
    projections = [layer.projection for layer in both if layer.projection is not None]
    if not projections:
        return BasisLayer(A, B, torch.cat([one.keys, other.keys]), None, scale)
    rows = [rearrange(projection, "(h d) q -> h d q", h=heads) for projection in projections]
    widths = [part.shape[1] for part in rows]
    keys = torch.cat([_widened(one.keys, heads, 0, widths[1]), _widened(other.keys, heads, widths[0], 0)])
    return BasisLayer(A, B, keys, rearrange(torch.cat(rows, 1), "h d q -> (h d) q"), scale)


def _padded(values: Tensor, zeros: tuple[int, ...]) -> Tensor:
    return F.pad(values, zeros) if any(zeros) else values


def _rescaled(layer: BasisLayer, scale: float) -> Tensor:
    return layer.B if layer.scale == scale else layer.B * (layer.scale / scale)


def _widened(keys: Tensor, heads: int, before: int, after: int) -> Tensor:
    """Widen keys (N, h·d) by so many zeros around each head's.

    Logits are divided by √d: the keys make up for the larger, in float32 at least, as rounding them would
    change the routing.
    """
    keys = rearrange(keys.to(torch.promote_types(keys.dtype, torch.float32)), "n (h d) -> n h d", h=heads)
    d = keys.shape[2]
    return rearrange(F.pad(keys * ((before + d + after) / d) ** 0.5, (before, after)), "n h d -> n (h d)")


def _parts(basis: LoRABasis) -> tuple[int, ...]:
    return basis.config.lora_parts or (len(next(iter(basis.layers.values())).keys),)


def _check_alike(one: LoRABasis, other: LoRABasis) -> None:
    def compare(what: str, of_one: object, of_other: object) -> None:
        if of_one != of_other:
            raise LoRWebError(
                f"{named(one.name)} and {named(other.name)} cannot be merged: {what} is {of_one} in the first and "
                f"{of_other} in the second. Merge bases that were trained for the same model "
                "with the same kind of query and routing."
            )

    for key in (*_ROUTING, *(() if one.config.external_query else ("pooling_type",))):
        compare(key, getattr(one.config, key), getattr(other.config, key))
    if not same_network(one.query_network, other.query_network):
        raise LoRWebError(
            f"{named(one.name)} and {named(other.name)} cannot be merged: each has a query network of its own, and a "
            "basis has one for all its layers. Merge bases without one, or made of the same one."
        )
    for name in sorted(one.layers.keys() ^ other.layers.keys())[:1]:
        compare(f"layer {named(name)}", *("there" if name in basis.layers else "missing" for basis in (one, other)))
    sizes: dict[str, Callable[[BasisLayer], int]] = {
        "the width of the input": lambda layer: layer.A.shape[1],
        "the width of the output": lambda layer: layer.B.shape[2],
        "Q, the width of the query,": lambda layer: layer.query_width,
    }
    for name, layer in one.layers.items():
        for what, size in sizes.items():
            compare(f"{what} of layer {name}", size(layer), size(other.layers[name]))
