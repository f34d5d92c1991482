"""Mixtures of one basis, blended: between two edits, beyond one of them, or what one has and the other has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import LoRWebError, named, shown
from ..mixture import Mixture
from .fingerprint import fingerprint
from .logits import to_logits, to_scores

SPACES = ("coefficients", "logits")
ORIGINS = ("zero", "no edit")
"""Points that weights count from: coefficients or logits of 0, or the mixture that leaves b as it is."""


def blend(
    mixtures: Sequence[Mixture], weights: Sequence[float], space: str = "coefficients", origin: str = "zero"
) -> Mixture:
    """Blend mixtures of one basis, each by its weight, which may be negative and need not add up to 1.

    space: 'coefficients', in which the changes ΔW add up as the coefficients do; or 'logits', before softmax or tanh,
    where the blend keeps to the coefficients that the encoder can give. A mixture of weight 0 is left out, and one of
    weight 1 alone is given back as it is. A single analogy goes with a batch of any number.

    origin: what weights count from. 'zero' gives Σ w m; 'no edit' gives o + Σ w (m − o), which is the same where the
    weights add up to 1. o is the blend's own origin: of the mixtures' origins the mean, each as |w| says.

    Raises LoRWebError if they are of different bases or batches, if a weight is not finite, or if a mixture that takes
    part has no origin and weights are to count from it.
    """
    _check(mixtures, weights, space, origin)
    first = mixtures[0]
    shown = dict.fromkeys(id(thumbnails) for mixture in mixtures for thumbnails in mixture.thumbnails)
    by_id = {id(thumbnails): thumbnails for mixture in mixtures for thumbnails in mixture.thumbnails}
    blended = replace(first, thumbnails=tuple(by_id[key] for key in shown), origin=None, seen=())
    ordered = [replace(mixture, basis=first.basis) for mixture in mixtures]
    tables, weights = [mixture.table for mixture in ordered], list(weights)
    no_edit = None
    heard, shares = _shares(ordered, weights)
    if origin == "no edit" or all(mixture.origin for mixture in heard):
        no_edit = blended.with_table(_sum(first, [mixture.origin_table for mixture in heard], shares, space))
    if no_edit and origin == "no edit":
        tables, weights = [*tables, no_edit.table], [*weights, 1 - sum(weights)]
    return replace(blended.with_table(_sum(first, tables, weights, space)), origin=no_edit)


def sweep(
    mixtures: Sequence[Mixture],
    weights: Sequence[float],
    steps: int,
    space: str = "coefficients",
    origin: str = "zero",
) -> list[Mixture]:
    """Make `steps` mixtures on the line from the first mixture alone to the blend, both ends included.

    Raises LoRWebError as `blend` does, and for fewer than 2 steps or more than 1000.
    """
    if not 2 <= steps <= 1000:
        raise LoRWebError(f"steps is {steps}; a line has at least 2, and here up to 1000.")
    return [
        blend(mixtures, [t * weight + (1 - t) * (index == 0) for index, weight in enumerate(weights)], space, origin)
        for t in (step / (steps - 1) for step in range(steps))
    ]


def _shares(mixtures: Sequence[Mixture], weights: Sequence[float]) -> tuple[list[Mixture], list[float]]:
    """Find the mixtures that take part, and the part that each has, by |w|; where all weights are 0 the same part."""
    sizes = [abs(weight) for weight in weights] if any(weights) else [1.0] * len(weights)
    heard = [mixture for mixture, size in zip(mixtures, sizes, strict=True) if size]
    return heard, [size / sum(sizes) for size in sizes if size]


def _sum(like: Mixture, tables: Sequence[Tensor], weights: Sequence[float], space: str) -> Tensor:
    tables = _one_shape(tables)
    parts = [(weight, table) for weight, table in zip(weights, tables, strict=True) if weight]
    if not parts:
        return torch.zeros_like(tables[0])
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    if space == "logits":
        return _in_logits(like, parts)
    return sum((weight * table for weight, table in parts), torch.zeros_like(parts[0][1]))


def _in_logits(like: Mixture, parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    softmax, lora_parts = like.basis.config.lora_softmax, like.basis.config.lora_parts
    logits, masses = torch.zeros(()), torch.ones(())
    for weight, table in parts:
        part = to_logits(table, softmax, lora_parts)
        logits = logits + weight * part.logits
        masses = masses * part.mass**weight
    return to_scores(logits, masses, softmax, lora_parts).float()


def _check(mixtures: Sequence[Mixture], weights: Sequence[float], space: str, origin: str) -> None:
    check_origin(origin)
    if space not in SPACES:
        raise LoRWebError(f"space is {shown(space)}; expected one of: {', '.join(SPACES)}.")
    if not mixtures or len(mixtures) != len(weights):
        raise LoRWebError(f"{len(mixtures)} mixtures and {len(weights)} weights; expected as many of both.")
    for weight in weights:
        if not torch.isfinite(torch.tensor(float(weight))):
            raise LoRWebError(f"A weight is {weight}; expected a number, 1 for a mixture as it is.")
    for mixture in mixtures[1:]:
        check_same_basis(mixtures[0], mixture)


def check_origin(origin: str) -> None:
    """Raise LoRWebError if it is none of ORIGINS."""
    if origin not in ORIGINS:
        raise LoRWebError(f"origin is {shown(origin)}; expected one of: {', '.join(ORIGINS)}.")


def check_same_basis(one: Mixture, other: Mixture) -> None:
    """Raise LoRWebError if two mixtures are not of the same basis, by its content."""
    if one.basis is other.basis or fingerprint(one.basis) == fingerprint(other.basis):
        return
    raise LoRWebError(
        f"The mixtures are of two bases, {named(one.basis.name)} and {named(other.basis.name)}: coefficients of one "
        "mean nothing to the other. Make them with one LoRWeB Basis Loader."
    )


def _one_shape(tables: Sequence[Tensor]) -> list[Tensor]:
    """Give all tables one shape: a single analogy is repeated for a batch. Raises LoRWebError for several batches."""
    batches = {table.shape[1] for table in tables if table.ndim == 3}
    if len(batches) > 1:
        raise LoRWebError(
            f"The mixtures are of {' and '.join(map(str, sorted(batches)))} analogies. Blend batches of one size, or "
            "batches with single ones."
        )
    if not batches:
        return list(tables)
    (n,) = batches
    return [table if table.ndim == 3 else table[:, None].expand(-1, n, -1) for table in tables]
