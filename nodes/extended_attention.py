from __future__ import annotations

import comfy.model_management
import node_helpers
import nodes  # the host's, not this folder
import torch
from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core.grid import FITS, Size, grid_sizes, reference_grid, rgb_image

# FLUX's autoencoder.
LATENT_CHANNELS = 16
DOWNSCALE = 8

FIT_TOOLTIP = (
    "Where shapes differ from a's. stretch: resized to a's shape, as published. pad: black borders. crop: the middle. "
    "Set the same on Kontext Extended-Attention Conditioning and Analogy Result."
)


class ExtendedAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBExtendedAttention",
            display_name="Kontext Extended-Attention Conditioning",
            category="LoRWeB",
            description="Shows FLUX.1 Kontext the grid [a a'; b b] as reference; the grid it samples ends in b'.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, e.g. from CLIP Text Encode and FluxGuidance."),
                io.Vae.Input("vae", tooltip="FLUX.1's autoencoder (ae.safetensors)."),
                io.Image.Input("a", tooltip="The example before the edit. The grid takes its shape."),
                io.Image.Input("a_prime", tooltip="The same example after the edit."),
                io.Image.Input("b", tooltip="The picture to edit in the same way."),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.01,
                    max=16.0,
                    step=0.01,
                    tooltip="Size of the whole grid in 1024 × 1024 pixels; b' is a quarter of it. 1.0 as published.",
                ),
                io.Combo.Input("fit", options=list(FITS), optional=True, default="stretch", tooltip=FIT_TOOLTIP),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Gets the same reference, for samplers with CFG above 1."
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="As given, with the reference."),
                io.Conditioning.Output(
                    "negative", tooltip="As given, with the reference. Without one: the positive zeroed out, for CFG 1."
                ),
                io.Latent.Output("latent", tooltip="Empty, of the grid's size; for the sampler."),
                io.Image.Output("grid", tooltip="The reference grid, to look at."),
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
    ) -> io.NodeOutput:
        a, a_prime, b = rgb_image(a, "a"), rgb_image(a_prime, "a_prime"), rgb_image(b, "b")
        sampled, reference = grid_sizes(Size(*a.shape[:2]), megapixels)
        grid = reference_grid(a, a_prime, b, sampled, reference, fit)[None]
        values = {"reference_latents": [vae.encode(grid)]}
        latent = torch.zeros(
            (1, LATENT_CHANNELS, sampled.height // DOWNSCALE, sampled.width // DOWNSCALE),
            device=comfy.model_management.intermediate_device(),
        )
        if negative is None:
            (negative,) = nodes.ConditioningZeroOut().zero_out(positive)
        return io.NodeOutput(
            node_helpers.conditioning_set_values(positive, values, append=True),
            node_helpers.conditioning_set_values(negative, values, append=True),
            {"samples": latent},
            grid,
        )
