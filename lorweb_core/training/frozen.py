"""A model whose parameters take no gradients for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Have no parameter of a model take gradients within; afterwards each does as it did before."""
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    try:
        _set(model, learning, False)
        yield
    finally:
        _set(model, learning, True)


def _set(model: nn.Module, names: list[str], requires_grad: bool) -> None:
    for parameter in map(model.get_parameter, names):
        with torch.inference_mode(parameter.is_inference()):  # only there do tensors made there take such flags
            parameter.requires_grad_(requires_grad)
