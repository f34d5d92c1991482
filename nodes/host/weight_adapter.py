"""The merged form: a mixture as a patch that the host adds to a weight."""

from __future__ import annotations

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ...lorweb_core.mixture import mixed_delta


class MixedLoRAAdapter(WeightAdapterBase):
    """Merge a layer's mixture into its weight, as a patch of the host.

    A and B are the basis's own tensors, never copies. All state is in `weights` = (A, B, coefficients, scale):
    the host's low-VRAM paths move the tensors in it and rebuild the adapter from it (comfy/lora.py,
    prefetch_prepared_value).
    """

    name = "lorweb"

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor, Tensor, Tensor, float]):
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: tuple[int, int, int] | None,
        function,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight=None,
    ) -> Tensor:
        A, B, coefficients, scale = self.weights
        A, B, coefficients = (t.to(weight.device) for t in (A, B, coefficients))
        weight += function(mixed_delta(A, B, coefficients, strength * scale, intermediate_dtype).to(weight.dtype))
        return weight
