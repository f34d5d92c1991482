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


def blend(mixtures: Sequence[Mixture], weights: Sequence[float], space: str = "coefficients") -> Mixture:
    """Blend mixtures of one basis, each by its weight, which may be negative and need not add up to 1.

    space: 'coefficients', in which the changes ΔW add up as the coefficients do; or 'logits', before softmax or tanh,
    where the blend keeps to the coefficients that the encoder can give. A mixture of weight 0 is left out, and one of
    weight 1 alone is given back as it is. A single analogy goes with a batch of any number.
    Raises LoRWebError if they are of different bases or batches, or if a weight is not finite.
    """
    _check(mixtures, weights, space)
    first = mixtures[0]
    shown = dict.fromkeys(id(thumbnails) for mixture in mixtures for thumbnails in mixture.thumbnails)
    by_id = {id(thumbnails): thumbnails for mixture in mixtures for thumbnails in mixture.thumbnails}
    blended = replace(first, thumbnails=tuple(by_id[key] for key in shown))
    parts = [(weight, table) for weight, table in zip(weights, _tables(mixtures), strict=True) if weight]
    if not parts:
        return blended.with_table(torch.zeros_like(first.table))
    if len(parts) == 1 and parts[0][0] == 1:
        return blended.with_table(parts[0][1])
    if space == "coefficients":
        return blended.with_table(sum((weight * table for weight, table in parts), torch.zeros_like(parts[0][1])))
    return blended.with_table(_in_logits(first, parts))


def sweep(
    mixtures: Sequence[Mixture], weights: Sequence[float], steps: int, space: str = "coefficients"
) -> list[Mixture]:
    """Make `steps` mixtures on the line from the first mixture alone to the blend, both ends included.

    Raises LoRWebError as `blend` does, and for fewer than 2 steps or more than 1000.
    """
    if not 2 <= steps <= 1000:
        raise LoRWebError(f"steps is {steps}; a line has at least 2, and here up to 1000.")
    return [
        blend(mixtures, [t * weight + (1 - t) * (index == 0) for index, weight in enumerate(weights)], space)
        for t in (step / (steps - 1) for step in range(steps))
    ]


def _in_logits(like: Mixture, parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    softmax, lora_parts = like.basis.config.lora_softmax, like.basis.config.lora_parts
    logits, masses = torch.zeros(()), torch.ones(())
    for weight, table in parts:
        part = to_logits(table, softmax, lora_parts)
        logits = logits + weight * part.logits
        masses = masses * part.mass**weight
    return to_scores(logits, masses, softmax, lora_parts).float()


def _check(mixtures: Sequence[Mixture], weights: Sequence[float], space: str) -> None:
    if space not in SPACES:
        raise LoRWebError(f"space is {shown(space)}; expected one of: {', '.join(SPACES)}.")
    if not mixtures or len(mixtures) != len(weights):
        raise LoRWebError(f"{len(mixtures)} mixtures and {len(weights)} weights; expected as many of both.")
    for weight in weights:
        if not torch.isfinite(torch.tensor(float(weight))):
            raise LoRWebError(f"A weight is {weight}; expected a number, 1 for a mixture as it is.")
    for mixture in mixtures[1:]:
        check_same_basis(mixtures[0], mixture)


def check_same_basis(one: Mixture, other: Mixture) -> None:
    """Raise LoRWebError if two mixtures are not of the same basis, by its content."""
    if one.basis is other.basis or fingerprint(one.basis) == fingerprint(other.basis):
        return
    raise LoRWebError(
        f"The mixtures are of two bases, {named(one.basis.name)} and {named(other.basis.name)}: coefficients of one "
        "mean nothing to the other. Make them with one LoRWeB Basis Loader."
    )


def _tables(mixtures: Sequence[Mixture]) -> list[Tensor]:
    """Give all tables one shape, in the first one's order of layers: a single analogy is repeated for a batch."""
    tables = [replace(mixture, basis=mixtures[0].basis).table for mixture in mixtures]
    batches = {table.shape[1] for table in tables if table.ndim == 3}
    if len(batches) > 1:
        raise LoRWebError(
            f"The mixtures are of {' and '.join(map(str, sorted(batches)))} analogies. Blend batches of one size, or "
            "batches with single ones."
        )
    if not batches:
        return tables
    (n,) = batches
    return [table if table.ndim == 3 else table[:, None].expand(-1, n, -1) for table in tables]
