"""Sample an analogy as its conditioning says: b′ alone at its place, and references whose keys and values are kept
between steps. Nothing of it stays on a model between two passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from comfy.conds import CONDConstant
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...lorweb_core import LoRWebError, Mixture
from ...lorweb_core.grid import Size
from ...lorweb_core.layout import ORIGIN, Place
from ...lorweb_core.likeness import Likeness
from .notes import tell, tell_once
from .reference_run import RUN, Keeping, ReferenceRun, WithReferences, check_run, make_room
from .run_notes import MARK, NO_MIXTURE, notes_of_run
from .runtime_injection import count_tokens

KEEPING = "lorweb_keeping"
"""Key in a model's transformer_options of the keeping that takes the place of the mark's."""

MIXTURES = "lorweb_mixtures"
"""Key in a model's transformer_options of the mixtures that are on it."""

WRAPPER = "lorweb-analogy-sampling"
"""Key of what is put around a model's passes and runs, also on models that no mixture is added to at run time."""


NOT_KEPT = Keeping()


class Conditioned(NamedTuple):
    """Hold what a sampler is held against: some kilobytes, and no picture."""

    likenesses: tuple[Likeness, ...]
    """Those of what the model is shown, one for each analogy."""
    size: Size
    """Pixels of what is to be sampled."""
    negative: bool
    """Whether a negative was given."""


@dataclass(frozen=True)  # the host compares tuples only up to the shorter one's length (comfy/conds.py, is_equal)
class AnalogySampling:
    """Say in a conditioning how its analogy is sampled."""

    place: Place = ORIGIN
    keeping: Keeping = NOT_KEPT
    conditioned: Conditioned | None = field(default=None, compare=False)
    """What the sampler is held against; passes do not have it."""


AS_PUBLISHED = AnalogySampling()

_runs: list[ReferenceRun] = []
"""Runs that are sampled now, of models that follow marks."""


class SamplingMark(CONDConstant):
    """Carry an AnalogySampling to the model's passes. The host asks for it in each step, whatever the model."""

    def process_cond(self, *args, **kwargs) -> CONDConstant:
        """Give the mark for a pass. Raises LoRWebError where the model would not follow it, and b' be misplaced."""
        if not _runs:
            if self.cond.place != ORIGIN:
                raise LoRWebError(
                    "b' alone is to be sampled at its place in the grid, but the model in the sampler does not know of "
                    "it. Put Keep References between the model and the sampler (every at 1 keeps nothing), or set "
                    "speed on Kontext Extended-Attention Conditioning to as published."
                )
            tell_once("Sampler", [NO_MIXTURE])
        bare = replace(self.cond, conditioned=None)
        return self._copy_with(AS_PUBLISHED if bare == AS_PUBLISHED else bare)


def mark_conditioning(conditioning: list, sampling: AnalogySampling) -> list:
    """Copy a conditioning with a mark of how it is sampled."""
    return [
        [embedding, {**values, "model_conds": {**values.get("model_conds", {}), MARK: SamplingMark(sampling)}}]
        for embedding, values in conditioning
    ]


def follow_marks(model: ModelPatcher, mixture: Mixture | None = None, keeping: Keeping | None = None) -> None:
    """Let `model`, a clone made for it, sample analogies as their conditionings are marked.

    mixture: one that is on it; None, without a keeping, for one at strength 0. keeping: what is to take the place of
    the marks'.
    Passes without a mark go through as they are.
    """
    options = model.model_options["transformer_options"]
    if keeping is None:
        options[MIXTURES] = (*options.get(MIXTURES, ()), *([mixture] if mixture else []))
    else:
        options[KEEPING] = keeping
    if not model.wrappers.get(WrappersMP.DIFFUSION_MODEL, {}).get(WRAPPER):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, _run)
        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, WRAPPER, _prepare)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, WRAPPER, _forward)


def _run(executor, noise: Tensor, *args, **kwargs) -> Any:
    """Sample with references kept for this run, and let go of them however it ends."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    mixtures = options.get(MIXTURES, ())
    check_run(guider.conds, options, _keepings(guider.conds, options), [mixture.basis for mixture in mixtures])
    tell("Sampler", notes_of_run(guider, options.get(MIXTURES), noise.shape))
    run = options[RUN] = ReferenceRun(guider.model_patcher, _shares(options))
    _runs.append(run)
    try:
        return executor(noise, *args, **kwargs)
    finally:
        _runs.remove(run)
        run.end()
        options.pop(RUN, None)


def _prepare(executor, model: ModelPatcher, noise_shape, conds, model_options=None, *args, **kwargs) -> Any:
    """Load the models with room left for what is kept."""
    options = (model_options or {}).get("transformer_options", {})
    shape = make_room(model, noise_shape, _keepings(conds, options), _shares(options))
    return executor(model, shape, conds, model_options, *args, **kwargs)


def _shares(options: dict) -> bool:
    """Tell whether one mixture is for all that is sampled."""
    return all(mixture.analogies == 1 for mixture in options.get(MIXTURES, ()))


def _keepings(conds: dict[str, list[dict]], options: dict) -> list[WithReferences]:
    """List the conditionings with references to keep: how, and the references."""
    found = []
    for cond in (cond for each in conds.values() for cond in each or ()):
        mark = cond.get("model_conds", {}).get(MARK)
        keeping = options.get(KEEPING, mark.cond.keeping if mark else NOT_KEPT)
        if keeping.refresh.keeps and cond.get("reference_latents"):
            found.append(WithReferences(keeping, cond["reference_latents"]))
    return found


def _forward(
    executor, x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs
) -> Tensor:
    """Take a pass through the model as its conditioning is marked."""
    sampling = kwargs.pop(MARK, AS_PUBLISHED)
    sampling = replace(sampling, keeping=transformer_options.get(KEEPING, sampling.keeping))
    if sampling != AS_PUBLISHED:
        references = count_tokens(executor.class_obj.patch_size, context, ref_latents or ()).references
        transformer_options = _patched(transformer_options, sampling, executor.class_obj, x, ref_latents, references)
    return executor(x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs)


def _patched(options: dict, sampling: AnalogySampling, flux, x: Tensor, ref_latents, references: int) -> dict:
    """Copy a pass's transformer_options with the patches that it needs."""
    run = options.get(RUN)
    kept = run.kept_pass(sampling.keeping, options, flux, x, ref_latents, references) if run and references else None
    dropped = references if kept and kept.served else 0
    place = partial(place_tokens, sampling.place, references, dropped)
    patches = {**options.get("patches", {})}
    patches["post_input"] = [*patches.get("post_input", ()), place]
    options = {**options, "patches": patches}
    if kept:
        options["optimized_attention_override"] = kept.override(options.get("optimized_attention_override"))
    return options


def place_tokens(place: Place, references: int, dropped: int, inputs: dict[str, Any]) -> dict[str, Any]:
    """Move the sampled tokens to their place, and drop so many of the references' last: a `post_input` patch."""
    img, img_ids = inputs["img"], inputs["img_ids"].clone()
    shift = torch.tensor([0, *place], dtype=img_ids.dtype, device=img_ids.device)
    img_ids[:, : img.shape[1] - references] += shift
    last = img.shape[1] - dropped
    return {**inputs, "img": img[:, :last], "img_ids": img_ids[:, :last]}
