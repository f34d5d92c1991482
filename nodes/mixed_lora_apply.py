from __future__ import annotations

import logging
import math

import comfy.lora
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import WeightAdapterBase
from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRABasis, LoRWebError, Mixture
from ..lorweb_core.mixture import mixed_delta
from . import sockets

log = logging.getLogger(__name__)

METHODS = ("auto", "merge")


class MixedLoRAApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBMixedLoRAApply",
            display_name="Mixed LoRA Apply",
            category="LoRWeB",
            description="Patches the mixture of LoRAs into FLUX.1 Kontext. Chains with LoRA nodes and with itself.",
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 Kontext, e.g. from Load Diffusion Model. It is not changed."),
                sockets.Mixture.Input("mixture", tooltip="From the Analogy Encoder."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the edit: 1 as trained, 0 none, negative the opposite direction.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The model with this analogy's LoRA in it.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, mixture: Mixture, strength: float = 1.0) -> io.NodeOutput:
        return io.NodeOutput(apply_mixture(model, mixture, strength))


class MixedLoRAAdapter(WeightAdapterBase):
    """A layer's mixture as a patch of the host. A and B are the basis's own tensors, never copies.

    All state is in `weights` = (A, B, coefficients, scale): the host's low-VRAM paths move the tensors in it and
    rebuild the adapter from it (comfy/lora.py, prefetch_prepared_value).
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


def apply_mixture(model: ModelPatcher, mixture: Mixture, strength: float = 1.0, method: str = "auto") -> ModelPatcher:
    """A clone of `model` with the mixture as weight patches; `model` is untouched and no weight is read yet.

    method: "merge" adds ΔW to the weights when the host loads them; "auto" chooses, today always merge.
    Raises LoRWebError if the model is no FLUX.1 or does not have every layer of the basis in its size.
    """
    if method not in METHODS:
        raise LoRWebError(f"method is {method!r}; expected one of: {', '.join(METHODS)}.")
    if not math.isfinite(strength):
        raise LoRWebError(f"strength is {strength}; expected a number, 1.0 as trained.")
    layers = mixture.basis.layers
    patches = {
        key: MixedLoRAAdapter(set(), (layers[name].A, layers[name].B, mixture.coefficients[name], layers[name].scale))
        for name, key in _host_keys(model, mixture.basis).items()
    }
    patched = model.clone()
    if strength != 0:
        patched.add_patches(patches, strength)
    log.debug("%s: %d layers patched at strength %g", mixture.basis.name, len(patches), strength)
    return patched


def _host_keys(model: ModelPatcher, basis: LoRABasis) -> dict[str, str | tuple]:
    """Layer of the basis → the host's weight key, or (key, (dim, offset, size)) where the host fuses layers."""
    if model.model.model_config.unet_config.get("image_model") != "flux":
        raise LoRWebError(
            f"The model given is {type(model.model).__name__}, but {basis.name} is a basis for FLUX.1: "
            "load FLUX.1 Kontext (flux1-dev-kontext) with Load Diffusion Model."
        )
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    missing = [name for name in basis.layers if name not in known]
    if missing:
        raise LoRWebError(
            f"The model given lacks {len(missing)} of the {len(basis.layers)} layers that {basis.name} mixes, "
            f"{missing[0]} first: it has fewer blocks than the FLUX.1 the basis was trained on. Load FLUX.1 Kontext."
        )
    keys = {name: known[name] for name in basis.layers}
    for name, key in keys.items():
        weight, (_, _, fused_size) = key if isinstance(key, tuple) else (key, (0, 0, None))
        linear = comfy.utils.get_attr(model.model, weight.removesuffix(".weight"))
        has = (linear.in_features, fused_size or linear.out_features)
        takes = (basis.layers[name].A.shape[1], basis.layers[name].B.shape[2])
        if has != takes:
            raise LoRWebError(
                f"Layer {name} maps {takes[0]} to {takes[1]} values in {basis.name}, but {has[0]} to {has[1]} in the "
                "model given. Load the FLUX.1 that the basis was trained on."
            )
    return keys
