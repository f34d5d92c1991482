"""Several pairs (a, a') that demonstrate one edit, and analogies in batches → one mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

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
    """Route a basis with an external query for analogies with images (H, W, 3), float in 0–1, in one encoder pass."""
    if demonstrations not in DEMONSTRATIONS:
        raise LoRWebError(f"demonstrations is {shown(demonstrations)}; expected one of: {', '.join(DEMONSTRATIONS)}.")
    return replace(_mix(basis, encoder, analogies, demonstrations), thumbnails=make_thumbnails(analogies))


def _mix(basis: LoRABasis, encoder: VisionEncoder, analogies: Sequence[Triplet], demonstrations: str) -> Mixture:
    if demonstrations == "mean of queries":
        return basis.route(encode_queries(encoder, analogies, basis.config.query_mode))
    apart = [Triplet([pair], b) for pairs, b in analogies for pair in pairs]
    mixture = basis.route(encode_queries(encoder, apart, basis.config.query_mode))
    if len(apart) == len(analogies):
        return mixture
    counts = [len(pairs) for pairs, _ in analogies]
    coefficients = {
        layer: torch.stack([part.mean(0) for part in each.split(counts)])
        for layer, each in mixture.coefficients.items()
    }
    if len(analogies) == 1:
        coefficients = {layer: mean[0] for layer, mean in coefficients.items()}
    return Mixture(basis, coefficients)
