"""Choose what is taken over of an example that shows more than one change: the part under a mask, or what is left
without the changes that other pairs show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .analogy import Analogy
from .basis import LoRABasis
from .demonstrations import mix
from .encoder import VisionEncoder
from .errors import LoRWebError
from .grid import Size, resize
from .mixture import Mixture
from .triplet import Triplet

GAIN = 1.2
"""Factor of what is left. A pair with two edits gives each less than a pair with that one alone: 1.2 to 1.4 had the
least error on the small world (`python -m small_world choose`).
"""

LEAST_LEFT = 0.15
"""Least part of an edit, by the length of its coefficients from the origin, that must be left without the others.

On the small world 0.39 to 1 is left of two edits without one of them, and 0.09 to 0.7 of an edit without itself, as two
other pairs show it.
"""

LITTLE_LEFT = 0.4
"""Part of an edit below which both pairs may show the same one."""


def choose_part(a: Tensor, a_prime: Tensor, mask: Tensor, softness: float = 0.0) -> Tensor:
    """Make the a' that is a, but where the mask, (h, w) in 0–1, is 1: (H, W, 3), of a's size.

    softness: deviation of the blur of the mask's edge, as a share of a's shorter side. a' and the mask are stretched
    to a's size. Raises LoRWebError for a mask that chooses nothing, or everything.
    """
    size = Size(*a.shape[:2])
    a_prime = resize(a_prime[None], size)[0]
    alpha = F.interpolate(mask[None, None].float(), size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
    if not alpha.isfinite().all():
        raise LoRWebError("mask has NaN or infinite values; expected 0 where a stays, and 1 where a' counts.")
    if alpha.max() < 0.5:
        raise LoRWebError("mask is empty: it chooses nothing of the example. Paint where the change is that you want.")
    if alpha.min() > 0.5:
        raise LoRWebError("mask is full: it chooses all of the example. Paint only where the change is that you want.")
    alpha = _blurred(alpha, softness * min(size))[..., None]
    return torch.lerp(a, a_prime, alpha.to(a))


def choose_part_of(analogy: Analogy, masks: Tensor, softness: float = 0.0) -> Analogy:
    """Let an analogy's pairs show only what is under masks, (h, w) or (n, h, w): one for all pairs, or one for each.

    Raises LoRWebError for another number of masks, and as `choose_part` does.
    """
    masks, pairs = masks if masks.ndim == 3 else masks[None], analogy.all_pairs
    if len(masks) not in (1, len(pairs)):
        raise LoRWebError(
            f"{len(masks)} masks and {len(pairs)} pairs do not fit together. Give one mask for all, or one for each."
        )
    chosen = {
        id(a_prime): (a, choose_part(a, a_prime, mask, softness))
        for (a, a_prime), mask in zip(pairs, masks.expand(len(pairs), -1, -1), strict=True)
    }
    analogies = (t._replace(pairs=[chosen[id(a_prime)] for _, a_prime in t.pairs]) for t in analogy.triplets)
    return replace(analogy, triplets=tuple(analogies))


def _blurred(alpha: Tensor, deviation: float) -> Tensor:
    """Blur (H, W) by a Gaussian; what is beyond the border is as the border."""
    reach = min(math.ceil(3 * deviation), *(side - 1 for side in alpha.shape))
    if reach < 1:
        return alpha
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).to(alpha)
    padded = F.pad(alpha[None, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[0, 0]


def choose_edit(
    basis: LoRABasis,
    encoder: VisionEncoder,
    analogies: Sequence[Triplet],
    unwanted: Sequence[tuple[Tensor, Tensor]] = (),
) -> Mixture:
    """Route a basis for analogies without the changes that the unwanted pairs show, in one pass of the encoder.

    Pictures are (H, W, 3), float in 0–1. Each unwanted pair is looked at with the b that is to be edited, as if its
    edit were wanted there, so that modes that see b see the same one.
    """
    return without(*route_apart(basis, encoder, analogies, unwanted))


def route_apart(
    basis: LoRABasis,
    encoder: VisionEncoder,
    analogies: Sequence[Triplet],
    unwanted: Sequence[tuple[Tensor, Tensor]],
) -> tuple[Mixture, list[Mixture]]:
    """Route a basis for analogies, and for each unwanted pair with the same b's, in one pass of the encoder."""
    others = [Triplet([pair], analogy.b) for pair in unwanted for analogy in analogies]
    each = mix(basis, encoder, [*analogies, *others]).split()
    mixture, *apart = (each[i : i + len(analogies)] for i in range(0, len(each), len(analogies)))
    return joined(mixture), [joined(mixtures) for mixtures in apart]


def joined(mixtures: Sequence[Mixture]) -> Mixture:
    """Join mixtures of one basis and one analogy each, all with an origin or none, as a batch: what `split` undoes."""
    if len(mixtures) == 1:
        return mixtures[0]
    origins = [mixture.origin for mixture in mixtures if mixture.origin]
    return replace(
        mixtures[0].with_table(torch.stack([mixture.table for mixture in mixtures], 1)),
        thumbnails=tuple(thumbnails for mixture in mixtures for thumbnails in mixture.thumbnails),
        origin=joined(origins) if origins else None,
    )


def without(mixture: Mixture, unwanted: Sequence[Mixture]) -> Mixture:
    """Take the edits of other mixtures out of a mixture's edit: o + g · (d − Σ λ e), with 0 ≤ λ ≤ 1 in each layer.

    d and e are the coefficients of an edit less those of its own origin, o the mixture's origin, g is GAIN, and λ the
    part of e that d has in it, ⟨d, e⟩ / ⟨e, e⟩ of the layer, one unwanted edit after the other. Without any, the
    mixture is given back as it is. Raises LoRWebError if a mixture has no origin, if an unwanted one shows no change,
    or if so little is left that both show the same edit.
    """
    if not unwanted:
        return mixture
    left = _edit_of(mixture)
    for number, other in enumerate(unwanted, 1):
        change = _edit_of(other)
        if not change.any():
            raise LoRWebError(f"Unwanted pair {number} shows no change that the image encoder sees. Give another one.")
        change = change[:, None] if change.ndim < left.ndim else change
        left = left - _part_along(left, change) * change
    chosen = mixture.with_table(mixture.origin_table + GAIN * left)
    share = share_left(chosen, mixture)
    if not share >= LEAST_LEFT:
        raise LoRWebError(
            f"Without the unwanted pairs' edits {share:.0%} of the example's is left: they show the same change. Give "
            "pairs that show only what is not wanted."
        )
    return chosen


def share_left(chosen: Mixture, whole: Mixture) -> float:
    """Compute which share of an edit `without` has left, 0 to 1, by length; of a batch the least."""
    shares = _lengths(_edit_of(chosen)) / _lengths(_edit_of(whole)) / GAIN
    return float(shares.nan_to_num().min())


def _edit_of(mixture: Mixture) -> Tensor:
    return mixture.table - mixture.origin_table


def _part_along(edit: Tensor, other: Tensor) -> Tensor:
    """Compute how much of another edit is in one, per layer and analogy, from 0 to 1: (layers, ..., 1)."""
    squares = other.square().sum(-1, keepdim=True)
    part = (edit * other).sum(-1, keepdim=True) / squares
    return torch.where(squares > 0, part.clamp(0, 1), 0)


def _lengths(edit: Tensor) -> Tensor:
    """Compute the length of an edit, (layers, ..., N), over all layers: of each analogy, (...)."""
    return edit.movedim(0, -2).flatten(-2).norm(dim=-1)
