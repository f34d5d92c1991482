from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRABasis
from ..lorweb_core.demonstrations import DEMONSTRATIONS, mix
from ..lorweb_core.pictures.thumbnails import make_thumbnails
from ..lorweb_core.triplet import triplets
from .host import sockets
from .host.checked_node import CheckedNode
from .host.vision_encoder import find_encoder


class AnalogyEncoder(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyEncoder",
            display_name="Analogy Encoder",
            category="LoRWeB",
            description="Looks at the analogy a : a' :: b : ? and picks the mixture of LoRAs that makes this edit.",
            inputs=[
                sockets.Basis.Input("basis", tooltip="From the LoRWeB Basis Loader."),
                io.Image.Input("a", tooltip="The example before the edit. Any size; a batch goes with one of a_prime."),
                io.Image.Input("a_prime", tooltip="The same example after the edit."),
                io.Image.Input(
                    "b", tooltip="The picture to edit in the same way. Of a batch each gets a mixture of its own."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Load CLIP Vision with the encoder that the basis was trained with, as published CLIP "
                    "ViT-L/14 (openai/clip-vit-large-patch14). Left open, it is loaded from its folder, "
                    "models/clip_vision/clip-vit-large-patch14, or the Hugging Face cache. A basis routed by the "
                    "layers' own inputs needs none.",
                ),
                io.Combo.Input(
                    "demonstrations",
                    options=list(DEMONSTRATIONS),
                    optional=True,
                    default=DEMONSTRATIONS[0],
                    tooltip="For several pairs (a, a_prime) and one b: average what the encoder sees in them, or the "
                    "coefficients that each of them gives.",
                ),
            ],
            outputs=[sockets.Mixture.Output("mixture", tooltip="Mixing coefficients per layer; for Mixed LoRA Apply.")],
        )

    @classmethod
    def execute(
        cls,
        basis: LoRABasis,
        a: Tensor,
        a_prime: Tensor,
        b: Tensor,
        clip_vision=None,
        demonstrations: str = DEMONSTRATIONS[0],
    ) -> io.NodeOutput:
        analogies = triplets(a, a_prime, b)
        if not basis.config.external_query:
            return io.NodeOutput(replace(basis.route(None), thumbnails=make_thumbnails(analogies)))
        encoder = find_encoder(basis.config.external_query_model, clip_vision)
        return io.NodeOutput(mix(basis, encoder, analogies, demonstrations))
