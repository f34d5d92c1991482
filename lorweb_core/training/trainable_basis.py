"""The basis while it is learned: parameters, and forward hooks that add the mixture to a frozen model's layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import BasisLayer
from ..config import BasisConfig
from ..errors import LoRWebError
from ..query import QUERY_MODES
from ..query_network import QueryNetwork
from ..routing import Tokens, mixing_coefficients, token_query
from ..runtime import LayerSlice

Linears = Mapping[str, Sequence[LayerSlice]]
"""Name of a Linear within the model → the layers of the basis that it computes; several where the model fuses them."""

_NO_REFERENCE = Tokens(0, 0)


def query_width(config: BasisConfig, query: Tensor | None) -> int | None:
    """Tell Q, the width of queries such as these, (n, k, E): of all k embeddings, or in patch modes of a token."""
    if query is None:
        return None
    return query.shape[2] if QUERY_MODES[config.query_mode].states else query[0].numel()


class TrainableLayer(nn.Module):
    """Learn N LoRAs of one Linear, their keys and the projection of the query, initialized as NVlabs/LoRWeB does.

    fan_in, fan_out: of the layer. query: Q, the width of its query. config: with all sizes given.
    """

    def __init__(self, fan_in: int, fan_out: int, query: int, config: BasisConfig):
        super().__init__()
        n, rank, width = config.sizes
        A = nn.init.kaiming_uniform_(torch.empty(n, fan_in, rank), a=math.sqrt(5))
        # (N, r, in) instead of A's (N, in, r): in this order all N LoRAs are one matrix, (N·r, in), without a copy.
        self.down = nn.Parameter(A.mT.contiguous())
        self.up = nn.Parameter(torch.zeros(n, rank, fan_out))
        projects = config.query_projection_type == "linear"
        self.keys = nn.Parameter(torch.randn(n, width if projects else query))
        self.project = nn.Linear(query, width, bias=False) if projects else None

    def coefficients(self, query: Tensor, config: BasisConfig) -> Tensor:
        """Mix the LoRAs by a query: (n, t, Q), t queries for each of n analogies → (n, N), float32."""
        query = query.to(self.keys)
        projected = query if self.project is None else self.project(query)
        return mixing_coefficients(
            projected, self.keys, config.lora_heads, config.lora_softmax, config.mixing_coeffs_type
        )

    def add(self, x: Tensor, coefficients: Tensor, output: Tensor) -> Tensor:
        """Compute output + ((x A) · c) B. x: (n, in) or (n, tokens, in); coefficients: (n, N) or (1, N)."""
        weights = coefficients.repeat_interleave(self.down.shape[1], -1).to(x.dtype)
        hidden = F.linear(x, self.down.flatten(0, 1).to(x.dtype)) * (weights if x.ndim == 2 else weights[:, None])
        # One product that adds: a tensor of the output's size less than adding afterwards.
        rows = torch.addmm(output.flatten(0, -2), hidden.flatten(0, -2), self.up.flatten(0, 1).to(x.dtype))
        return rows.view_as(output)

    def published(self) -> BasisLayer:
        """View the parameters in the published layout."""
        projection = None if self.project is None else self.project.weight.detach()
        return BasisLayer(self.down.detach().mT, self.up.detach(), self.keys.detach(), projection)


class TrainableQueryNetwork(nn.Module):
    """Learn the network that queries go through before all layers. It begins as one that gives back the query."""

    def __init__(self, query: int, hidden: int):
        super().__init__()
        self.inner = nn.Linear(query, hidden)
        self.outer = nn.Linear(hidden, query)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, query: Tensor) -> Tensor:
        return QueryNetwork(self.inner.weight, self.inner.bias, self.outer.weight, self.outer.bias)(query)

    def published(self) -> QueryNetwork:
        """View the parameters as a checkpoint has them."""
        return QueryNetwork(*(values.detach() for values in self.parameters()))


class TrainableBasis(nn.Module):
    """Learn layers by name, `transformer.` included, and how they are routed.

    shapes: layer → (in, out). query: Q of an external query; without one each layer's own input is its query.
    Parameters are float32, whatever the model computes in. Seed torch before: they are drawn here. Raises LoRWebError
    if there is no memory for them.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], config: BasisConfig, query: int | None = None):
        super().__init__()
        self.config = config
        self.query_width = query
        try:
            self._by_name = {name: TrainableLayer(i, o, query or i, config) for name, (i, o) in shapes.items()}
        except RuntimeError as error:
            loras, rank, keys_dim = config.sizes
            raise LoRWebError(
                f"There is no memory for {loras:,} LoRAs of rank {rank:,} with keys of {keys_dim:,} values. Choose "
                "fewer, or smaller ones."
            ) from error
        self.layers = nn.ModuleList(self._by_name.values())
        # After the layers, which so are drawn as without it.
        self.query_network = (
            TrainableQueryNetwork(query, config.query_network) if query and config.query_network else None
        )
        self._tokens = _NO_REFERENCE
        self._routed: dict[TrainableLayer, Tensor] = {}

    def named_layers(self) -> Iterator[tuple[str, TrainableLayer]]:
        return iter(self._by_name.items())

    @torch.no_grad()
    def load(self, layers: Mapping[str, BasisLayer], query_network: QueryNetwork | None = None) -> None:
        """Take the values of a basis of the same shapes, such as a checkpoint's, with its query network if it has one.

        Raises ValueError if one of the two has a query network and the other none.
        """
        if (self.query_network is None) != (query_network is None):
            raise ValueError("the basis and what is loaded have not both a query network")
        if self.query_network is not None and query_network is not None:
            for own, values in zip(self.query_network.parameters(), query_network, strict=True):
                own.copy_(values)
        for name, layer in self.named_layers():
            A, B, keys, projection, _ = layers[name]
            layer.down.copy_(A.mT)
            layer.up.copy_(B)
            layer.keys.copy_(keys)
            if layer.project is not None and projection is not None:
                layer.project.weight.copy_(projection)

    def published(self) -> dict[str, BasisLayer]:
        return {name: layer.published() for name, layer in self.named_layers()}

    def published_network(self) -> QueryNetwork | None:
        return None if self.query_network is None else self.query_network.published()

    def attach(self, model: nn.Module, linears: Linears) -> list:
        """Hook onto a model; returns handles whose `remove` takes a hook off."""
        layers = dict(self.named_layers())
        return [
            model.get_submodule(name).register_forward_hook(
                partial(self._add, [(part, layers[part.layer]) for part in parts])
            )
            for name, parts in linears.items()
        ]

    def route(self, query: Tensor | None, tokens: Tokens = _NO_REFERENCE) -> dict[str, Tensor]:
        """Give the model the mixtures of these queries, one for each picture of its batch.

        query: (n, k, Q/k), or in patch modes (n, t, Q), where each of the t tokens is a query of its own; None for an
        activation-routed basis. tokens: how the forward pass's tokens are made up, which the latter must know. Returns
        the coefficients, layer → (n, N), none for the latter. They are worked out once and stay, as the tokens do,
        until the next call: checkpointed blocks run their hooks again in the backward pass.
        """
        self._tokens = tokens
        if self.config.external_query:
            if query is None or self.query_width is None:
                raise ValueError("a basis with an external query is routed by a query of its width")
            queries = query.reshape(len(query), -1, self.query_width)
            if self.query_network is not None:
                queries = self.query_network(queries.to(self.query_network.inner.weight))
            self._routed = {layer: layer.coefficients(queries, self.config) for _, layer in self.named_layers()}
        return {name: self._routed[layer] for name, layer in self.named_layers() if self._routed}

    def _add(
        self,
        parts: Sequence[tuple[LayerSlice, TrainableLayer]],
        linear: nn.Module,
        inputs: tuple[Tensor],
        output: Tensor,
    ) -> Tensor:
        (x,) = inputs
        for part, layer in parts:
            columns = slice(part.start, part.start + layer.up.shape[2])
            added = layer.add(x, self._coefficients(part, layer, x), output[..., columns])
            if added.shape == output.shape:
                output = added
            else:
                output[..., columns] = added
        return output

    def _coefficients(self, part: LayerSlice, layer: TrainableLayer, x: Tensor) -> Tensor:
        if self.config.external_query:
            return self._routed[layer]
        query = token_query(part.layer, x, self._tokens, self.config.query_mode, self.config.pooling_type)
        return layer.coefficients(query[:, None], self.config)
