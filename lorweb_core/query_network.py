"""The small network between the query and all layers' projections, which bases of ours may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import LoRWebError, named, shown


class QueryNetwork(NamedTuple):
    """Hold a network of hidden width H for queries of width Q, in the file's dtype. It is ours, not published."""

    in_weight: Tensor
    """(H, Q)"""
    in_bias: Tensor
    """(H,)"""
    out_weight: Tensor
    """(Q, H)"""
    out_bias: Tensor
    """(Q,)"""

    @property
    def hidden_width(self) -> int:
        """Return H, the `query_network` of the config."""
        return len(self.in_bias)

    def __call__(self, query: Tensor) -> Tensor:
        """Compute q + W₂ gelu(W₁ norm(q) + b₁) + b₂ of queries (..., Q); the norm has nothing learned in it."""
        in_weight, in_bias, out_weight, out_bias = (values.to(query) for values in self)
        hidden = F.gelu(F.linear(F.layer_norm(query, query.shape[-1:]), in_weight, in_bias))
        return query + F.linear(hidden, out_weight, out_bias)


TENSORS = {f"query_network.{field.replace('_', '.')}": field for field in QueryNetwork._fields}
"""Names in a checkpoint → fields."""


def network_tensors(network: QueryNetwork | None) -> dict[str, Tensor]:
    """Give the network under the names that a checkpoint has; nothing for none."""
    return {name: getattr(network, field) for name, field in TENSORS.items()} if network else {}


def same_network(one: QueryNetwork | None, other: QueryNetwork | None) -> bool:
    """Tell whether two bases have the same network, or both none."""
    if one is None or other is None:
        return one is other
    return all(a.shape == b.shape and torch.equal(a, b.to(a)) for a, b in zip(one, other, strict=True))


def read_network(
    file: str, tensors: Mapping[str, Tensor], widths: Mapping[int, str], dtypes: tuple[torch.dtype, ...]
) -> QueryNetwork | None:
    """Take the network from a checkpoint's tensors; None where there is no tensor of one.

    widths: Q of the layers → name of one that has it. dtypes: those allowed. Raises LoRWebError if a tensor is missing,
    is of another dtype, or if shapes or the layers' Q disagree.
    """
    held = {field: tensors.get(name) for name, field in TENSORS.items()}
    lacking = [name for name, field in TENSORS.items() if held[field] is None]
    if len(lacking) == len(TENSORS):
        return None
    if lacking:
        raise LoRWebError(
            f"{file} has a part of a query network, but no {lacking[0]}. The file is incomplete: download it again, or "
            f"save it with {', '.join(TENSORS)}."
        )
    network = QueryNetwork(**held)  # type: ignore[arg-type] # none of them is None
    for name, values in network_tensors(network).items():
        if values.dtype not in dtypes:
            raise LoRWebError(f"{file}: {name} is stored as {values.dtype}; expected float16, bfloat16 or float32.")
    _check_shapes(file, network)
    width = len(network.out_bias)
    for other, layer in widths.items():
        if other != width:
            raise LoRWebError(
                f"{file}: the query network takes and gives queries of {width} values, but layer {named(layer)} takes "
                f"{other}. They are of two bases: download the file again, or save the network with its own layers."
            )
    return network


def _check_shapes(file: str, network: QueryNetwork) -> None:
    shapes = [tuple(values.shape) for values in network]
    (hidden, query) = shapes[0] if len(shapes[0]) == 2 else (0, 0)
    if 0 in (hidden, query) or shapes != [(hidden, query), (hidden,), (query, hidden), (query,)]:
        listed = ", ".join(f"{name} {shown(shape)}" for name, shape in zip(TENSORS, shapes, strict=True))
        raise LoRWebError(f"{file} has the shapes {listed}; expected in (H, Q) and (H,), out (Q, H) and (Q,).")
