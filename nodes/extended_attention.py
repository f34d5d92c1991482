"""Kontext Extended-Attention Conditioning: the analogy as the model's reference."""

from __future__ import annotations

from typing import NamedTuple

import comfy.model_management
import node_helpers
import nodes  # the host's, not this folder
import torch
from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRWebError, Mixture
from ..lorweb_core.errors import shown
from ..lorweb_core.kept_references import Refresh, check_can_keep
from ..lorweb_core.layout import find_layout
from ..lorweb_core.triplet import triplets
from .host import shared_inputs
from .host.analogy_sampling import AnalogySampling, mark_conditioning
from .host.checked_node import CheckedNode
from .host.reference_run import Keeping

# FLUX's autoencoder.
LATENT_CHANNELS = 16
DOWNSCALE = 8

DEMONSTRATIONS = ("first pair", "all pairs")

KEPT = Keeping(Refresh(every=0))


class Speed(NamedTuple):
    """Say what of an analogy is computed."""

    sampled: str | None
    """One of layout.SAMPLED; None for what the basis was trained with."""
    keeping: Keeping = Keeping()


SPEEDS = {
    "as trained": Speed(None),
    "as published": Speed("grid"),
    "b' alone": Speed("result"),
    "b' alone, references kept": Speed("result", KEPT),
}


class ExtendedAttention(CheckedNode):
    """Show FLUX.1 Kontext a, a′ and b as reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBExtendedAttention",
            display_name="Kontext Extended-Attention Conditioning",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "before after", "reference", "style transfer"],
            description="Shows FLUX.1 Kontext a, a' and b as reference: as the grid [a a'; b b], or one by one.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, e.g. from CLIP Text Encode and FluxGuidance."),
                shared_inputs.vae(),
                io.Image.Input(
                    "a",
                    tooltip="The example before the edit. The grid takes its shape. In a batch: one for each b, or "
                    "several for one b.",
                ),
                shared_inputs.a_prime("As many as there are a's."),
                io.Image.Input("b", tooltip="The picture to edit in the same way. A batch is edited in one run."),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.01,
                    max=16.0,
                    step=0.01,
                    tooltip="The size of what is sampled, in units of 1024 × 1024 pixels; 1.0 as published. In the "
                    "layout grid that is the whole grid, and b' is a quarter of it; in sequence it is b' itself.",
                ),
                shared_inputs.fit(),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Gets the same reference, for samplers with CFG above 1."
                ),
                shared_inputs.layout(),
                shared_inputs.choice(
                    "demonstrations",
                    DEMONSTRATIONS,
                    "With several pairs for one b: show the model the first, as trained, or all of them.",
                    optional=True,
                    advanced=True,
                ),
                shared_inputs.choice(
                    "speed",
                    SPEEDS,
                    "as published: the whole grid is sampled, and the references are computed in each step. b' alone: "
                    "only its cell is sampled, in 0.39 of the time on a CPU. references kept: what the model makes of "
                    "them in the first step serves the others; 28 steps then took 0.11. In the small world, "
                    "with a FLUX.1 of toy size, errors were 1.02 to 1.10 of the published form's; nobody has measured "
                    "Kontext's own weights yet. as trained: what the mixture's basis says, the whole grid where none "
                    "is linked. Set the same on Analogy Result; the model must come from Mixed LoRA Apply or Keep "
                    "References.",
                    optional=True,
                ),
                shared_inputs.as_trained(),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="As given, with the reference."),
                io.Conditioning.Output(
                    "negative", tooltip="As given, with the reference. Without one: the positive zeroed out, for CFG 1."
                ),
                io.Latent.Output("latent", tooltip="An empty latent of the size to sample, for the sampler."),
                io.Image.Output("grid", tooltip="What the model is shown, to look at."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive,
        vae,
        a: Tensor,
        a_prime: Tensor,
        b: Tensor,
        megapixels: float = 1.0,
        fit: str = "stretch",
        negative=None,
        layout: str = "grid",
        demonstrations: str = "first pair",
        speed: str = "as trained",
        mixture: Mixture | None = None,
    ) -> io.NodeOutput:
        chosen, fast = find_layout(layout), shared_inputs.chosen("speed", SPEEDS, speed)
        sampled = shared_inputs.what_is_sampled(fast.sampled, mixture)
        if mixture and fast.keeping.refresh.keeps:
            check_can_keep(mixture.basis)
        if demonstrations not in DEMONSTRATIONS:
            raise LoRWebError(
                f"demonstrations is {shown(demonstrations)}; expected one of: {', '.join(DEMONSTRATIONS)}."
            )
        if negative is None:
            (negative,) = nodes.ConditioningZeroOut().zero_out(positive)
        if chosen.indexed:
            positive, negative = _indexed(positive, "positive"), _indexed(negative, "negative")
        analogies = triplets(a, a_prime, b)
        if demonstrations == "first pair":
            analogies = [analogy._replace(pairs=analogy.pairs[:1]) for analogy in analogies]
        laid_out = [chosen.show(analogy, megapixels, fit, sampled) for analogy in analogies]
        references = [torch.stack(images) for images in zip(*(s.references for s in laid_out), strict=True)]
        values = {"reference_latents": [vae.encode(images) for images in references]}
        height, width = laid_out[0].sampled  # of all: the images of a batch are of one size
        latent = torch.zeros(
            (len(analogies), LATENT_CHANNELS, height // DOWNSCALE, width // DOWNSCALE),
            device=comfy.model_management.intermediate_device(),
        )
        sampling = AnalogySampling(laid_out[0].place, fast.keeping)

        def show(conditioning: list) -> list:
            return mark_conditioning(node_helpers.conditioning_set_values(conditioning, values, append=True), sampling)

        return io.NodeOutput(
            show(positive),
            show(negative),
            {"samples": latent},
            torch.stack([s.overview for s in laid_out]),
        )


def _indexed(conditioning: list, name: str) -> list:
    """Set the host's method that gives references the frame indices 1, 2, 3, … in the order of their list.

    Raises LoRWebError if the conditioning has references, or another method, already.
    """
    for _, values in conditioning:
        if values.get("reference_latents"):
            raise LoRWebError(
                f"{name} already has reference images, which take the frame indices of the layout sequence. Remove "
                "the node that adds them, or choose the layout grid."
            )
        method = values.get("reference_latents_method", "index")
        if method != "index":
            raise LoRWebError(
                f"{name} has the reference method {shown(method)}, but the layout sequence needs 'index'. Remove "
                "the node that sets it, or choose the layout grid."
            )
    return node_helpers.conditioning_set_values(conditioning, {"reference_latents_method": "index"})
