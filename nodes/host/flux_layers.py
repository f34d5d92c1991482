"""A basis's layers in the host's FLUX: which weights they are, and which of its Linears compute them."""

from __future__ import annotations

import re

import comfy.lora
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...lorweb_core import LoRWebError
from ...lorweb_core.runtime import LayerSlice

HostKeys = dict[str, str | tuple]
"""Layer of the basis → the host's weight key, or (key, (dim, offset, size)) where the host fuses layers."""

_IN_BLOCKS = re.compile(r"transformer\.(single_)?transformer_blocks\.")


def known_layers(model: ModelPatcher, why: str) -> HostKeys:
    """Find every layer that the host has a published name for. Raises LoRWebError, with `why`, if it is no FLUX.1."""
    check_flux(model, why)
    return comfy.lora.model_lora_keys_unet(model.model, {})


def check_flux(model: ModelPatcher, why: str) -> None:
    """Raise LoRWebError if a model is no FLUX.1; why: what needs one."""
    if model.model.model_config.unet_config.get("image_model") != "flux":
        raise LoRWebError(
            f"The model given is {type(model.model).__name__}, but {why}: "
            "load FLUX.1 Kontext (flux1-dev-kontext) with Load Diffusion Model."
        )


def block_layers(model: ModelPatcher) -> HostKeys:
    """Find every Linear inside the blocks, which is what a published basis has LoRAs for."""
    known = known_layers(model, "a basis is trained for FLUX.1")
    return {
        name: key
        for name, key in known.items()
        if _IN_BLOCKS.match(name) and hasattr(linear_of(model, key)[0], "in_features")
    }


def linear_of(model: ModelPatcher, key: str | tuple) -> tuple[nn.Module, int | None]:
    """Find the host's module of a key, and how many of its outputs are the layer's; None for all."""
    weight, (_, _, size) = key if isinstance(key, tuple) else (key, (0, 0, None))
    return comfy.utils.get_attr(model.model, weight.removesuffix(".weight")), size


def layer_shape(model: ModelPatcher, key: str | tuple) -> tuple[int, int]:
    """Give a layer's widths, (in, out)."""
    linear, size = linear_of(model, key)
    return linear.in_features, size or linear.out_features


def layers_by_linear(keys: HostKeys) -> dict[str, list[LayerSlice]]:
    """Group layers by the Linear within the host's diffusion_model that computes them."""
    linears: dict[str, list[LayerSlice]] = {}
    for layer, key in keys.items():
        weight, (_, start, _) = key if isinstance(key, tuple) else (key, (0, 0, None))
        name = weight.removeprefix("diffusion_model.").removesuffix(".weight")
        linears.setdefault(name, []).append(LayerSlice(layer, start))
    return linears
