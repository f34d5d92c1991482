"""Analogy: pictures and settings that all nodes of one analogy share."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRWebError
from ..lorweb_core.analogy import SHOWN_PAIRS, match_up
from ..lorweb_core.analogy import Analogy as WholeAnalogy
from ..lorweb_core.analogy_notes import align_pairs, look_at
from .host import analogy_inputs, shared_inputs, sockets
from .host.analogy_inputs import SPEEDS
from .host.checked_node import CheckedNode
from .host.notes import tell

MOST_PAIRS = 10
"""Most pairs by sockets of their own; a batch may have more."""


class Analogy(CheckedNode):
    """Gather an analogy's pictures and settings, for all nodes that ask for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogy",
            display_name="Analogy",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "before after", "transfer edit", "style transfer"],
            description="An example before and after its edit, and the picture to edit in the same way. One link "
            "brings them, and how they are shown and sampled, to every node that asks.",
            inputs=[
                io.Image.Input("a", tooltip="The example before the edit. In a batch: one for each b, or several."),
                shared_inputs.a_prime("As many as there are a's."),
                io.Image.Input("b", tooltip="The picture to edit in the same way. A batch is edited in one run."),
                _further("more_a", "a", "A further example of the same edit, before it, of any size."),
                _further("more_a_prime", "a_prime", "The further example of the same number, after its edit."),
                shared_inputs.fit(),
                shared_inputs.layout(),
                analogy_inputs.megapixels(),
                analogy_inputs.speed(),
                analogy_inputs.demonstrations(),
                io.Boolean.Input(
                    "align",
                    default=False,
                    optional=True,
                    tooltip="Where a' is shifted or scaled against a: cut both to what both show. The node says it "
                    "where that seems so. Turned pictures are not found.",
                ),
            ],
            outputs=[sockets.Analogy.Output("analogy", tooltip="For the input analogy of the other nodes.")],
        )

    @classmethod
    def execute(
        cls,
        a: Tensor,
        a_prime: Tensor,
        b: Tensor,
        more_a: dict[str, Tensor] | None = None,
        more_a_prime: dict[str, Tensor] | None = None,
        fit: str = "stretch",
        layout: str = "grid",
        megapixels: float = 1.0,
        speed: str = "as trained",
        demonstrations: str = SHOWN_PAIRS[0],
        align: bool = False,
    ) -> io.NodeOutput:
        sampled, refresh = shared_inputs.chosen("speed", SPEEDS, speed)
        pairs = [(a, a_prime), *_further_pairs(more_a or {}, more_a_prime or {})]
        triplets, cut = match_up(pairs, b), ()
        if align:
            triplets, cut = align_pairs(triplets)
        analogy = WholeAnalogy(triplets, fit, layout, megapixels, sampled, refresh, demonstrations)
        analogy = replace(analogy, notes=(*cut, *look_at(analogy)))
        tell("Analogy", analogy.notes)
        return io.NodeOutput(analogy)


def _further(name: str, each: str, tooltip: str) -> io.Input:
    """Offer sockets that grow as they are linked, numbered from 2."""
    names = [f"{each}_{number}" for number in range(2, MOST_PAIRS + 1)]
    template = io.Autogrow.TemplateNames(io.Image.Input(each, optional=True, tooltip=tooltip), names, min=0)
    return io.Autogrow.Input(name, template, optional=True, tooltip=tooltip)


def _further_pairs(more_a: dict[str, Tensor], more_a_prime: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair up further examples by their numbers. Raises LoRWebError where one is alone."""
    before, after = (
        {int(name.rpartition("_")[2]): image for name, image in more.items()} for more in (more_a, more_a_prime)
    )
    alone = sorted(before.keys() ^ after.keys())
    if alone:
        name = f"a_{alone[0]}" if alone[0] in before else f"a_prime_{alone[0]}"
        raise LoRWebError(f"Analogy has {name}, but nothing that it is a pair with. Link both, or neither.")
    return [(before[number], after[number]) for number in sorted(before)]
