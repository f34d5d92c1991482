"""Mixed LoRA Apply: a mixture on the model."""

from __future__ import annotations

import logging
import math

import comfy.utils
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..lorweb_core import LoRABasis, LoRWebError, Mixture
from ..lorweb_core.errors import shown
from ..lorweb_core.layer_check import check_layers
from .host import shared_inputs
from .host.analogy_sampling import follow_marks
from .host.checked_node import CheckedNode
from .host.flux_layers import HostKeys, known_layers, layer_shape
from .host.held_rank import HeldRank
from .host.quantization import quantized_as
from .host.runtime_injection import inject_mixture
from .host.weight_adapter import MixedLoRAAdapter

log = logging.getLogger(__name__)

METHODS = ("auto", "merge", "runtime")


class MixedLoRAApply(CheckedNode):
    """Patch a mixture of LoRAs into FLUX.1 Kontext."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBMixedLoRAApply",
            display_name="Mixed LoRA Apply",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "apply lora", "lora mix", "lorweb apply"],
            description="Patches the mixture of LoRAs into FLUX.1 Kontext. Chains with LoRA nodes and with itself.",
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 Kontext, e.g. from Load Diffusion Model. It is not changed."),
                shared_inputs.mixture(),
                shared_inputs.strength("How much of the edit: 1 as trained, 0 none, negative the opposite direction."),
                shared_inputs.choice(
                    "method",
                    METHODS,
                    "merge: fold the mixture into the weights once; a step then takes as long as without it. runtime: "
                    "add it in the forward pass and leave the weights alone; for batches of different analogies, "
                    "quantized models and bases that route by activation. auto: runtime for these, else merge; the log "
                    "says which and why.",
                    optional=True,
                    advanced=True,
                ),
                io.Int.Input(
                    "run_time_rank",
                    optional=True,
                    advanced=True,
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="The rank that the mixture is held in at run time; the log says the error. 0 goes by "
                    "run_time_error. At rank 32, a quarter of the released bases' memory and products. A merged "
                    "mixture is always whole.",
                ),
                io.Float.Input(
                    "run_time_error",
                    optional=True,
                    advanced=True,
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.001,
                    round=False,
                    tooltip="The share of each layer's change that may be left out at run time, 0.01 for 1 %; the log "
                    "says the ranks. 0 leaves out nothing with method runtime; with method auto, up to 1 % where that "
                    "saves a quarter or more.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The model with this analogy's LoRA in it.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        mixture: Mixture,
        strength: float = 1.0,
        method: str = "auto",
        run_time_rank: int = 0,
        run_time_error: float = 0.0,
    ) -> io.NodeOutput:
        return io.NodeOutput(apply_mixture(model, mixture, strength, method, run_time_rank, run_time_error))


def apply_mixture(
    model: ModelPatcher,
    mixture: Mixture,
    strength: float = 1.0,
    method: str = "auto",
    run_time_rank: int = 0,
    run_time_error: float = 0.0,
) -> ModelPatcher:
    """Clone `model` and put the mixture on the clone; `model` is untouched and no weight is read yet.

    method: "merge" adds ΔW to the weights when the host loads them, "runtime" adds the mixture to the layers' outputs
    in the forward pass, "auto" chooses and logs why. run_time_rank, run_time_error: what a mixture at run time is
    brought down to; of both 0, "runtime" is exact, and "auto" leaves out up to 1 % where that is worth it. Raises
    LoRWebError if the model is no FLUX.1 or does not have every layer of the basis in its size, if the mixture cannot
    be merged, or if a number is out of range.
    """
    if method not in METHODS:
        raise LoRWebError(f"method is {shown(method)}; expected one of: {', '.join(METHODS)}.")
    if not math.isfinite(strength):
        raise LoRWebError(f"strength is {strength}; expected a number, 1.0 as trained.")
    held = HeldRank(run_time_rank, run_time_error, method == "auto")
    held.check()
    mixture.check_values()
    keys = _host_keys(model, mixture.basis)
    unmergeable = _why_not_merged(mixture)
    if method == "merge" and unmergeable:
        raise LoRWebError(f"This cannot be merged: {unmergeable}. Set the method to runtime or auto.")
    if method == "auto":
        reason = unmergeable or _why_not_better_merged(model, keys)
        method = "runtime" if reason else "merge"
        why = reason or "one mixture fits the weights"
        log.info("%s: method auto takes %s, because %s.", mixture.basis.name, method, why)
    patched = model.clone()
    if strength == 0:
        follow_marks(patched)
        return patched
    follow_marks(patched, mixture)
    if method == "runtime":
        inject_mixture(patched, mixture, strength, keys, held)
    else:
        layers = mixture.basis.layers
        patches = {
            key: MixedLoRAAdapter(
                set(), (layers[name].A, layers[name].B, mixture.coefficients[name], layers[name].scale)
            )
            for name, key in keys.items()
        }
        patched.add_patches(patches, strength)
    log.debug("%s: %d layers, strength %g, %s", mixture.basis.name, len(keys), strength, method)
    return patched


def _why_not_merged(mixture: Mixture) -> str | None:
    if not mixture.basis.config.external_query:
        return f"{mixture.basis.name} routes by each layer's own input, which changes at every step"
    if mixture.analogies > 1:
        return f"the mixture is of {mixture.analogies} analogies, and weights can hold one"
    return None


def _why_not_better_merged(model: ModelPatcher, keys: HostKeys) -> str | None:
    for key in keys.values():
        weight = key[0] if isinstance(key, tuple) else key
        stored = quantized_as(comfy.utils.get_attr(model.model, weight.removesuffix(".weight")))
        if stored:
            cost = "are computed again in every step" if stored.startswith("GGUF") else "would be rounded to it"
            return f"the model is stored as {stored}, and merged weights {cost}"
    return None


def _host_keys(model: ModelPatcher, basis: LoRABasis) -> HostKeys:
    """Find the host's weight key of every layer of the basis.

    Raises LoRWebError if the model lacks a layer, or has one of another size.
    """
    known = known_layers(model, f"{basis.name} is a basis for FLUX.1")
    keys = {name: known[name] for name in basis.layers if name in known}
    sizes = {name: layer_shape(model, key) for name, key in keys.items()}
    check_layers(basis, sizes, "Load the FLUX.1 Kontext that the basis was trained on.")
    return keys
