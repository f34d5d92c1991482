"""What looks wrong with a run of the sampler, in sentences that name the node to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...lorweb_core import Mixture
from ...lorweb_core.shown_check import find_other

MARK = "lorweb_sampling"
"""Key of the mark among a conditioning's `model_conds`, and so among what the host gives the model in each pass."""

CONDITIONING = "Kontext Extended-Attention Conditioning"

NO_MIXTURE = (
    "No mixture is on the model. Link the model of Mixed LoRA Apply here; without it the picture is Kontext's own, "
    "as is right only to compare, or with an exported LoRA."
)

PIXELS = 8
"""Pixels a side of one value of FLUX.1's latent."""


def notes_of_run(guider, mixtures: Sequence[Mixture] | None, noise: Sequence[int]) -> list[str]:
    """Hold a run against what its conditionings were made for.

    mixtures: those on the model; None where no node put one there. noise: the latent's shape.
    """
    positive, negative = (guider.conds.get(name) or [] for name in ("positive", "negative"))
    marks = [mark for mark in map(_mark, positive) if mark]
    if marks:
        return [*_model(mixtures, marks), *_latent(marks, noise), *_guidance(guider, positive, negative, marks)]
    if mixtures and positive and not any(cond.get("reference_latents") for cond in positive):
        return [f"positive shows the model no analogy. Link positive of {CONDITIONING} to the sampler."]
    return []


def _mark(cond: dict[str, Any]):
    mark = cond.get("model_conds", {}).get(MARK)
    return mark and mark.cond.conditioned


def _model(mixtures: Sequence[Mixture] | None, marks: list) -> Iterator[str]:
    if mixtures is None:
        yield NO_MIXTURE
        return
    for mark in marks:
        other = find_other(mixtures, mark.likenesses)
        if other:
            yield (
                f"The mixture was made of {other} than the model is shown. Link one analogy, or the same pictures, to "
                f"Analogy Encoder and to {CONDITIONING}."
            )


def _latent(marks: list, noise: Sequence[int]) -> Iterator[str]:
    size, wanted = (noise[-1] * PIXELS, noise[-2] * PIXELS), [(mark.size.width, mark.size.height) for mark in marks]
    if size not in wanted:
        yield (
            f"The latent is one of {size[0]}×{size[1]} pixels, but the analogy is sampled at "
            f"{wanted[0][0]}×{wanted[0][1]}. Link latent of {CONDITIONING} to the sampler."
        )
    analogies = len(marks[0].likenesses)
    if noise[0] % analogies:
        yield (
            f"The latent is a batch of {noise[0]}, but {analogies} analogies are shown. Link latent of {CONDITIONING} "
            "to the sampler."
        )


def _guidance(guider, positive: list[dict], negative: list[dict], marks: list) -> Iterator[str]:
    if any("guidance" not in cond for cond in positive):
        yield "No guidance is set, and FLUX takes 3.5. Put FluxGuidance, 2.5 as published, after the prompt."
    cfg = getattr(guider, "cfg", 1.0)
    if cfg <= 1:
        return
    if not all(mark.negative for mark in marks):
        yield (
            f"cfg is {cfg:g}, but {CONDITIONING} has no negative. Set cfg to 1 on the sampler, or link a negative "
            "prompt there."
        )
    elif not all(_mark(cond) for cond in negative):
        yield f"negative shows the model no analogy. Link negative of {CONDITIONING} to the sampler."
