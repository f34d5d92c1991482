"""One mixture, changed: which LoRAs it keeps, how sharply it chooses, and in which layers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import layer_names
from ..errors import LoRWebError, shown
from ..mixture import Mixture
from .blend import check_origin
from .logits import to_logits, to_scores

MOST_PARTS = 10_000
"""Most parts of a text that names LoRAs."""

LARGEST_FACTOR = 100
"""Limit of a LoRA's factor, and of its opposite."""


@dataclass(frozen=True)
class Edit:
    """Describe what is done to the layers chosen, in this order. The defaults change nothing."""

    temperature: float = 1.0
    """Divisor of the logits: below 1 the largest coefficients win, above 1 all become alike."""
    mute: str = ""
    """Indices of LoRAs whose coefficients become 0, such as '3, 8-11'."""
    solo: str = ""
    """Indices of LoRAs that alone are kept."""
    top_k: int | None = None
    """Number of the largest coefficients, by absolute value, that are kept in each layer."""
    top_p: float = 1.0
    """Share of a layer's mass, Σ|c|: the fewest coefficients that make it up are kept."""
    renormalize: bool = False
    """Whether those kept are scaled to the mass that there was before mute, solo, top_k and top_p."""
    scale: float = 1.0
    """Factor of all coefficients, at last."""
    origin: str = "zero"
    """Point that `scale` and `factors` count from, one of ORIGINS: with 'no edit' a factor f gives o + f (m − o), o
    being the mixture's origin.
    """

    blocks: str = "all"
    """Layers that are changed: see `layer_names.select`. The others stay as they are."""
    kind: str = "all"
    stream: str = "all"

    factors: str = ""
    """Factors of single LoRAs beside `scale`, by their indices, such as '3: 0, 8-11: 1.5'. The others' is 1."""


def edit(mixture: Mixture, change: Edit) -> Mixture:
    """Make one change to a mixture. Changes compose: each works on what the one before left.

    Raises LoRWebError if the change is out of range, leaves nothing by muting every LoRA, or is to count from an origin
    that the mixture lacks.
    """
    table = mixture.table
    n = table.shape[-1]
    chosen = torch.tensor(layer_names.select(mixture.basis.layers, change.blocks, change.kind, change.stream))
    audible = _audible(change, n)
    _check(change, n)
    c = table[chosen]
    if change.temperature != 1:
        softmax, parts = mixture.basis.config.lora_softmax, mixture.basis.config.lora_parts
        logits, mass = to_logits(c, softmax, parts)
        c = to_scores(logits / change.temperature, mass, softmax, parts).float()
    kept = c * audible
    if change.top_k is not None or change.top_p < 1:
        kept = kept * _largest(kept, change.top_k or n, change.top_p)
    if change.renormalize:
        # Where nothing is left there is nothing to scale.
        kept = kept * (_mass(c) / _mass(kept).where(_mass(kept) > 0, _mass(c).clamp(min=1)))
    changed = table.clone()
    scale = change.scale * lora_factors(change.factors, n)
    changed[chosen] = kept * scale
    if change.origin == "no edit":
        changed[chosen] += (1 - scale) * mixture.origin_table[chosen]
    return mixture.with_table(changed)


def _mass(c: Tensor) -> Tensor:
    return c.abs().sum(-1, keepdim=True)


def _largest(c: Tensor, k: int, p: float) -> Tensor:
    """Mark the coefficients kept by 1, the others by 0; of equals the first are kept."""
    sizes, order = c.abs().sort(dim=-1, descending=True, stable=True)
    before = sizes.cumsum(-1) - sizes
    keep = before < p * sizes.sum(-1, keepdim=True)
    keep[..., k:] = False
    return torch.zeros_like(c).scatter(-1, order, keep.to(c.dtype))


def _audible(change: Edit, n: int) -> Tensor:
    """Mark the LoRAs that are kept, (N,): 0 for those muted, and with a solo for all others."""
    audible = torch.zeros(n) if change.solo.strip() else torch.ones(n)
    audible[indices(change.solo, n, "solo")] = 1
    audible[indices(change.mute, n, "mute")] = 0
    if not audible.any():
        raise LoRWebError(
            f"mute {shown(change.mute)} and solo {shown(change.solo)} leave none of the {n} LoRAs. Leave one, or set "
            "the strength of Mixed LoRA Apply to 0."
        )
    return audible


def indices(text: str, n: int, name: str) -> list[int]:
    """Parse indices: '3, 8-11' → [3, 8, 9, 10, 11]; '' → []. Raises LoRWebError on anything else, or beyond n − 1."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(",", MOST_PARTS))):
        numbers = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", part)
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
        if not first <= last < n:
            raise LoRWebError(
                f"{name} has {shown(part)}; expected indices of LoRAs from 0 to {n - 1}, such as '3, 8-11'."
            )
        found += range(first, last + 1)
    return found


def lora_factors(text: str, n: int) -> Tensor:
    """Parse factors of LoRAs: '3: 0, 8-11: 1.5' → (n,), 1 for those not named.

    Raises LoRWebError on anything else, for indices beyond n − 1, for a LoRA named twice, and for factors beyond ±100.
    """
    found = torch.ones(n)
    named_before: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(",", MOST_PARTS))):
        read = re.fullmatch(r"([\d\s-]+):\s*([+-]?\d{1,3}(?:\.\d{1,9})?)", part)
        if not read or abs(float(read[2])) > LARGEST_FACTOR:
            raise LoRWebError(
                f"factors has {shown(part)}; expected indices of LoRAs, a colon and a factor from -{LARGEST_FACTOR} to "
                f"{LARGEST_FACTOR}, such as '3: 0, 8-11: 1.5'."
            )
        given = indices(read[1], n, "factors")
        if named_before & {*given}:
            raise LoRWebError(
                f"factors has {shown(part)}, but LoRA {min(named_before & {*given})} has a factor already."
            )
        named_before.update(given)
        found[given] = float(read[2])
    return found


def _check(change: Edit, n: int) -> None:
    check_origin(change.origin)
    if change.top_k is not None and not 1 <= change.top_k <= n:
        raise LoRWebError(f"top_k is {change.top_k}; expected a number from 1 to {n}, the LoRAs of this basis.")
    if not 0 < change.top_p <= 1:
        raise LoRWebError(f"top_p is {change.top_p}; expected a share above 0, up to 1.")
    if not (math.isfinite(change.temperature) and change.temperature > 0):
        raise LoRWebError(f"temperature is {change.temperature}; expected a number above 0, 1 as it is.")
    if not math.isfinite(change.scale):
        raise LoRWebError(f"scale is {change.scale}; expected a number, 1 as it is.")
