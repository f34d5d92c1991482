"""Mixture Inspector: a mixture as a picture and as numbers."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..lorweb_core import Mixture
from ..lorweb_core.pictures.inspection_picture import inspection_picture
from ..lorweb_core.space.inspection import inspect_batch
from .host import shared_inputs, sockets
from .host.checked_node import CheckedNode
from .host.previews import with_picture
from .host.progress import progress_bar


class MixtureInspector(CheckedNode):
    """Show which LoRAs a mixture chooses, and how much each of them changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBMixtureInspector",
            display_name="Mixture Inspector",
            category="LoRWeB/mixtures",
            search_aliases=["lora mix", "compare", "show coefficients"],
            description="Shows which LoRAs a mixture chooses in which layers, how much each of them changes, and how "
            "it differs from another mixture.",
            inputs=[
                shared_inputs.mixture(more="Each analogy of a batch gets a picture."),
                sockets.Mixture.Input(
                    "compare_with",
                    optional=True,
                    tooltip="A mixture of the same basis to show beside it, with their difference and cosine.",
                ),
                shared_inputs.theme(),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The picture; for a batch, one for each analogy."),
                io.String.Output("json", tooltip="All its numbers; for a batch, a list with one entry for each."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, mixture: Mixture, compare_with: Mixture | None = None, theme: str = "dark") -> io.NodeOutput:
        inspections = inspect_batch(mixture, compare_with, progress_bar(len(mixture.basis.layers)))
        image = torch.stack([inspection_picture(inspection, theme) for inspection in inspections])
        described = [inspection.to_json() for inspection in inspections]
        json = described[0] if len(described) == 1 else f"[{', '.join(described)}]"
        return with_picture(cls, image, image, json)
