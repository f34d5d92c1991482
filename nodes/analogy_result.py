"""Analogy Result: from the decoded grid to b′."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRWebError, Mixture
from ..lorweb_core.analogy import Analogy
from ..lorweb_core.grid import Size
from ..lorweb_core.layout import find_layout
from ..lorweb_core.triplet import rgb_images
from .host import analogy_inputs, shared_inputs
from .host.analogy_inputs import check_no_pictures
from .host.checked_node import CheckedNode
from .host.conditioned import Cut, find_cut, told_behind
from .host.notes import tell
from .host.shared_inputs import SAMPLED


class AnalogyResult(CheckedNode):
    """Cut b′ out of the decoded grid, in b's size and shape where b is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyResult",
            display_name="Analogy Result",
            category="LoRWeB",
            search_aliases=["edit by example", "visual analogy", "crop result", "cut grid"],
            description="Cuts b', the bottom-right cell, out of the decoded grid; b' sampled alone comes in b's size.",
            inputs=[
                io.Image.Input("image", tooltip="What VAE Decode gives, or a batch of it."),
                io.Image.Input(
                    "b", optional=True, tooltip="b as given to the other nodes: b' then has its size and shape."
                ),
                shared_inputs.fit(),
                shared_inputs.layout(),
                shared_inputs.pairs(),
                shared_inputs.sampled(),
                shared_inputs.as_trained(),
                analogy_inputs.analogy("b, fit, layout, pairs and sampled"),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[io.Image.Output("image", tooltip="b', the edited picture.")],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        b: Tensor | None = None,
        fit: str = "stretch",
        layout: str = "grid",
        pairs: int = 1,
        sampled: str = "as trained",
        mixture: Mixture | None = None,
        analogy: Analogy | None = None,
    ) -> io.NodeOutput:
        image, size = rgb_images(image, "image"), None
        if analogy is not None:
            check_no_pictures("Analogy Result", {"b": b})
            b = torch.stack([triplet.b for triplet in analogy.triplets])
            cut = Cut(analogy.fit, analogy.layout, analogy.pairs, analogy.find_sampled(Size(*image.shape[1:3])))
        else:
            chosen = shared_inputs.chosen("sampled", SAMPLED, sampled)
            cut = Cut(fit, layout, pairs, shared_inputs.what_is_sampled(chosen, mixture))
        if b is not None:
            b = rgb_images(b, "b")
            # A latent batch may hold each analogy several times.
            if len(image) % len(b):
                raise LoRWebError(
                    f"{len(image)} images and {len(b)} b's do not match. Give one b, or the b of each image."
                )
            size = Size(*b.shape[1:3])
        result, prompt = _b_prime(image, size, cut), getattr(cls.hidden, "prompt", None)
        conditioned = find_cut("image", prompt)
        if conditioned and conditioned != cut and not torch.equal(_b_prime(image, size, conditioned), result):
            raise LoRWebError(_say_other(cut, conditioned))
        tell("Analogy Result", told_behind("image", prompt))
        return io.NodeOutput(result)


def _b_prime(image: Tensor, b: Size | None, cut: Cut) -> Tensor:
    return find_layout(cut.layout).result(image, b, cut.fit, cut.pairs, cut.sampled)


def _say_other(cut: Cut, conditioned: Cut) -> str:
    other = [name for name in Cut._fields if getattr(cut, name) != getattr(conditioned, name)]
    own, wanted = (", ".join(f"{name} {_shown(each, name)}" for name in other) for each in (cut, conditioned))
    return (
        f"Analogy Result would cut a wrong picture: it has {own}, but Kontext Extended-Attention Conditioning has "
        f"{wanted}. Set the same on Analogy Result, or link one analogy to both."
    )


def _shown(cut: Cut, name: str) -> str:
    value = getattr(cut, name)
    return next(shown for shown, kind in SAMPLED.items() if kind == value) if name == "sampled" else str(value)
