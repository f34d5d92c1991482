from __future__ import annotations

import json

from comfy_api.latest import io, ui
from torch import Tensor

from ..lorweb_core import LoRABasis, LoRWebError, VisionEncoder
from ..lorweb_core.errors import named
from ..lorweb_core.pictures.score_picture import score_picture
from ..lorweb_core.score import RANK_BY, Score, one_analogy, rank, score
from ..lorweb_core.triplet import each_image
from .host import shared_inputs, sockets
from .host.checked_node import CheckedNode
from .host.vision_encoder import encoder_from_clip_vision, find_encoder

NOTHING_TO_KEEP = -1.0
"""Stands for None in a FLOAT socket, which cannot carry it: no score is below 0."""


class AnalogyScore(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRWeBAnalogyScore",
            display_name="Analogy Score",
            category="LoRWeB",
            description="Ranks results b' of one analogy, of several seeds or mixtures: does the edit follow the "
            "example's, and is the rest of b still there?",
            is_input_list=True,
            is_output_node=True,  # what it shows is worth a run with nothing behind it
            inputs=[
                sockets.Basis.Input("basis", tooltip="From the LoRWeB Basis Loader: its encoder compares the edits."),
                io.Image.Input(
                    "a", tooltip="The example before the edit. Of several pairs the mean of their edits counts."
                ),
                io.Image.Input("a_prime", tooltip="The same example after the edit."),
                io.Image.Input("b", tooltip="The picture that was edited, one."),
                io.Image.Input("b_prime", tooltip="The results to rank, from Analogy Result: a batch or a list."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="As for the Analogy Encoder: the encoder that the basis was trained with; left open, it is "
                    "loaded from its folder. A basis routed by the layers' own inputs has none: connect any here.",
                ),
                io.Combo.Input(
                    "rank_by",
                    options=list(RANK_BY),
                    optional=True,
                    default=RANK_BY[0],
                    tooltip="both: follows times kept. Where the pair changes everything there is nothing to keep, and "
                    "follows alone counts.",
                ),
                shared_inputs.theme(),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The b' that ranks first, as it was given."),
                io.Float.Output(
                    "follows",
                    tooltip="Of the best: cosine between what the edit does to the embedding of a and of b. 1 the "
                    "same edit, 0 no edit or an unrelated one, -1 the opposite.",
                ),
                io.Float.Output(
                    "kept",
                    tooltip="Of the best: 1 - mean difference from b where the pair shows no change. 1 untouched. "
                    "-1, which is no score, where the pair changes everything and nothing can be kept.",
                ),
                io.Image.Output("image", tooltip="The picture that the node shows: all results, ranked."),
                io.String.Output(
                    "json",
                    tooltip="Scores of all in the order given, and ranking: their positions from 0, the best first. "
                    "kept is null where nothing can be kept.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        basis: list[LoRABasis],
        a: list[Tensor],
        a_prime: list[Tensor],
        b: list[Tensor],
        b_prime: list[Tensor],
        clip_vision: list | tuple = (None,),
        rank_by: list[str] | tuple[str, ...] = RANK_BY[:1],
        theme: list[str] | tuple[str, ...] = ("dark",),
    ) -> io.NodeOutput:
        encoder = _encoder(basis[0], clip_vision[0])
        scores = score(encoder, a, a_prime, b, b_prime)
        ranking = rank(scores, rank_by[0])
        results = each_image(b_prime, "b_prime")
        picture = score_picture(one_analogy(a, a_prime, b), results, scores, ranking, theme[0])[None]
        best = scores[ranking[0]]
        return io.NodeOutput(
            results[ranking[0]][None],
            best.follows,
            NOTHING_TO_KEEP if best.kept is None else best.kept,
            picture,
            _json(scores, ranking, rank_by[0]),
            ui=ui.PreviewImage(picture, cls=cls),
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


def _json(scores: list[Score], ranking: list[int], rank_by: str) -> str:
    each = [{"follows": s.follows, "kept": s.kept, "total": s.total} for s in scores]
    return json.dumps({"rank_by": rank_by, "ranking": ranking, "scores": each}, indent=1)
