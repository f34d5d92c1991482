"""Analogy Encoder: from a, a′ and b to a mixture of LoRAs."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRABasis
from ..lorweb_core.analogy import Analogy
from ..lorweb_core.demonstrations import DEMONSTRATIONS, mix
from ..lorweb_core.pictures.thumbnails import make_thumbnails
from .host import analogy_inputs, shared_inputs, sockets
from .host.analogy_inputs import given_analogy
from .host.checked_node import CheckedNode
from .host.vision_encoder import find_encoder


class AnalogyEncoder(CheckedNode):
    """Route a basis by what its encoder sees in a, a′ and b."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyEncoder",
            display_name="Analogy Encoder",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "before after", "transfer edit", "style transfer"],
            description="Looks at the analogy a : a' :: b : ? and picks the mixture of LoRAs that makes this edit.",
            inputs=[
                shared_inputs.basis(),
                analogy_inputs.analogy("a, a_prime and b"),
                *analogy_inputs.pictures(
                    "The example before the edit. Any size; a batch goes with one of a_prime.",
                    "The picture to edit in the same way. Each picture of a batch gets its own mixture.",
                ),
                shared_inputs.clip_vision(
                    "Load CLIP Vision with the encoder that the basis was trained with, for the published basis "
                    "CLIP ViT-L/14 (openai/clip-vit-large-patch14). If left open, it is loaded from its folder, "
                    "models/clip_vision/clip-vit-large-patch14, or from the Hugging Face cache. A basis routed by the "
                    "layers' own inputs needs none."
                ),
                shared_inputs.choice(
                    "demonstrations",
                    DEMONSTRATIONS,
                    "For several pairs (a, a_prime) and one b: average what the encoder sees in them, or the "
                    "coefficients that each of them gives. On the small world's new pairs of edits five pairs leave "
                    "0.92 and 0.93 of one pair's error so.",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[sockets.Mixture.Output("mixture", tooltip="Mixing coefficients per layer; for Mixed LoRA Apply.")],
        )

    @classmethod
    def execute(
        cls,
        basis: LoRABasis,
        a: Tensor | None = None,
        a_prime: Tensor | None = None,
        b: Tensor | None = None,
        clip_vision=None,
        demonstrations: str = DEMONSTRATIONS[0],
        analogy: Analogy | None = None,
    ) -> io.NodeOutput:
        analogies = given_analogy("Analogy Encoder", analogy, {"a": a, "a_prime": a_prime, "b": b}).triplets
        if not basis.config.external_query:
            return io.NodeOutput(replace(basis.route(None), thumbnails=make_thumbnails(analogies)))
        encoder = find_encoder(basis.config.external_query_model, clip_vision)
        return io.NodeOutput(mix(basis, encoder, analogies, demonstrations))
