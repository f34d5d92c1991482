"""The host's FLUX made fit for gradients: nodes run in inference mode, and its blocks overwrite their input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...lorweb_core.training.frozen import frozen


@contextmanager
def differentiable(flux: nn.Module, checkpointing: bool) -> Iterator[None]:
    """Let gradients run through the host's Flux within; its weights stay what they are.

    checkpointing: the blocks compute again in the backward pass what they do not keep.
    """
    management, blocks = comfy.model_management, [*flux.double_blocks, *flux.single_blocks]
    # Blocks add to their input in place, after these have seen it.
    norms = [module for block in blocks for module in block.modules() if isinstance(module, nn.LayerNorm)]
    handles = [norm.register_forward_pre_hook(_on_a_copy) for norm in norms]
    before, forwards = management.in_training, [vars(block).get("forward") for block in blocks]
    try:
        management.in_training = True  # the host then takes rotations and products that have gradients
        if checkpointing:
            for block in blocks:
                block.forward = partial(_checkpointed, block.forward)
        with frozen(flux):
            yield
    finally:
        management.in_training = before
        for block, forward in zip(blocks, forwards, strict=True):
            vars(block).pop("forward", None)
            if forward:
                block.forward = forward
        for handle in handles:
            handle.remove()


def _on_a_copy(norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].clone(),)


def _checkpointed(forward, *args, **kwargs):
    return checkpoint(_keeping_input, forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _keeping_input(forward, *args, **kwargs):
    """Run a block on copies: the first pass must leave what the second begins with."""
    streams = {name: kwargs[name].clone() for name in ("img", "txt") if name in kwargs}
    return forward(*(arg.clone() for arg in args), **kwargs | streams)


def attention(func, *args, **kwargs) -> Tensor:
    """Attend in the place of the host's choice, which may have no gradients (`optimized_attention_override`)."""
    return attention_pytorch(*args, **kwargs)


def leave_inference_mode(model: nn.Module) -> None:
    """Give the parameters that were made in inference mode to autograd; call it outside of that mode.

    Each becomes a parameter like others, on the same memory: not a value is copied or changed.
    """
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, values in held.items():
                # The host's quantized tensors are of types of their own; they are only ever read dequantized.
                if type(values) in (Tensor, nn.Parameter) and values.is_inference():
                    held[name] = _shared(values)


def _shared(values: Tensor) -> Tensor:
    alias = torch.empty(0, dtype=values.dtype, device=values.device)
    alias.set_(values.untyped_storage(), values.storage_offset(), values.shape, values.stride())
    if not isinstance(values, nn.Parameter):
        return alias
    parameter = nn.Parameter(alias, requires_grad=values.requires_grad)
    parameter.__dict__.update(values.__dict__)
    return parameter
