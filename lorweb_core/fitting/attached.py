"""A frozen basis in a model's forward passes, with gradients for the coefficients and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..basis import LoRABasis, Progress
from ..layer_check import check_layers
from ..runtime import PackedBasis, PackedLinear
from ..training.objective import Base


class AttachedBasis:
    """Hold a basis as a base's Linears take it. Raises LoRWebError if the base lacks a layer, or has it otherwise."""

    def __init__(self, basis: LoRABasis, base: Base, progress: Progress | None = None):
        check_layers(basis, base.shapes, "Give the FLUX.1 Kontext that the basis was trained on.")
        chosen = {name: [part for part in parts if part.layer in basis.layers] for name, parts in base.linears.items()}
        linears = {name: parts for name, parts in chosen.items() if parts}
        self._rows = {layer: row for row, layer in enumerate(basis.layers)}
        self._packed = PackedBasis(basis, linears, base.dtype, progress).to(base.device)
        self._model = base.model
        self._weights: dict[PackedLinear, Tensor] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Add the mixture to the model's layers in its forward passes within, and in their recomputation."""
        with ExitStack() as hooks:
            for name, packed in self._packed.items():
                hook = self._model.get_submodule(name).register_forward_hook(partial(self._add, packed))
                hooks.callback(hook.remove)
            yield

    def mix(self, table: Tensor) -> None:
        """Take the coefficients of all layers, (layers, N), or (layers, n, N) for the n pictures of a batch.

        They stay until the next call: checkpointed blocks run their hooks again in the backward pass.
        """
        rows = table.unbind()
        self._weights = {
            packed: torch.cat(
                [
                    (scale * torch.atleast_2d(rows[self._rows[part.layer]])).repeat_interleave(rank, -1)
                    for part, scale, rank in zip(packed.parts, packed.scales, packed.ranks, strict=True)
                ],
                -1,
            )
            for _, packed in self._packed.items()
        }

    def _add(self, packed: PackedLinear, linear: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        (x,) = inputs
        weights = self._weights[packed]
        return _Added.apply(packed, x, weights if x.ndim == 2 else weights[:, None], output)


class _Added(torch.autograd.Function):
    """Compute output + ((x A) · w) B, and keep x A alone of it: x's own gradient needs but A, B and w."""

    @staticmethod
    def forward(context: Any, packed: PackedLinear, x: Tensor, weights: Tensor, output: Tensor) -> Tensor:
        hidden = packed.hidden(x)
        context.packed = packed
        context.save_for_backward(hidden, weights)
        return packed.add(output.clone(memory_format=torch.contiguous_format), hidden * weights.to(hidden.dtype))

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor, Tensor]:
        hidden, weights = context.saved_tensors
        back = context.packed.hidden_gradient(gradient)
        of_weights = (back.to(weights.dtype) * hidden).sum_to_size(weights.shape)
        of_x = context.packed.input_gradient(back * weights.to(back.dtype)) if context.needs_input_grad[1] else None
        return None, of_x, of_weights, gradient
