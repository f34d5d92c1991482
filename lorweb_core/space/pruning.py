"""A smaller basis: without the LoRAs that a set of mixtures does not use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..basis import LoRABasis, Progress
from ..basis_file import write_basis
from ..checkpoint import BasisLayer
from ..errors import LoRWebError, named
from ..mixture import Mixture
from .blend import check_same_basis
from .gram import basis_gram, lora_sizes


class Pruned(NamedTuple):
    """Hold what `prune_basis` made."""

    basis: LoRABasis
    """Smaller basis, loaded."""
    kept: list[int]
    """Indices in the old basis, in the order of the new."""
    shares: Tensor
    """(N,) of the old basis: see `largest_shares`."""


def largest_shares(mixtures: Sequence[Mixture], progress: Progress | None = None) -> Tensor:
    """Find the largest share that each LoRA has in the change of any of the mixtures: (N,), float64.

    A share is ‖c_n A_n B_n‖ over all layers, divided by the sum of these over n: the shares of a mixture add up to 1,
    whether its LoRAs work together or against each other. Raises LoRWebError if there is no mixture, or if they are
    of different bases.
    """
    if not mixtures:
        raise LoRWebError("There is no mixture to tell which LoRAs are used. Give those that the basis is to keep.")
    for mixture in mixtures:
        check_same_basis(mixtures[0], mixture)
    tables = [single.table for mixture in mixtures for single in mixture.split()]
    gram = basis_gram(mixtures[0].basis, progress)
    sizes = torch.stack([lora_sizes(gram, table) for table in tables])
    # A mixture of nothing uses nothing.
    return (sizes / sizes.sum(1, keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)).amax(0)


def unused(mixtures: Sequence[Mixture], share: float, progress: Progress | None = None) -> list[int]:
    """Find the LoRAs whose share in the change reaches `share` in none of the mixtures."""
    return (largest_shares(mixtures, progress) < share).nonzero().flatten().tolist()


def prune_basis(
    basis: LoRABasis, mixtures: Sequence[Mixture], path: Path, share: float = 0.01, progress: Progress | None = None
) -> Pruned:
    """Write the basis without those LoRAs in any layer, with its config beside it, and load it.

    The LoRAs kept are as they were, and `carry_over` brings mixtures over. New analogies are routed among them alone:
    with softmax they share what the dropped ones had. Raises LoRWebError if none or all would be dropped, if the
    mixtures are of another basis, or if the file cannot be written.
    """
    if not 0 < share <= 1:
        raise LoRWebError(f"share is {share}; expected a number above 0, up to 1, such as 0.01 for one hundredth.")
    for mixture in mixtures:
        check_same_basis(Mixture(basis, {}), mixture)
    basis.check_values()
    shares = largest_shares(mixtures, progress)
    kept = (shares >= share).nonzero().flatten().tolist()
    if len(kept) == len(shares):
        raise LoRWebError(
            f"There is nothing to drop: every LoRA of {named(basis.name)} reaches a share of {share:.2%} in the "
            f"mixtures ({len(mixtures)} given), and the least used has {float(shares.min()):.2%}. "
            "Choose a share above that."
        )
    if not kept:
        raise LoRWebError(
            f"Nothing would be left: no LoRA of {named(basis.name)} reaches a share of {share:.2%} in the mixtures "
            f"({len(mixtures)} given), and the most used has {float(shares.max()):.2%}. Choose a share up to that."
        )

    indices = torch.tensor(kept)

    def keep(layer: BasisLayer) -> BasisLayer:
        A, B, keys = (values.index_select(0, indices) for values in layer[:3])
        return layer._replace(A=A, B=B, keys=keys)

    smaller = write_basis(
        path,
        {name: (layer,) for name, layer in basis.layers.items()},
        keep,
        replace(basis.config, lora_parts=_parts_left(basis.config.lora_parts, kept)),
        {"pruned_from": basis.name, "kept": json.dumps(kept)},
        progress,
        query_network=basis.query_network,
    )
    return Pruned(smaller, kept, shares)


def carry_over(mixture: Mixture, kept: Sequence[int], smaller: LoRABasis) -> Mixture:
    """Carry a mixture over to the pruned basis: of the LoRAs kept, the coefficients as they were."""
    coefficients = {name: mixture.coefficients[name][..., list(kept)] for name in smaller.layers}
    origin = mixture.origin and carry_over(mixture.origin, kept, smaller)
    return replace(mixture, basis=smaller, coefficients=coefficients, origin=origin)


def _parts_left(parts: tuple[int, ...] | None, kept: Sequence[int]) -> tuple[int, ...] | None:
    """Count how many LoRAs each part of a merged basis still has; parts with none go."""
    if parts is None:
        return None
    ends = torch.tensor(parts).cumsum(0)
    # The part of an index is the number of ends that are not beyond it.
    left = torch.bincount(torch.bucketize(torch.tensor(kept), ends, right=True)).tolist()
    return tuple(count for count in left if count)
