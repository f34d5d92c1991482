"""Analogy Score: which of several results is the best."""

from __future__ import annotations

import json

from comfy_api.latest import io
from torch import Tensor

from ..lorweb_core import LoRABasis, LoRWebError, Mixture, VisionEncoder
from ..lorweb_core.analogy import Analogy
from ..lorweb_core.errors import named
from ..lorweb_core.fitting.expectation import expect
from ..lorweb_core.pictures.score_picture import score_picture
from ..lorweb_core.score import RANK_BY, Score, one_analogy, rank, score
from ..lorweb_core.triplet import each_image
from .host import analogy_inputs, shared_inputs
from .host.analogy_inputs import check_linked
from .host.checked_node import CheckedNode
from .host.previews import with_picture
from .host.training_model import HostBase, HostEncoders
from .host.vision_encoder import encoder_from_clip_vision, find_encoder

NOTHING_TO_KEEP = -1.0
"""What stands for None in a FLOAT socket, which cannot carry it: no score is below 0."""


class AnalogyScore(CheckedNode):
    """Rank results by how they follow the example and keep the rest of b."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyScore",
            display_name="Analogy Score",
            category="LoRWeB",
            search_aliases=["compare", "rank results", "best of seeds", "visual analogy"],
            description="Ranks results b' of one analogy, from several seeds or mixtures: does the edit follow the "
            "example's, and is the rest of b still there?",
            is_input_list=True,
            is_output_node=True,  # what it shows is worth a run with nothing behind it
            inputs=[
                shared_inputs.basis(more="Its encoder compares the edits."),
                analogy_inputs.analogy("a, a_prime and b"),
                *analogy_inputs.pictures(
                    "The example before the edit. With several pairs, the mean of their edits counts.",
                    "The one picture that was edited.",
                ),
                io.Image.Input("b_prime", tooltip="The results to rank, from Analogy Result: a batch or a list."),
                shared_inputs.clip_vision(
                    "As for the Analogy Encoder: the encoder that the basis was trained with. If left open, it is "
                    "loaded from its folder. A basis routed by the layers' own inputs has none: connect any here."
                ),
                shared_inputs.choice(
                    "rank_by",
                    RANK_BY,
                    "both: follows times kept. Where the pair changes everything there is nothing to keep, and "
                    "follows alone counts. expected: the nearest to what the model expects and to the results' mean; "
                    "without model, vae, positive and mixture to their mean alone, which takes three results or more. "
                    "In the small world it chooses best, but for edits unlike any that a basis learned.",
                    optional=True,
                ),
                shared_inputs.theme(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For expected: FLUX.1 Kontext as Mixed LoRA Apply takes it, without a mixture on it. One "
                    "forward pass.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For expected: FLUX.1's autoencoder (ae.safetensors)."),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="For expected: the prompt that the results were made with."
                ),
                shared_inputs.mixture(more="For expected: the mixture that the results were made with.", optional=True),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The b' that ranks first, as it was given."),
                io.Float.Output(
                    "follows",
                    tooltip="The best result's cosine between what the edit does to the embedding of a and of b: 1 for "
                    "the same edit, 0 for no edit or an unrelated one, -1 for the opposite.",
                ),
                io.Float.Output(
                    "kept",
                    tooltip="The best result's 1 - mean difference from b where the pair shows no change: 1 if that "
                    "is untouched. -1, which is not a score, if the pair changes everything and nothing can be kept.",
                ),
                io.Image.Output("image", tooltip="The picture that the node shows: all results, ranked."),
                io.String.Output(
                    "json",
                    tooltip="The scores of all in the order given, and the ranking: their positions from 0, best "
                    "first. kept is null where nothing can be kept; distance is the mean squared difference from what "
                    "is expected.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        basis: list[LoRABasis],
        a: list[Tensor] | None = None,
        a_prime: list[Tensor] | None = None,
        b: list[Tensor] | None = None,
        b_prime: list[Tensor] | tuple[Tensor, ...] = (),
        clip_vision: list | tuple = (None,),
        rank_by: list[str] | tuple[str, ...] = RANK_BY[:1],
        theme: list[str] | tuple[str, ...] = ("dark",),
        analogy: list[Analogy | None] | tuple[None] = (None,),
        model: list | tuple = (None,),
        vae: list | tuple = (None,),
        positive: list | tuple = (None,),
        mixture: list[Mixture | None] | tuple[None] = (None,),
    ) -> io.NodeOutput:
        check_linked("Analogy Score", analogy[0], {"a": a, "a_prime": a_prime, "b": b})
        if analogy[0] is not None:
            a, a_prime = map(list, zip(*analogy[0].all_pairs, strict=True))
            b = [triplet.b for triplet in analogy[0].triplets]
        encoder = _encoder(basis[0], clip_vision[0])
        shown = one_analogy(a, a_prime, b)
        expected = _expected(model[0], vae[0], positive[0], mixture[0], shown.b, analogy[0])
        scores = score(encoder, a, a_prime, b, b_prime, expected)
        ranking = rank(scores, rank_by[0])
        results = each_image(b_prime, "b_prime")
        picture = score_picture(shown, results, scores, ranking, theme[0])[None]
        best = scores[ranking[0]]
        return with_picture(
            cls,
            picture,
            results[ranking[0]][None],
            best.follows,
            NOTHING_TO_KEEP if best.kept is None else best.kept,
            picture,
            _json(scores, ranking, rank_by[0]),
        )


def _encoder(basis: LoRABasis, clip_vision) -> VisionEncoder:
    if basis.config.external_query:
        return find_encoder(basis.config.external_query_model, clip_vision)
    if clip_vision is None:
        raise LoRWebError(
            f"{named(basis.name)} routes by the layers' own inputs and has no image encoder to compare edits with. "
            "Connect Load CLIP Vision to clip_vision, e.g. with openai/clip-vit-large-patch14."
        )
    return encoder_from_clip_vision(clip_vision)


def _expected(
    model, vae, positive: list | None, mixture: Mixture | None, b: Tensor, analogy: Analogy | None
) -> Tensor | None:
    given = {"model": model, "vae": vae, "positive": positive, "mixture": mixture}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise LoRWebError(
            f"Analogy Score has no {' and no '.join(missing)}. What the model expects takes model, vae, positive and "
            "mixture: link all four, or none to compare the results with one another."
        )
    encoders = HostEncoders(model, vae, positive)
    base = HostBase(model, vae, guidance=float(positive[0][1].get("guidance", 3.5)))
    return expect(base, encoders, mixture, b, analogy.megapixels if analogy else Analogy.megapixels)


def _json(scores: list[Score], ranking: list[int], rank_by: str) -> str:
    each = [{"follows": s.follows, "kept": s.kept, "total": s.total, "distance": s.distance} for s in scores]
    return json.dumps({"rank_by": rank_by, "ranking": ranking, "scores": each}, indent=1)
