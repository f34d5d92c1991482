"""Change a FLUX transformer's forward passes for one run of sampling: b' at its place, and references left out.

Nothing of it stays on the transformer after the run, however it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..kept_references import KeptReferences, Refresh
from ..layout import Place
from .keeping_attention import KeepingAttention

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

log = logging.getLogger(__name__)


class Passes:
    """Change the forward passes of one run, each of text, noise and reference tokens in this order.

    noise: number of noise tokens. place: how far they are moved from the positions that a pass gives them. steps: of
    the run.
    """

    def __init__(self, noise: int, place: Place, refresh: Refresh, steps: int):
        self._noise, self._place, self._refresh, self._steps = noise, place, refresh, steps
        self._kept = KeptReferences() if refresh.keeps else None
        self._step = self._pass = self._round = self._references = 0
        self._pictures: list[tuple[int, int]] = []
        self._joins = False

    def next_step(self) -> None:
        """Go on to the next step, whose passes come in the same order as those of the step before."""
        self._step += 1
        self._pass = 0

    def after_step(self, *_: object) -> dict[str, Tensor]:
        """Go on to the next step, with no tensors changed: a callback of diffusers' pipelines."""
        self.next_step()
        return {}

    def before(self, transformer: FluxTransformer2DModel, args: tuple, inputs: dict[str, Any]) -> tuple[tuple, dict]:
        """Move the noise tokens, and leave out the reference tokens where they are kept; a pre-hook of the forward."""
        tokens, positions = inputs["hidden_states"], inputs["img_ids"]
        # Of a step with guidance by two prompts, the passes of both.
        self._pictures = [(self._pass, picture) for picture in range(len(tokens))]
        self._pass += 1
        self._round = self._refresh.round(self._step, self._steps)
        self._references = tokens.shape[1] - self._noise
        self._joins = self._kept is not None and self._kept.serve(self._pictures, self._round)
        moved = positions[: self._noise] + positions.new_tensor((0, *self._place))
        count = self._noise if self._joins else tokens.shape[1]
        positions = torch.cat([moved, positions[self._noise : count]])
        return args, {**inputs, "hidden_states": tokens[:, :count], "img_ids": positions}

    def keep_or_join(self, attention: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the reference tokens' keys and values, or append those kept to a pass that has left them out.

        k, v: (batch, heads, tokens, width), positions applied. Where memory lacks for keeping them, they are computed
        in every step from then on.
        """
        if self._kept is None:
            return k, v
        if self._joins:
            return self._kept.join(self._pictures, attention, k, v)
        start = k.shape[2] - self._references
        try:
            self._kept.keep(self._pictures, self._round, attention, k[:, :, start:], v[:, :, start:])
        except torch.cuda.OutOfMemoryError:
            log.warning("There is no memory for keeping the references; they are computed in every step.")
            self._kept = None
        return k, v


@contextmanager
def analogy_passes(
    transformer: FluxTransformer2DModel, noise: int, place: Place, refresh: Refresh, steps: int
) -> Iterator[Passes]:
    """Let a run's passes go through `Passes` within, of which these are the arguments; see there.

    Who runs them calls its `next_step` after each step.
    """
    refresh.check()
    passes = Passes(noise, place, refresh, steps)
    with ExitStack() as undo:
        if refresh.keeps or any(place):
            # A hook, not another `forward`: offloading wraps that one anew at the end of a run.
            undo.callback(transformer.register_forward_pre_hook(passes.before, with_kwargs=True).remove)
        if refresh.keeps:
            before = transformer.attn_processors
            undo.callback(transformer.set_attn_processor, dict(before))
            transformer.set_attn_processor({name: KeepingAttention(name, passes.keep_or_join) for name in before})
        yield passes


def schedule_tokens(sampled: str, noise: int) -> int:
    """Count the tokens by which noise levels shift: the whole grid's, as published, whatever of it is sampled.

    sampled: one of SAMPLED. noise: the tokens of it, of a grid of one pair.
    """
    return 4 * noise if sampled == "result" else noise


def scheduler_for(
    scheduler: FlowMatchEulerDiscreteScheduler, tokens: int, noise: int
) -> FlowMatchEulerDiscreteScheduler:
    """Make a scheduler that shifts its noise levels as for so many tokens where the pipeline tells it of `noise`."""
    if tokens == noise:
        return scheduler
    config = scheduler.config
    # The pipeline's shift is a line through these two numbers of tokens (diffusers, calculate_shift).
    moved = {
        name: config.get(name, published) + noise - tokens
        for name, published in {"base_image_seq_len": 256, "max_image_seq_len": 4096}.items()
    }
    return type(scheduler).from_config(config, **moved)
