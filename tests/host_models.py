"""What host tests ask of a MODEL: whether anything of it was changed, or is still on it."""

from __future__ import annotations

import torch


def weights(model) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.model.diffusion_model.state_dict().items()}


def hooks(model) -> int:
    modules = list(model.model.diffusion_model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m)) for m in modules)


def unchanged(model, before: dict[str, torch.Tensor]) -> bool:
    after = model.model.diffusion_model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
