from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRWebError
from ..lorweb_core.grid import FITS, Size
from ..lorweb_core.layout import LAYOUTS, find_layout
from ..lorweb_core.triplet import rgb_images
from .extended_attention import FIT_TOOLTIP, LAYOUT_TOOLTIP, PAIRS_TOOLTIP
from .host.checked_node import CheckedNode


class AnalogyResult(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyResult",
            display_name="Analogy Result",
            category="LoRWeB",
            description="Cuts b', the bottom-right cell, out of the decoded grid.",
            inputs=[
                io.Image.Input("image", tooltip="The decoded grid, from VAE Decode; or a batch of them."),
                io.Image.Input(
                    "b", optional=True, tooltip="b as given to the other nodes: b' comes back in its size and shape."
                ),
                io.Combo.Input("fit", options=list(FITS), optional=True, default="stretch", tooltip=FIT_TOOLTIP),
                io.Combo.Input("layout", options=list(LAYOUTS), optional=True, default="grid", tooltip=LAYOUT_TOOLTIP),
                io.Int.Input("pairs", optional=True, default=1, min=1, tooltip=PAIRS_TOOLTIP),
            ],
            outputs=[io.Image.Output("image", tooltip="b'")],
        )

    @classmethod
    def execute(
        cls, image: Tensor, b: Tensor | None = None, fit: str = "stretch", layout: str = "grid", pairs: int = 1
    ) -> io.NodeOutput:
        image, size = rgb_images(image, "image"), None
        if b is not None:
            b = rgb_images(b, "b")
            # A latent batch may hold each analogy several times.
            if len(image) % len(b):
                raise LoRWebError(
                    f"{len(image)} images and {len(b)} b's do not fit together. Give one b, or the b of each image."
                )
            size = Size(*b.shape[1:3])
        return io.NodeOutput(find_layout(layout).result(image, size, fit, pairs))
