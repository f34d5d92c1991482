"""Keep References: which steps compute the references, and how they are kept for the others."""

from __future__ import annotations

import re

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..lorweb_core import LoRWebError
from ..lorweb_core.errors import shown
from ..lorweb_core.kept_references import Refresh
from .host import shared_inputs
from .host.analogy_sampling import follow_marks
from .host.checked_node import CheckedNode
from .host.flux_layers import check_flux
from .host.reference_run import Keeping

STORED = {"exact": "exact", "8 bits": "int8"}

PLACES = {"GPU": False, "main memory": True}
"""Name → whether that is the main memory."""


class KeepReferences(CheckedNode):
    """Say in which steps FLUX.1 Kontext computes the references, and how they are kept for the others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBKeepReferences",
            display_name="Keep References",
            category="LoRWeB",
            search_aliases=["reference", "cache", "faster", "speed up", "kontext"],
            description="Says in which steps FLUX.1 Kontext computes its reference images. In the others it attends to "
            "what was kept. In place of what speed on Kontext Extended-Attention Conditioning says of references.",
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 Kontext, before or after Mixed LoRA Apply. It is not changed."),
                io.Int.Input(
                    "every",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="The references are computed in every so many steps: 0 in the first only, 1 in each, which "
                    "keeps nothing.",
                ),
                io.String.Input(
                    "shares",
                    default="",
                    optional=True,
                    tooltip="In place of every: in the first step and at these shares of the steps, as 0.25, 0.5.",
                ),
                shared_inputs.choice(
                    "stored",
                    STORED,
                    "exact: as computed, 2.9 GB for the published grid at 1 megapixel in 16 bits. 8 bits: a little "
                    "more than half of that.",
                    optional=True,
                    advanced=True,
                ),
                shared_inputs.choice(
                    "place",
                    PLACES,
                    "GPU: beside the model. main memory: brought to the GPU in each step, for cards with little "
                    "memory. Where there is too little the references are computed in each step, and the log says so.",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The model, which keeps references so.")],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, every: int = 0, shares: str = "", stored: str = "exact", place: str = "GPU"
    ) -> io.NodeOutput:
        check_flux(model, "Keep References is for FLUX.1")
        refresh = Refresh(every, _shares(shares))
        refresh.check()
        keeping = Keeping(
            refresh, shared_inputs.chosen("stored", STORED, stored), shared_inputs.chosen("place", PLACES, place)
        )
        kept = model.clone()
        follow_marks(kept, keeping=keeping)
        return io.NodeOutput(kept)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in re.split(r"[,;\s]+", text) if part)
    except ValueError as error:
        raise LoRWebError(f"shares is {shown(text)}; expected numbers from 0 to below 1, as 0.25, 0.5.") from error
