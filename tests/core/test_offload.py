"""Offloaded Linears give what they give without, in values and in gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorweb_core.diffusers_backend.offload import offload

CPU = torch.device("cpu")


class Blocks(nn.Module):
    """Two blocks between a first and a last layer, one Linear of theirs without a bias."""

    def __init__(self, checkpointing: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False)) for _ in range(2)
        )
        self.checkpointing = checkpointing
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x))
        return self.last(x)


def outcome(model: Blocks) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and gradients of the input and of a scale that a hook puts on a block's Linear, as the basis's do."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 3, generator=generator).requires_grad_()
    scale = torch.ones(16, requires_grad=True)
    handle = model.blocks[0][0].register_forward_hook(lambda module, inputs, output: output * scale)
    output = model(x)
    output.square().sum().backward()
    handle.remove()
    return output.detach(), x.grad, scale.grad


@pytest.mark.parametrize("checkpointing", [False, True])
def test_outputs_and_gradients_are_those_without(checkpointing):
    plain, offloaded = Blocks(checkpointing), Blocks(checkpointing)
    offload(offloaded, CPU)
    for ours, theirs in zip(outcome(offloaded), outcome(plain)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_weights_stay_where_they_were_and_others_move():
    """On the meta device as the other one: only its shapes can be computed with, but it is not the CPU."""
    model = Blocks()
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.named_parameters()}
    offload(model, torch.device("meta"))
    for name, value in model.named_parameters():
        inside = name.startswith("blocks.")
        assert value.device.type == ("cpu" if inside else "meta"), name
        if inside:
            address, kept = before[name]
            assert value.data_ptr() == address and value.equal(kept)
    x = torch.randn(2, 3, device="meta", requires_grad=True)
    model(x).sum().backward()
    assert x.grad.device.type == "meta"


def test_no_weight_is_kept_for_the_backward_pass():
    """That is what it is for: autograd would hold on to each copy."""
    model = Blocks()
    offload(model, CPU)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model(torch.randn(2, 3, requires_grad=True))
    weights = {linear.weight.data_ptr() for block in model.blocks for linear in block if isinstance(linear, nn.Linear)}
    assert kept
    assert not weights & {tensor.data_ptr() for tensor in kept}
