"""Mixture Blend: sums of mixtures, and the line to them."""

from __future__ import annotations

from comfy_api.latest import io

from ..lorweb_core import Mixture
from ..lorweb_core.space.blend import ORIGINS, SPACES, blend, sweep
from ..lorweb_core.space.mixture_map import mixture_view
from .host import shared_inputs, sockets
from .host.checked_node import CheckedNode
from .host.previews import RESENT, with_widget_data
from .host.progress import progress_bar

SLOTS = (1, 2, 3, 4)


class MixtureBlend(CheckedNode):
    """Blend up to four mixtures of one basis."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBMixtureBlend",
            display_name="Mixture Blend",
            category="LoRWeB/mixtures",
            search_aliases=["lora mix", "blend loras", "combine edits", "interpolate"],
            description="Blends mixtures of one basis: half of this edit, twice that one, or one without the other. "
            "For more than four, blend blends.",
            inputs=[
                *(shared_inputs.mixture(f"mixture_{slot}", optional=slot > 1) for slot in SLOTS),
                *(
                    io.Float.Input(
                        f"weight_{slot}",
                        default=1.0 if slot == 1 else 0.0,
                        min=-3.0,
                        max=3.0,
                        step=0.05,
                        display_mode=io.NumberDisplay.slider,
                        tooltip=f"How much of mixture_{slot}: 1 as it is, 0 none, negative its opposite.",
                    )
                    for slot in SLOTS
                ),
                shared_inputs.choice(
                    "space",
                    SPACES,
                    "coefficients: the changes that the mixtures make add up. logits: blend before softmax or tanh, "
                    "so that the result is still one that the encoder can give.",
                ),
                io.Int.Input(
                    "steps",
                    default=5,
                    min=2,
                    max=64,
                    tooltip="How many mixtures the sweep has, from mixture_1 alone to the blend.",
                ),
                shared_inputs.origin("weights count"),
            ],
            outputs=[
                sockets.Mixture.Output("mixture", tooltip="The blend, for Mixed LoRA Apply."),
                sockets.Mixture.Output(
                    "sweep",
                    is_output_list=True,
                    tooltip="Mixtures on the line from mixture_1 alone to the blend: what follows runs once for each.",
                ),
            ],
            **RESENT,
        )

    @classmethod
    def execute(
        cls, space: str = "coefficients", steps: int = 5, origin: str = ORIGINS[0], **slots: Mixture | float
    ) -> io.NodeOutput:
        given = [slot for slot in SLOTS if slots.get(f"mixture_{slot}") is not None]
        mixtures = [slots[f"mixture_{slot}"] for slot in given]
        weights = [slots[f"weight_{slot}"] for slot in given]
        outputs = blend(mixtures, weights, space, origin), sweep(mixtures, weights, steps, space, origin)
        view = mixture_view(mixtures, origin, progress_bar(len(mixtures[0].basis.layers)))
        return with_widget_data(view, *outputs)
