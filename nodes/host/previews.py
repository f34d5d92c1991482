"""What a node shows of its result on itself."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...lorweb_core import Mixture
from ...lorweb_core.pictures.thumbnails import contact_sheet

RESENT = {"has_intermediate_output": True} if "has_intermediate_output" in io.Schema.__dataclass_fields__ else {}
"""Schema arguments that have a cached node's result shown again; none in hosts that cannot."""


def with_picture(node: type[io.ComfyNode], image: Tensor, *outputs) -> io.NodeOutput:
    """Give a node's outputs, and show pictures (n, H, W, 3) in 0–1 on it."""
    return io.NodeOutput(*outputs, ui=ui.PreviewImage(image, cls=node))


def with_thumbnails(node: type[io.ComfyNode], mixture: Mixture, output) -> io.NodeOutput:
    """Give a node's output, and show on it the pictures that the mixture was made of, if it has any."""
    if not mixture.thumbnails:
        return io.NodeOutput(output)
    return with_picture(node, contact_sheet(mixture.thumbnails)[None], output)


def with_widget_data(data: dict, *outputs) -> io.NodeOutput:
    """Give a node's outputs, and to the pack's own widget on it what strict JSON can hold."""
    return io.NodeOutput(*outputs, ui={"lorweb": [data]})
