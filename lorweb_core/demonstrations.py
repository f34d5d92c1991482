"""Several pairs (a, a') that demonstrate one edit, and analogies in batches → one mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .basis import LoRABasis
from .encoder import VisionEncoder
from .errors import LoRWebError, shown
from .likeness import likenesses
from .mixture import Mixture
from .pictures.thumbnails import make_thumbnails
from .query import encode_queries
from .triplet import Triplet

DEMONSTRATIONS = ("mean of queries", "mean of coefficients")
"""Ways in which several pairs become one mixture: averaged before the basis is asked, or after."""


def mix(
    basis: LoRABasis, encoder: VisionEncoder, analogies: Sequence[Triplet], demonstrations: str = DEMONSTRATIONS[0]
) -> Mixture:
    """Route a basis with an external query for analogies with images (H, W, 3), float in 0–1, in one encoder pass.

    The mixture has its origin, that of the same analogies without their edit: of a and b the encoder sees no more.
    """
    if demonstrations not in DEMONSTRATIONS:
        raise LoRWebError(f"demonstrations is {shown(demonstrations)}; expected one of: {', '.join(DEMONSTRATIONS)}.")
    without = [analogy.without_edit() for analogy in analogies]
    together = demonstrations == "mean of queries"
    asked = [*analogies, *without] if together else _one_pair_each([*analogies, *without])
    # Routed apart: the edits' coefficients are, to the last bit, what they are without an origin.
    parts = encode_queries(encoder, asked, basis.config.query_mode).chunk(2)
    counts = None if together else [len(analogy.pairs) for analogy in analogies]
    edits, origins = (_routed(basis, queries, counts) for queries in parts)
    return replace(edits, thumbnails=make_thumbnails(analogies), origin=origins, seen=likenesses(analogies))


def _one_pair_each(analogies: Sequence[Triplet]) -> list[Triplet]:
    return [Triplet([pair], b) for pairs, b in analogies for pair in pairs]


def _routed(basis: LoRABasis, queries: Tensor, counts: Sequence[int] | None) -> Mixture:
    """Route queries, (n, k, E), each by itself, or with counts so many after another as the mean of their mixtures."""
    mixture = basis.route(queries)
    if counts is None or len(queries) == len(counts):
        return mixture
    means = torch.stack([part.mean(1) for part in mixture.table.split(list(counts), 1)], 1)
    rows = means[:, 0] if len(counts) == 1 else means
    return Mixture(basis, dict(zip(basis.layers, rows, strict=True)))
