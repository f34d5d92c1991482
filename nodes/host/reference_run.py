"""The references of one run of a sampler: kept from its begin to its end, in memory that the host knows of."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from comfy.model_management import OOM_EXCEPTION, get_free_memory
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...lorweb_core import LoRABasis, LoRWebError
from ...lorweb_core.kept_references import KeptReferences, Refresh, check_can_keep, kept_bytes

log = logging.getLogger(__name__)

RUN = "lorweb_run"
"""Key in a run's transformer_options of its ReferenceRun."""

GIGABYTE = 1e9


class Keeping(NamedTuple):
    """Say how references' keys and values are kept."""

    refresh: Refresh = Refresh()
    stored: str = "exact"
    """One of kept_references.STORED."""
    in_main_memory: bool = False


class WithReferences(NamedTuple):
    """Hold what of a conditioning is to be kept."""

    keeping: Keeping
    latents: list[Tensor]


def check_run(
    conds: dict[str, list[dict]], options: dict, kept: Sequence[WithReferences], bases: Sequence[LoRABasis]
) -> None:
    """Raise LoRWebError for what would fail within a run: the host's Flux KV Cache, and bases that cannot keep."""
    patches = options.get("patches", {}).get("attn1_patch", ())
    cached = any(type(patch).__name__ == "KV_Attn_Input" for patch in patches)
    if cached and any(cond.get("reference_latents") for cond in chain.from_iterable(filter(None, conds.values()))):
        raise LoRWebError(
            "The model went through Flux KV Cache, which is made for FLUX.2 and fails on FLUX.1 with references. Take "
            "that node out: Keep References does the same here."
        )
    if kept:
        for basis in bases:
            check_can_keep(basis)


def bytes_kept(model, keeping: Keeping, batch: int, tokens: int, element: int) -> int:
    """Compute the bytes that a FLUX needs for the references of a batch. tokens: of one picture's references.

    batch: how many pictures have references of their own.
    """
    attentions = len(model.double_blocks) + len(model.single_blocks)
    return kept_bytes(attentions, batch, tokens, model.hidden_size, element, keeping.stored)


def make_room(
    model: ModelPatcher, noise_shape: Sequence[int], kept: Sequence[WithReferences], shares: bool
) -> list[int]:
    """Return the shape of a latent that the host estimates to need as much memory as this one with what is kept.

    The host asks for memory by the noise's shape alone (comfy/sampler_helpers.py, estimate_memory), once for the batch
    and once for twice of it, which is what is kept for one conditioning and for two. shares: see ReferenceRun.
    """
    flux, batch = model.model.diffusion_model, noise_shape[0]
    element = model.model.get_dtype_inference().itemsize

    def own(references: Sequence[Tensor]) -> int:
        return min(batch, max(map(len, references))) if shares else batch

    needed = max(
        (
            bytes_kept(flux, keeping, own(references), _tokens(references, flux.patch_size), element)
            for keeping, references in kept
            if not keeping.in_main_memory
        ),
        default=0,
    )
    shape = list(noise_shape)
    if needed:
        shape[2] += math.ceil(needed / model.model.memory_required([*shape[:2], 1, *shape[3:]]))
    return shape


def _tokens(references: Sequence[Tensor], patch: int) -> int:
    return sum(math.prod(math.ceil(side / patch) for side in latent.shape[-2:]) for latent in references)


class ReferenceRun:
    """Keep the references of one run of a sampler.

    model: what is sampled with. shares: of pictures that are shown the same, one's references serve all. They differ
    by what the model sees of each picture's noise only, unless a mixture of several analogies is on it.
    """

    def __init__(self, model: ModelPatcher, shares: bool):
        self._patcher, self._shares = model, shares
        self._kept: dict[Keeping, KeptReferences] = {}
        self._admitted: set[Hashable] = set()
        self.given_up = False

    def end(self) -> None:
        """Let go of all that is kept."""
        for kept in self._kept.values():
            kept.clear()
        self._admitted.clear()

    def give_up(self, needed: float, free: float) -> None:
        """Compute the references in every step from here on, and say so once."""
        if not self.given_up:
            log.warning(
                "Keeping the references takes %.1f GB, and %.1f GB are free: they are computed in each step. Keep "
                "References can hold them in 8 bits, or in main memory.",
                needed / GIGABYTE,
                free / GIGABYTE,
            )
        self.given_up = True
        self.end()

    @torch.compiler.disable
    def kept_pass(
        self, keeping: Keeping, options: dict, flux, x: Tensor, ref_latents: Sequence[Tensor], references: int
    ) -> KeptPass | None:
        """Tell what a pass with so many reference tokens keeps, or uses; None where it just computes them."""
        pictures = options.get("uuids")
        if self.given_up or not (keeping.refresh.keeps and pictures and "sample_sigmas" in options):
            return None
        round_ = keeping.refresh.round(*_step(options))
        if keeping not in self._kept:
            device = torch.device("cpu") if keeping.in_main_memory else None
            self._kept[keeping] = KeptReferences(keeping.stored, device)
        kept = self._kept[keeping]
        if kept.serve(pictures, round_):
            return KeptPass(self, kept, pictures, round_, references, served=True)
        shared = self._shares and _alike(ref_latents, len(pictures))
        needed = bytes_kept(flux, keeping, len(pictures) if shared else len(x), references, x.element_size())
        if self._admitted.issuperset(pictures) or self._admit(keeping, pictures, needed, x, ref_latents):
            return KeptPass(self, kept, pictures, round_, references, shared=shared)
        return None

    def _admit(self, keeping: Keeping, pictures: Sequence[Hashable], needed: int, x: Tensor, ref_latents) -> bool:
        """Find out whether there is memory for this many bytes beside what the pass itself takes."""
        if keeping.in_main_memory:
            free = get_free_memory(torch.device("cpu"))
        else:
            shapes = {"ref_latents": [list(latent.shape) for latent in ref_latents]}
            # The patcher counts the weights that the host would give up for a pass, as the sampler does.
            free = self._patcher.get_free_memory(x.device)
            free -= self._patcher.model.memory_required(list(x.shape), cond_shapes=shapes)
        if needed > free:
            self.give_up(needed, max(0, free))
            return False
        self._admitted.update(pictures)
        return True


class KeptPass:
    """Keep or use the references of one forward pass.

    served: what was kept is used, and nothing computed. shared: of each conditioning's batch the first is kept.
    """

    def __init__(
        self,
        run: ReferenceRun,
        kept: KeptReferences,
        pictures: Sequence[Hashable],
        round_: int,
        references: int,
        served: bool = False,
        shared: bool = False,
    ):
        self._run, self._kept, self._pictures, self._round, self._references = run, kept, pictures, round_, references
        self.served, self._shared = served, shared

    def override(self, before: Callable | None) -> Callable:
        """Make the host's `optimized_attention_override`. before: the one that was there, which is then called."""

        @torch.compiler.disable
        def attend(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, mask=None, **kwargs) -> Tensor:
            options = kwargs["transformer_options"]
            attention = (options["block_type"], options["block_index"])
            if self.served:
                k, v = self._kept.join(self._pictures, attention, k, v)
                mask = _rows(mask, q.shape[2])
            else:
                self._keep(attention, k, v)
            if before is None:
                return func(q, k, v, heads, *args, mask=mask, **kwargs)
            return before(func, q, k, v, heads, *args, mask=mask, **kwargs)

        return attend

    def _keep(self, attention: Hashable, k: Tensor, v: Tensor) -> None:
        if self._run.given_up:
            return
        last = [t[:, :, -self._references :] for t in (k, v)]
        if self._shared:
            last = [t[:: len(t) // len(self._pictures)] for t in last]
        try:
            self._kept.keep(self._pictures, self._round, attention, *last)
        except OOM_EXCEPTION:
            self._run.give_up(self._kept.nbytes + sum(t.nbytes for t in last), get_free_memory(k.device))


def _alike(ref_latents: Sequence[Tensor], pictures: int) -> bool:
    """Tell whether all that is sampled for a conditioning is shown the same; the batch has the pictures in order."""
    apart = (latents.unflatten(0, (pictures, -1)) for latents in ref_latents)
    return all(torch.equal(each, each[:, :1].expand_as(each)) for each in apart)


def _rows(mask: Tensor | None, queries: int) -> Tensor | None:
    """Leave out of a mask, (…, queries or 1, keys), the rows of queries that are not there."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., :queries, :]


def _step(options: dict) -> tuple[int, int]:
    """Find the step of a pass, from 0, and how many there are, for samplers with several passes a step too."""
    schedule, now = options["sample_sigmas"], options["sigmas"].max()
    return max(0, int((schedule >= now.to(schedule.device)).sum()) - 1), len(schedule) - 1
