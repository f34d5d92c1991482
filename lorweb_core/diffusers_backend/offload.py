"""Frozen Linears whose weights stay in the CPU's memory and visit the GPU for one product at a time."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _VisitingLinear(torch.autograd.Function):
    """Fetch a weight once more for the backward pass, until which autograd would keep it on the GPU."""

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.weight = weight
        here = weight.to(x.device, non_blocking=True)
        return F.linear(x, here, None if bias is None else bias.to(x.device, non_blocking=True))

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ context.weight.to(gradient.device, non_blocking=True), None, None


def offload(model: nn.Module, device: torch.device) -> None:
    """Move a frozen model to a device, but for the weights of the Linears in its blocks (the modules in its lists)."""
    blocks = [block for child in model.children() if isinstance(child, nn.ModuleList) for block in child]
    staying = [module for block in blocks for module in block.modules() if isinstance(module, nn.Linear)]
    kept = [(linear, linear.weight, linear.bias) for linear in staying]
    for linear in staying:
        linear.register_parameter("weight", None)
        linear.register_parameter("bias", None)
    model.to(device)
    for linear, weight, bias in kept:
        if device.type == "cuda":
            # From pinned memory the copy runs beside the arithmetic.
            weight.data = weight.data.pin_memory()
        linear.weight, linear.bias = weight, bias
        linear.forward = partial(_forward, linear)  # type: ignore[method-assign]  # of this Linear, not of its class


def _forward(linear: nn.Linear, x: Tensor) -> Tensor:
    return _VisitingLinear.apply(x, linear.weight, linear.bias)
