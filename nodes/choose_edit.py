"""Choose Edit: what is taken over of an example that shows more than one change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRABasis, LoRWebError, Mixture
from ..lorweb_core.analogy import Analogy
from ..lorweb_core.choosing import LITTLE_LEFT, choose_part_of, route_apart, share_left, without
from ..lorweb_core.errors import named
from ..lorweb_core.fitting.fit import checked_start
from ..lorweb_core.fitting.settings import FitSettings
from ..lorweb_core.pictures.strip import strip
from ..lorweb_core.pictures.thumbnails import make_thumbnails
from ..lorweb_core.triplet import image_pairs
from .host import analogy_inputs, shared_inputs, sockets
from .host.analogy_inputs import given_analogy
from .host.checked_node import CheckedNode
from .host.fit_run import fit_on_node
from .host.notes import tell
from .host.previews import with_picture
from .host.vision_encoder import find_encoder

NODE = "Choose Edit"


class ChooseEdit(CheckedNode):
    """Take over one of the changes that an example shows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBChooseEdit",
            display_name=NODE,
            category="LoRWeB",
            search_aliases=["mask edit", "part of an edit", "remove edit", "edit by example", "visual analogy"],
            description="For an example that shows more than one change: takes over what is under a mask, or all but "
            "what a second pair shows.",
            inputs=[
                shared_inputs.basis(),
                analogy_inputs.analogy("a, a_prime and b"),
                *analogy_inputs.pictures(
                    "The example before the edits.", "The picture to edit.", "It shows more than is wanted."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="On a': where the change is that is wanted; elsewhere the example is taken to be a. One "
                    "for all pairs, or one for each. It is stretched to a's size.",
                ),
                io.Float.Input(
                    "softness",
                    optional=True,
                    default=0.02,
                    min=0.0,
                    max=0.5,
                    step=0.005,
                    tooltip="Blur of the mask's edge, as a share of the picture's shorter side.",
                ),
                io.Image.Input(
                    "unwanted_a",
                    optional=True,
                    tooltip="A picture before a change that is not wanted; in a batch, several changes.",
                ),
                io.Image.Input(
                    "unwanted_a_prime", optional=True, tooltip="The same picture after the change that is not wanted."
                ),
                shared_inputs.clip_vision("As for the Analogy Encoder. If left open, it is loaded from its folder."),
                io.Int.Input(
                    "fit_steps",
                    optional=True,
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="0: the encoder's mixtures. More: each is first fitted to its pair in so many steps, as "
                    "Fit Mixture does, which needs model, vae and positive. In the small world 20 steps helped with a "
                    "mask, and made it worse with an unwanted pair.",
                ),
                io.Model.Input("model", optional=True, tooltip="To fit: FLUX.1 Kontext. It is not changed."),
                io.Vae.Input("vae", optional=True, tooltip="To fit: FLUX.1's autoencoder."),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="To fit: the prompt that the mixture will be used with."
                ),
            ],
            outputs=[
                sockets.Mixture.Output("mixture", tooltip="Of the chosen change alone, for Mixed LoRA Apply."),
                sockets.Analogy.Output(
                    "analogy", tooltip="With the masked example in it; as given where there is no mask."
                ),
                io.Image.Output("a_prime", tooltip="The examples as they are then taken to be, after the edit."),
                io.Image.Output("image", tooltip="The picture that the node shows."),
            ],
        )

    @classmethod
    def execute(
        cls,
        basis: LoRABasis,
        analogy: Analogy | None = None,
        a: Tensor | None = None,
        a_prime: Tensor | None = None,
        b: Tensor | None = None,
        mask: Tensor | None = None,
        softness: float = 0.02,
        unwanted_a: Tensor | None = None,
        unwanted_a_prime: Tensor | None = None,
        clip_vision=None,
        fit_steps: int = 0,
        model=None,
        vae=None,
        positive: list | None = None,
    ) -> io.NodeOutput:
        whole = given_analogy(NODE, analogy, {"a": a, "a_prime": a_prime, "b": b})
        unwanted = _unwanted_pairs(unwanted_a, unwanted_a_prime)
        settings = _fit_settings(fit_steps, whole, model, vae, positive)
        chosen = whole if mask is None else choose_part_of(whole, mask, softness)
        if mask is None and not unwanted:
            tell(NODE, ["Nothing is chosen: link a mask, or a pair that shows what is not wanted."])
        mixtures = _route(basis, clip_vision, chosen, unwanted)
        if settings:
            pairs = [chosen.all_pairs, *([pair] for pair in unwanted)]
            mixtures = [
                fit_on_node(model, vae, positive, _start(mixture), list(each), settings).mixture
                for mixture, each in zip(mixtures, pairs, strict=True)
            ]
        mixture = without(mixtures[0], mixtures[1:])
        if unwanted:
            _tell_share(share_left(mixture, mixtures[0]))
        picture = _picture(whole, chosen, unwanted, mask is not None)
        return with_picture(cls, picture, mixture, chosen, _after(chosen), picture)


def _unwanted_pairs(a: Tensor | None, a_prime: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    if (a is None) != (a_prime is None):
        name = "unwanted_a_prime" if a_prime is None else "unwanted_a"
        raise LoRWebError(f"{NODE} has no {name}. An unwanted change is shown by a pair: link both, or neither.")
    return [] if a is None else image_pairs(a, a_prime)


def _fit_settings(steps: int, analogy: Analogy, model, vae, positive: list | None) -> FitSettings | None:
    """Make the settings of a fit; None where there is to be none. Raises LoRWebError if something for it is missing."""
    if not steps:
        return None
    missing = [name for name, value in {"model": model, "vae": vae, "positive": positive}.items() if value is None]
    if missing:
        raise LoRWebError(f"{NODE} has no {' and no '.join(missing)} to fit with. Link them, or set fit_steps to 0.")
    return FitSettings(steps=steps, megapixels=analogy.megapixels, preview_every=steps)


def _route(basis: LoRABasis, clip_vision, analogy: Analogy, unwanted: Sequence[tuple[Tensor, Tensor]]) -> list[Mixture]:
    """Route for the analogy, and for each unwanted pair."""
    if basis.config.external_query:
        encoder = find_encoder(basis.config.external_query_model, clip_vision)
        mixture, others = route_apart(basis, encoder, analogy.triplets, unwanted)
        return [mixture, *others]
    if unwanted:
        raise LoRWebError(
            f"{named(basis.name)} routes by each layer's own input: it has no coefficients that an unwanted edit could "
            "be taken out of. Choose by a mask."
        )
    return [replace(basis.route(None), thumbnails=make_thumbnails(analogy.triplets))]


def _start(mixture: Mixture) -> Mixture:
    """Take what a fit begins at: of a batch the mean, as one edit is fitted for all b's."""
    if mixture.coefficients and mixture.analogies > 1:
        origin = mixture.origin.with_table(mixture.origin.table.mean(1))
        mixture = replace(mixture.with_table(mixture.table.mean(1)), origin=origin)
    return checked_start(mixture.basis, mixture)


def _tell_share(left: float) -> None:
    if left < LITTLE_LEFT:
        tell(
            NODE,
            [
                f"Without the unwanted pairs' edits {left:.0%} of the example's is left. If they show the change that "
                "is wanted, give others."
            ],
        )


def _after(analogy: Analogy) -> Tensor:
    """Give the first pair's a' for each b, as a batch, or where all b's have the same one, that."""
    after = [triplet.pairs[0][1] for triplet in analogy.triplets]
    alike = all(torch.equal(image, after[0]) for image in after[1:])
    return after[0][None] if alike else torch.stack(after)


def _picture(whole: Analogy, chosen: Analogy, unwanted: Sequence[tuple[Tensor, Tensor]], masked: bool) -> Tensor:
    a, a_prime = whole.triplets[0].pairs[0]
    images, captions = [a, a_prime], ["a", "a'"]
    if masked:
        images, captions = [*images, chosen.triplets[0].pairs[0][1]], [*captions, "a' as chosen"]
    for pair in unwanted:
        images, captions = [*images, *pair], [*captions, "without:", "this change"]
    return strip(images, captions)[None]
