"""Kontext Extended-Attention Conditioning: the analogy as the model's reference."""

from __future__ import annotations

import comfy.model_management
import node_helpers
import nodes  # the host's, not this folder
import torch
from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRWebError, Mixture
from ..lorweb_core.analogy import SHOWN_PAIRS, Analogy
from ..lorweb_core.analogy_notes import look_at
from ..lorweb_core.errors import shown
from ..lorweb_core.kept_references import check_can_keep
from ..lorweb_core.layout import find_layout
from ..lorweb_core.likeness import likenesses
from .host import analogy_inputs, shared_inputs
from .host.analogy_inputs import SPEEDS, given_analogy
from .host.analogy_sampling import AnalogySampling, Conditioned, mark_conditioning
from .host.checked_node import CheckedNode
from .host.conditioned import Cut, remember
from .host.notes import tell
from .host.reference_run import Keeping
from .host.run_notes import CONDITIONING as NAME

# FLUX's autoencoder.
LATENT_CHANNELS = 16
DOWNSCALE = 8


class ExtendedAttention(CheckedNode):
    """Show FLUX.1 Kontext a, a′ and b as reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBExtendedAttention",
            display_name=NAME,
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "before after", "reference", "style transfer"],
            description="Shows FLUX.1 Kontext a, a' and b as reference: as the grid [a a'; b b], or one by one.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, e.g. from CLIP Text Encode and FluxGuidance."),
                shared_inputs.vae(),
                analogy_inputs.analogy("a, a_prime, b, megapixels, fit, layout, demonstrations and speed"),
                *analogy_inputs.pictures(
                    "The example before the edit. The grid takes its shape. In a batch: one for each b, or several "
                    "for one b.",
                    "The picture to edit in the same way. A batch is edited in one run.",
                    "As many as there are a's.",
                ),
                analogy_inputs.megapixels(),
                shared_inputs.fit(),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Gets the same reference, for samplers with CFG above 1."
                ),
                shared_inputs.layout(),
                analogy_inputs.demonstrations(),
                analogy_inputs.speed("Set the same on Analogy Result."),
                shared_inputs.as_trained(),
            ],
            hidden=[io.Hidden.prompt],
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
        a: Tensor | None = None,
        a_prime: Tensor | None = None,
        b: Tensor | None = None,
        megapixels: float = 1.0,
        fit: str = "stretch",
        negative=None,
        layout: str = "grid",
        demonstrations: str = SHOWN_PAIRS[0],
        speed: str = "as trained",
        mixture: Mixture | None = None,
        analogy: Analogy | None = None,
    ) -> io.NodeOutput:
        sampled, refresh = shared_inputs.chosen("speed", SPEEDS, speed)
        looked_at = analogy is not None
        analogy = given_analogy(
            NAME,
            analogy,
            {"a": a, "a_prime": a_prime, "b": b},
            fit=fit,
            layout=layout,
            megapixels=megapixels,
            sampled=sampled,
            refresh=refresh,
            demonstrations=demonstrations,
        )
        if not looked_at:
            tell(NAME, look_at(analogy, NAME))
        if mixture and analogy.refresh.keeps:
            check_can_keep(mixture.basis)
        given = negative is not None
        if not given:
            (negative,) = nodes.ConditioningZeroOut().zero_out(positive)
        if find_layout(analogy.layout).indexed:
            positive, negative = _indexed(positive, "positive"), _indexed(negative, "negative")
        sampled = shared_inputs.what_is_sampled(analogy.sampled, mixture)
        laid_out = analogy.lay_out(sampled)
        references = [torch.stack(images) for images in zip(*(s.references for s in laid_out), strict=True)]
        values = {"reference_latents": [vae.encode(images) for images in references]}
        height, width = laid_out[0].sampled  # of all: the images of a batch are of one size
        latent = torch.zeros(
            (len(laid_out), LATENT_CHANNELS, height // DOWNSCALE, width // DOWNSCALE),
            device=comfy.model_management.intermediate_device(),
        )
        conditioned = Conditioned(likenesses(analogy.shown), laid_out[0].sampled, given)
        sampling = AnalogySampling(laid_out[0].place, Keeping(analogy.refresh), conditioned)
        remember(Cut(analogy.fit, analogy.layout, analogy.pairs, sampled), getattr(cls.hidden, "prompt", None))

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
