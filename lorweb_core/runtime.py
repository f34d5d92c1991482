"""A mixture at run time: added to the layers' outputs in the forward pass, the weights untouched.

What `mixture` folds into one ΔW stays in three factors here, out += ((x A) · c) B, so that every picture of a batch can
have coefficients of its own, and an activation-routed basis new ones at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .basis import LoRABasis, Progress
from .checkpoint import BasisLayer
from .errors import LoRWebError
from .mixture import Mixture
from .routing import Tokens, mixing_coefficients, token_query

ReadTokens = Callable[[nn.Module, tuple, dict], tuple[int, Tokens]]
"""From a model and the arguments of its forward: how many pictures it samples, and how its tokens are made up."""


class PackedLayer(nn.Module):
    """One layer's basis as a forward pass reads it: its N LoRAs side by side, as one of rank N·r."""

    def __init__(self, layer: BasisLayer, dtype: torch.dtype, routed: bool):
        super().__init__()

        def keep(tensor: Tensor | None) -> nn.Parameter | None:
            return None if tensor is None else nn.Parameter(tensor.to(dtype).contiguous(), requires_grad=False)

        self.rank = layer.A.shape[2]
        self.scale = layer.scale
        self.down = keep(layer.A.mT.flatten(0, 1))
        """(N·r, in)"""
        self.up = keep(layer.B.flatten(0, 1))
        """(N·r, out)"""
        self.keys = keep(layer.keys) if routed else None
        self.projection = keep(layer.projection) if routed else None


class PackedBasis(nn.Module):
    """A basis in the dtype of the model it runs in; all mixtures of the basis share it."""

    def __init__(self, basis: LoRABasis, dtype: torch.dtype, progress: Progress | None = None):
        super().__init__()
        self._layers = nn.ModuleDict()
        for done, (name, layer) in enumerate(basis.layers.items()):
            if progress:
                progress(done, len(basis.layers))
            self._layers[_module_name(name)] = PackedLayer(layer, dtype, routed=not basis.config.external_query)

    def __getitem__(self, layer: str) -> PackedLayer:
        return self._layers[_module_name(layer)]


def _module_name(layer: str) -> str:
    return layer.replace(".", "/")  # torch takes no dots in names of modules


class Attachment:
    """A mixture on one model, as forward hooks, until `remove`.

    layers: name in the basis → the Linear that computes it, and where its output begins there, as hosts fuse layers.
    read_tokens: see ReadTokens. Errors: LoRWebError in the forward pass, before anything is computed, if the
    pictures are no multiple of the mixture's analogies.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, tuple[nn.Module, int]],
        mixture: Mixture,
        packed: PackedBasis,
        strength: float,
        read_tokens: ReadTokens,
    ):
        self.mixture = mixture
        self.packed = packed
        self.strength = strength
        self.read_tokens = read_tokens
        self.tokens = Tokens(0, 0)
        self._weights: dict[str, Tensor] = {}
        self._handles = [model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for name, (linear, start) in layers.items():
            self._handles.append(linear.register_forward_hook(partial(self._add, name, start)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        pictures, self.tokens = self.read_tokens(model, args, kwargs)
        if pictures % self.mixture.analogies:
            raise LoRWebError(
                f"The mixture is of {self.mixture.analogies} analogies, but {pictures} pictures are sampled. Give the "
                "sampler the latent of Kontext Extended-Attention Conditioning with the same a, a' and b."
            )

    def _add(self, name: str, start: int, linear: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        (x,) = inputs
        layer = self.packed[name]
        down, up = layer.down.to(x.device, x.dtype), layer.up.to(x.device, output.dtype)
        weights = self._weights_of(name, layer, x)
        hidden = F.linear(x, down) * (weights if x.ndim == 2 else weights[:, None])
        # Into the output in place: a second tensor of its size would cost more than the product itself.
        output = output.contiguous()
        rows = output.view(-1, output.shape[-1])[:, start : start + up.shape[1]]
        rows.addmm_(hidden.flatten(0, -2).to(output.dtype), up)
        return output

    def _weights_of(self, name: str, layer: PackedLayer, x: Tensor) -> Tensor:
        """strength · scale · c for each of the N·r columns: (1, N·r), or (batch, N·r), one row a picture."""
        if not self.mixture.coefficients:
            return self._spread(self._route(name, layer, x), layer, x)
        weights = self._weights.get(name)
        if weights is None or weights.device != x.device or weights.dtype != x.dtype:
            weights = self._spread(torch.atleast_2d(self.mixture.coefficients[name]), layer, x)
            self._weights[name] = weights
        # Samplers lay the conditional and the unconditional batch one after the other, each in the mixture's order.
        return weights if len(weights) == 1 else weights.repeat(len(x) // len(weights), 1)

    def _spread(self, coefficients: Tensor, layer: PackedLayer, x: Tensor) -> Tensor:
        return (self.strength * layer.scale * coefficients).repeat_interleave(layer.rank, -1).to(x.device, x.dtype)

    def _route(self, name: str, layer: PackedLayer, x: Tensor) -> Tensor:
        """This layer's coefficients from its own input, (batch, N), float32."""
        config = self.mixture.basis.config
        query = token_query(name, x, self.tokens, config.query_mode, config.pooling_type)
        if layer.projection is not None:
            query = F.linear(query.to(x.dtype), layer.projection.to(x.device, x.dtype))
        return mixing_coefficients(
            query.float()[:, None],
            layer.keys.to(x.device).float(),
            config.lora_heads,
            config.lora_softmax,
            config.mixing_coeffs_type,
        )
