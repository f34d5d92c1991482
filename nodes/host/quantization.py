"""How the host keeps quantized weights: by the types of its tensors, and of ComfyUI-GGUF's."""

from __future__ import annotations

from torch import Tensor, nn


def quantized_as(linear: nn.Module) -> str | None:
    """Name the format of a Linear whose weights are not stored in 16 or 32 bits; None for ordinary ones."""
    weight = linear.weight
    if weight is None:  # not loaded from its file yet
        return None
    if hasattr(weight, "tensor_type"):  # ComfyUI-GGUF's GGMLTensor; BF16 too is unpacked and patched in each forward
        name = getattr(weight.tensor_type, "name", "F32")
        return None if name in ("F32", "F16") else f"GGUF {name}"
    if type(weight) not in (Tensor, nn.Parameter):  # the host's QuantizedTensor, which shows its compute dtype
        return getattr(linear, "quant_format", None) or type(weight).__name__
    plain = weight.is_floating_point() and weight.dtype.itemsize > 1
    return None if plain else str(weight.dtype).removeprefix("torch.")
