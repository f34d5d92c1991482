"""Several pairs (a, a') that demonstrate one edit, and analogies in batches → one mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .basis import LoRABasis
from .encoder import VisionEncoder
from .errors import LoRWebError, shown
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
    tables = _tables(basis, encoder, [*analogies, *(analogy.without_edit() for analogy in analogies)], demonstrations)
    edits, origins = (_mixture(basis, table) for table in tables.split(len(analogies), 1))
    return replace(edits, thumbnails=make_thumbnails(analogies), origin=origins)


def _mixture(basis: LoRABasis, table: Tensor) -> Mixture:
    """Make the mixture of n analogies, (layers, n, N); of one analogy it is no batch."""
    rows = table[:, 0] if table.shape[1] == 1 else table
    return Mixture(basis, dict(zip(basis.layers, rows, strict=True)))


def _tables(basis: LoRABasis, encoder: VisionEncoder, analogies: Sequence[Triplet], demonstrations: str) -> Tensor:
    """Route two analogies or more, each of one pair or several: (layers, n, N)."""
    mode = basis.config.query_mode
    if demonstrations == "mean of queries":
        return basis.route(encode_queries(encoder, analogies, mode)).table
    apart = [Triplet([pair], b) for pairs, b in analogies for pair in pairs]
    table = basis.route(encode_queries(encoder, apart, mode)).table
    counts = [len(pairs) for pairs, _ in analogies]
    return torch.stack([part.mean(1) for part in table.split(counts, 1)], 1)
