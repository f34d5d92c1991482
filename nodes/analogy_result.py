from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core.grid import FITS, Size, cut_result, rgb_image
from .extended_attention import FIT_TOOLTIP


class AnalogyResult(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyResult",
            display_name="Analogy Result",
            category="LoRWeB",
            description="Cuts b', the bottom-right quarter, out of the decoded grid.",
            inputs=[
                io.Image.Input("image", tooltip="The decoded grid, from VAE Decode."),
                io.Image.Input(
                    "b", optional=True, tooltip="b as given to the other nodes: b' comes back in its size and shape."
                ),
                io.Combo.Input("fit", options=list(FITS), optional=True, default="stretch", tooltip=FIT_TOOLTIP),
            ],
            outputs=[io.Image.Output("image", tooltip="b'")],
        )

    @classmethod
    def execute(cls, image: Tensor, b: Tensor | None = None, fit: str = "stretch") -> io.NodeOutput:
        size = None if b is None else Size(*rgb_image(b, "b").shape[:2])
        return io.NodeOutput(cut_result(image, size, fit))
