"""Coefficients back to the logits that give them, for what is done before softmax or tanh.

For a basis of one head that is asked one query, as released, these are the encoder's own logits (to a constant that
softmax does not see). For several heads or queries, whose scores are averaged or added, they are the logits of the one
softmax or tanh that gives the same coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import LoRWebError
from ..routing import softmax_by_parts

# A coefficient of 0 has no logit: it is taken for this one, the smallest that float32 holds in full.
_LEAST = torch.finfo(torch.float32).tiny
# Nor has one of ±1 after tanh, which float32 rounds to where the logit is above 9.
_MOST = 1 - torch.finfo(torch.float32).eps / 2


class Logits(NamedTuple):
    """Hold logits and their mass, float64."""

    logits: Tensor
    """(..., N)"""
    mass: Tensor
    """(..., 1): the sum that softmax's scores are scaled to; 1 as the encoder gives them, and for tanh.

    Of a merged basis (..., N): for each coefficient the sum of its part.
    """


def to_logits(coefficients: Tensor, softmax: bool, parts: Sequence[int] | None = None) -> Logits:
    """Invert softmax or tanh: coefficients (..., N) → logits; `parts` as in `mixing_coefficients`.

    Raises LoRWebError if softmax or tanh cannot have given them.
    """
    c = coefficients.double()
    if softmax:
        if (c < 0).any():
            raise _impossible("negative coefficients", "softmax")
        mass = _mass(c, parts)
        return Logits((c / mass.clamp(min=_LEAST)).clamp(min=_LEAST).log(), mass)
    if (c.abs() > 1).any():
        raise _impossible("coefficients beyond 1", "tanh")
    return Logits(c.clamp(-_MOST, _MOST).atanh(), torch.ones_like(c[..., :1]))


def to_scores(logits: Tensor, mass: Tensor, softmax: bool, parts: Sequence[int] | None = None) -> Tensor:
    """Apply softmax or tanh: logits → coefficients."""
    return softmax_by_parts(logits, parts) * mass if softmax else logits.tanh()


def _mass(c: Tensor, parts: Sequence[int] | None) -> Tensor:
    if not parts:
        return c.sum(-1, keepdim=True)
    return torch.cat([part.sum(-1, keepdim=True).expand_as(part) for part in c.split(list(parts), -1)], -1)


def _impossible(what: str, activation: str) -> LoRWebError:
    return LoRWebError(
        f"The mixture has {what}, which no {activation} gives: it was blended or edited before. Do what needs logits "
        "first, or blend in the space of coefficients."
    )
