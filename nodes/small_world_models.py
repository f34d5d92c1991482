"""Small World Models: all that a first analogy needs, out of the pack itself."""

from __future__ import annotations

import comfy.clip_vision
import comfy.sd
import torch
from comfy_api.latest import io
from safetensors.torch import load_file

from ..lorweb_core import load_basis
from ..small_world.models.files import SHIPPED
from ..small_world.models.taesd import full_taesd
from .host import sockets
from .host.checked_node import CheckedNode

TEXT_TOKENS, TEXT_WIDTH = 77, 768
"""Size of a prompt of the small world's base, CLIP-L's, as small_world/models/flux.py trains it."""

GUIDANCE = 2.5


class SmallWorldModels(CheckedNode):
    """Load the small world's models, which come with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBSmallWorld",
            display_name="Small World Models",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "try it now", "example", "demo"],
            description="Models to try analogies on without a download: a FLUX.1 of toy size, trained on drawn scenes "
            "of 64 x 64 pixels, with its autoencoder, image encoder and basis of LoRAs. They come with the pack, 9 MB, "
            "and run on a CPU in seconds. They know drawn scenes only, no photographs.",
            inputs=[],
            outputs=[
                io.Model.Output("model", tooltip="The toy FLUX.1, in the place of FLUX.1 Kontext."),
                io.Conditioning.Output(
                    "positive", tooltip="A prompt that says nothing: what to do comes from the example alone."
                ),
                io.Vae.Output("vae", tooltip="Its autoencoder."),
                io.ClipVision.Output("clip_vision", tooltip="The image encoder of its basis."),
                sockets.Basis.Output("basis", tooltip="Its basis: 16 LoRAs of rank 1 for each layer."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        clip_vision = comfy.clip_vision.ClipVisionModel(str(SHIPPED.encoder / "config.json"))
        clip_vision.load_sd(load_file(SHIPPED.encoder / "model.safetensors"))
        return io.NodeOutput(
            comfy.sd.load_diffusion_model(str(SHIPPED.base)),
            silent_prompt(),
            comfy.sd.VAE(sd=full_taesd(load_file(SHIPPED.autoencoder))),
            clip_vision,
            load_basis(SHIPPED.basis, SHIPPED.basis.with_suffix(".yaml")),
        )


def silent_prompt() -> list:
    """Make the CONDITIONING of no words, zeros, with a guidance that the base learned to ignore."""
    values = {"pooled_output": torch.zeros(1, TEXT_WIDTH), "guidance": GUIDANCE}
    return [[torch.zeros(1, TEXT_TOKENS, TEXT_WIDTH), values]]
