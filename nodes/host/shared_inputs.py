"""Inputs that several nodes have."""

from __future__ import annotations

from comfy_api.latest import io

from ...lorweb_core.layer_names import KINDS, STREAMS
from ...lorweb_core.pictures.canvas import THEMES


def layers(verb: str) -> list:
    """blocks, kind and stream: which layers are meant, as `layer_names.select` takes them; verb: 'change'."""
    return [
        io.String.Input(
            "blocks",
            default="all",
            optional=True,
            tooltip=f"The blocks to {verb}: all, double, single 20-37, or double 0-3, single 5.",
        ),
        io.Combo.Input(
            "kind",
            options=["all", *KINDS],
            default="all",
            optional=True,
            tooltip=f"The layers to {verb}, by what they do.",
        ),
        io.Combo.Input(
            "stream",
            options=["all", *STREAMS],
            default="all",
            optional=True,
            tooltip=f"The layers to {verb}, by what goes through them: double blocks have a stream for the image and "
            "one for the text, single blocks one for both.",
        ),
    ]


def theme():
    """Of the picture that a node shows."""
    return io.Combo.Input(
        "theme",
        options=list(THEMES),
        default="dark",
        optional=True,
        tooltip="Colours of the picture: dark as ComfyUI, or light as paper.",
    )
