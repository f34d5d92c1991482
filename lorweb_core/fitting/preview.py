"""The example as a mixture makes it, beside what it should be."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mixture import Mixture
from ..pictures.strip import strip
from ..training.data.batch import Batch
from ..training.objective import Base, move_batch
from ..training.samples import denoise
from .attached import AttachedBasis
from .examples import Pair
from .settings import FitSettings


def preview(
    base: Base, attached: AttachedBasis, mixture: Mixture, batch: Batch, pair: Pair, settings: FitSettings
) -> Tensor:
    """Lay out a, a' as it is and a' as the mixture makes it, (H, W, 3) in 0–1. batch: the pair's analogy."""
    made = make_example(base, attached, mixture, batch, settings)
    return strip([pair.a, pair.a_prime, made], ["a", "a'", "a' as made"])


@torch.no_grad()
def make_example(base: Base, attached: AttachedBasis, mixture: Mixture, batch: Batch, settings: FitSettings) -> Tensor:
    """Sample a' by a mixture, (h, w, 3) in 0–1."""
    attached.mix(mixture.table.to(base.device))
    with base.guided(settings.preview_guidance):
        return denoise(base, move_batch(batch, base), settings.preview_steps, settings.seed)[0]
