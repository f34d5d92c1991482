"""A mixture at run time: added to the layers' outputs in the forward pass, the weights untouched.

What `mixture` folds into one ΔW stays in three factors here, out += ((x A) · c) B, so that every picture of a batch can
have coefficients of its own, and an activation-routed basis new ones at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .basis import LoRABasis, Progress
from .checkpoint import BasisLayer
from .errors import LoRWebError
from .mixture import Mixture
from .routing import Tokens, mixing_coefficients, token_query


class LayerSlice(NamedTuple):
    """Say where a layer's output lies in that of the Linear that computes it: models fuse q, k and v."""

    layer: str
    start: int
    """First of the Linear's outputs that is the layer's."""


class PackedLinear(nn.Module):
    """Hold the basis of one Linear as a forward pass reads it: the N LoRAs of all its parts side by side."""

    def __init__(self, parts: Sequence[LayerSlice], layers: Sequence[BasisLayer], routed: bool, dtype: torch.dtype):
        super().__init__()

        def keep(tensors: Sequence[Tensor | None]) -> nn.ParameterList:
            held = [t.to(dtype).contiguous() for t in tensors if t is not None]
            return nn.ParameterList([nn.Parameter(t, requires_grad=False) for t in held])

        self.parts = parts
        self.ranks = [layer.A.shape[2] for layer in layers]
        self.columns = [len(layer.A) * layer.A.shape[2] for layer in layers]
        """N·r of each layer."""
        self.scales = [layer.scale for layer in layers]
        # One product for all parts, as they have the same input: (ΣN·r, in).
        self.down = keep([torch.cat([layer.A.mT.flatten(0, 1) for layer in layers])])
        # Each (out, N·r), as a weight lies: in this order a CPU multiplies in two thirds of the time.
        self.ups = keep([layer.B.flatten(0, 1).T for layer in layers])
        self.keys = keep([layer.keys for layer in layers if routed])
        self.projections = keep([layer.projection for layer in layers if routed])

    def hidden(self, x: Tensor) -> Tensor:
        """Compute x A of all parts, (…, ΣN·r)."""
        return F.linear(x, self._down(x))

    def add(self, output: Tensor, hidden: Tensor) -> Tensor:
        """Add hidden B, part by part, to the Linear's output, which is contiguous, in place; returns it."""
        rows = output.view(-1, output.shape[-1])
        for columns, up, share in zip(*self._ups(output), self._split(hidden, output), strict=True):
            rows[:, columns].addmm_(share, up.T)
        return output

    def hidden_gradient(self, gradient: Tensor) -> Tensor:
        """Compute the gradient of `hidden`, (…, ΣN·r), by that of `add`'s result."""
        return torch.cat([gradient[..., columns] @ up for columns, up in zip(*self._ups(gradient), strict=True)], -1)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """Compute the gradient of x by that of x A."""
        return gradient @ self._down(gradient)

    def _down(self, like: Tensor) -> Tensor:
        return self.down[0].to(like.device, like.dtype)

    def _ups(self, like: Tensor) -> tuple[list[slice], list[Tensor]]:
        """Give each part's columns in the output, and its B, (out, N·r)."""
        ups = [up.to(like.device, like.dtype) for up in self.ups]
        return [slice(p.start, p.start + len(up)) for p, up in zip(self.parts, ups, strict=True)], ups

    def _split(self, hidden: Tensor, like: Tensor) -> Sequence[Tensor]:
        return hidden.flatten(0, -2).to(like.dtype).split(self.columns, 1)


class PackedBasis(nn.Module):
    """Hold a basis for models that fuse its layers in one way, in their dtype; all its mixtures share it.

    linears: name of a Linear within the model → its parts. layer: makes what is held of a layer by its name, as
    `LightMixture.layer` does; None takes the basis's own.
    """

    def __init__(
        self,
        basis: LoRABasis,
        linears: Mapping[str, Sequence[LayerSlice]],
        dtype: torch.dtype,
        progress: Progress | None = None,
        layer: Callable[[str], BasisLayer] | None = None,
    ):
        super().__init__()
        layer, routed = layer or basis.layers.__getitem__, not basis.config.external_query
        self._packed: dict[str, PackedLinear] = {}
        for done, (name, parts) in enumerate(linears.items()):
            if progress:
                progress(done, len(linears))
            self._packed[name] = PackedLinear(parts, [layer(part.layer) for part in parts], routed, dtype)
        self._linears = nn.ModuleList(self._packed.values())  # names with dots are none for a ModuleDict

    def items(self) -> list[tuple[str, PackedLinear]]:
        return list(self._packed.items())


class RuntimeMixture:
    """Add a mixture to the outputs of a model's Linears, in the forward passes within `attached`.

    coefficients: of what the packed basis holds, where that is not the mixture's own: those of its `LightMixture`.
    """

    def __init__(self, mixture: Mixture, strength: float, coefficients: Mapping[str, Tensor] | None = None):
        self.mixture = mixture
        self.coefficients = mixture.coefficients if coefficients is None else coefficients
        self.strength = strength
        self._weights: dict[tuple[PackedLinear, torch.device, torch.dtype], Tensor] = {}

    @contextmanager
    def attached(self, model: nn.Module, packed: PackedBasis, pictures: int, tokens: Tokens) -> Iterator[None]:
        """Hook the mixture onto `model` for one forward pass; the hooks are gone after it, however it ends.

        pictures: how many are sampled together. tokens: how the pass's tokens are made up. Raises LoRWebError if the
        pictures are no multiple of the mixture's analogies.
        """
        if pictures % self.mixture.analogies:
            raise LoRWebError(
                f"The mixture is of {self.mixture.analogies} analogies, but {pictures} pictures are sampled. Give the "
                "sampler the latent of Kontext Extended-Attention Conditioning with the same a, a' and b."
            )
        with ExitStack() as hooks:
            # Code that torch.compile made for the model alone would run without the hooks: it does not look for them.
            if hasattr(torch.compiler, "set_stance"):  # from torch 2.6 on
                hooks.enter_context(torch.compiler.set_stance("force_eager"))
            for name, linear in packed.items():
                add = partial(self._add, linear, tokens)
                hooks.callback(model.get_submodule(name).register_forward_hook(add).remove)
            yield

    def _add(
        self, packed: PackedLinear, tokens: Tokens, linear: nn.Module, inputs: tuple[Tensor], output: Tensor
    ) -> Tensor:
        (x,) = inputs
        weights = self._weights_of(packed, x, tokens)
        # In place, hidden and output: a second tensor of the output's size would cost more than the product itself.
        hidden = packed.hidden(x).mul_(weights if x.ndim == 2 else weights[:, None])
        return packed.add(output.contiguous(), hidden)

    def _weights_of(self, packed: PackedLinear, x: Tensor, tokens: Tokens) -> Tensor:
        """Compute strength · scale · c for each column of `down`: (1, ΣN·r), or (batch, ΣN·r), one row a picture."""
        if not self.coefficients:
            return self._spread(packed, self._route(packed, x, tokens), x)
        place = (packed, x.device, x.dtype)
        if place not in self._weights:
            known = [torch.atleast_2d(self.coefficients[part.layer]) for part in packed.parts]
            self._weights[place] = self._spread(packed, known, x)
        weights = self._weights[place]
        # Samplers lay the conditional and the unconditional batch one after the other, each in the mixture's order.
        return weights if len(weights) == 1 else weights.repeat(len(x) // len(weights), 1)

    def _spread(self, packed: PackedLinear, coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
        scaled = zip(coefficients, packed.scales, packed.ranks, strict=True)
        spread = [(self.strength * scale * c).repeat_interleave(rank, -1) for c, scale, rank in scaled]
        return torch.cat(spread, -1).to(x.device, x.dtype)

    def _route(self, packed: PackedLinear, x: Tensor, tokens: Tokens) -> list[Tensor]:
        """Compute each part's coefficients from the Linear's own input, (batch, N), float32."""
        config = self.mixture.basis.config
        query = token_query(packed.parts[0].layer, x, tokens, config.query_mode, config.pooling_type)
        projections = [projection.to(x.device, x.dtype) for projection in packed.projections]
        queries = [F.linear(query.to(x.dtype), w) for w in projections] or [query] * len(packed.keys)
        return [
            mixing_coefficients(
                projected.float()[:, None],
                keys.to(x.device).float(),
                config.lora_heads,
                config.lora_softmax,
                config.mixing_coeffs_type,
                config.lora_parts,
            )
            for projected, keys in zip(queries, packed.keys, strict=True)
        ]
