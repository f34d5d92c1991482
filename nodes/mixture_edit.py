"""Mixture Edit: temperature, mute and solo, keep, renormalize, scale."""

from __future__ import annotations

from comfy_api.latest import io

from ..lorweb_core import Mixture
from ..lorweb_core.space.edit import Edit, edit
from ..lorweb_core.space.mixture_map import mixture_view
from .host import shared_inputs, sockets
from .host.checked_node import CheckedNode
from .host.previews import RESENT, with_widget_data
from .host.progress import progress_bar

KEEP = ("all", "top k", "top p")


class MixtureEdit(CheckedNode):
    """Change the coefficients of a mixture in the layers chosen."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBMixtureEdit",
            display_name="Mixture Edit",
            category="LoRWeB/mixtures",
            search_aliases=["lora mix", "mute lora", "lora weights", "block weights"],
            description="Changes a mixture in the layers chosen, in this order: temperature, mute and solo, keep, "
            "renormalize, scale, and factors of single LoRAs. Chain several for several changes.",
            inputs=[
                shared_inputs.mixture(),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.05,
                    tooltip="Below 1 the LoRAs with the largest coefficients win, above 1 all become alike.",
                ),
                io.String.Input("mute", default="", tooltip="LoRAs to leave out, by index: 3, 8-11."),
                io.String.Input("solo", default="", tooltip="The only LoRAs to keep, by index: 3, 8-11."),
                shared_inputs.choice(
                    "keep",
                    KEEP,
                    "What to keep in each layer: all coefficients, the top_k largest, or the fewest that make up the "
                    "share top_p of their sum.",
                ),
                io.Int.Input("top_k", default=4, min=1, max=4096, tooltip="How many to keep with keep at top k."),
                io.Float.Input(
                    "top_p", default=0.9, min=0.01, max=1.0, step=0.01, tooltip="The share to keep with keep at top p."
                ),
                io.Boolean.Input(
                    "renormalize",
                    default=False,
                    tooltip="Scale what is kept to the sum before mute, solo and keep.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="How much of it: 1 leaves it as it is.",
                ),
                *shared_inputs.layers("change"),
                shared_inputs.origin("scale counts"),
                io.String.Input(
                    "factors",
                    default="",
                    optional=True,
                    tooltip="Factors of single LoRAs beside scale, by index: 3: 0, 8-11: 1.5. The bars in the node "
                    "write them.",
                ),
            ],
            outputs=[sockets.Mixture.Output("mixture", tooltip="The changed mixture, for Mixed LoRA Apply.")],
            **RESENT,
        )

    @classmethod
    def execute(cls, mixture: Mixture, keep: str = "all", top_k: int = 4, top_p: float = 0.9, **change):
        largest = {"top k": {"top_k": top_k}, "top p": {"top_p": top_p}}.get(keep, {})
        edited = edit(mixture, Edit(**change, **largest))
        return with_widget_data(mixture_view([mixture], progress=progress_bar(len(mixture.basis.layers))), edited)
