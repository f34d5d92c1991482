"""Grids of pairs of pictures before and after an edit, as the base meets them: encoded whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Encode = Callable[[Tensor], Tensor]
"""Pictures or grids (n, 3, h, w) in 0–1 → latents (n, 16, h/8, w/8)."""

_BATCH = 64
"""Grids that are encoded at once."""


class Grids(NamedTuple):
    """Hold latents of n grids, (n, 16, SIDE/4, SIDE/4), half precision."""

    target: Tensor
    """Latents of [a a'; b b'], or of b' alone, (n, 16, SIDE/8, SIDE/8)."""
    reference: Tensor
    """Latents of [a a'; b b]."""


@torch.no_grad()
def encode_grids(encode: Encode, examples: Tensor, tasks: Tensor) -> Grids:
    """Encode the grids of n analogies, whose (a, a') and (b, b') are as a world draws them.

    Those are (n, 2, 3, SIDE, SIDE), uint8.
    They are not put together from the latents of four pictures: in a grid the autoencoder sees over the seams.
    """
    made = []
    for (a, a_prime), (b, b_prime) in zip(_parts(examples), _parts(tasks), strict=True):
        # Half the time; off by 2e-5 of a variance of 0.8.
        with torch.autocast("cpu", torch.bfloat16):
            made.append([encode(grid(a, a_prime, b, last)).half() for last in (b_prime, b)])
    return Grids(*(torch.cat(latents) for latents in zip(*made, strict=True)))


def floats(pictures: Tensor) -> Tensor:
    """Convert pictures from uint8 to float32 in 0–1."""
    return pictures.float() / 255


def grid(a: Tensor, a_prime: Tensor, b: Tensor, last: Tensor) -> Tensor:
    """Lay pictures (n, C, h, w) out as [a a'; b last], (n, C, 2h, 2w)."""
    return torch.cat([torch.cat([a, a_prime], -1), torch.cat([b, last], -1)], -2)


def quarter(grids: Tensor) -> Tensor:
    """Cut out the last cell of grids (n, C, h, w)."""
    return grids[..., grids.shape[-2] // 2 :, grids.shape[-1] // 2 :]


def _parts(pairs: Tensor):
    return (floats(part).unbind(1) for part in pairs.split(_BATCH))
