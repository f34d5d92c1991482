"""How well results b' of an analogy follow it: is the edit the pair's, is the rest still b, is it what is expected?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .encoder import VisionEncoder
from .errors import LoRWebError, shown
from .grid import Size, resize
from .triplet import Triplet, each_image

SAME_PIXEL = 0.05
"""Mean difference over a pixel's channels, of 1, below which a pair shows no change there.

Twice what an autoencoder's round trip or JPEG leaves behind (0.01 to 0.03), and hardly to be seen.
"""

LEAST_UNCHANGED = 0.01
"""Part of the picture that a pair must leave as it is for there to be something to keep."""

SAME_EMBEDDING = 1e-3
"""Part of an embedding's length: shorter differences are the rounding of an encoder in 16 bits, and no direction."""

RANK_BY = ("both", "follows", "kept", "expected")


class Score(NamedTuple):
    """Score one b'."""

    follows: float
    """Cosine between what the edit did to the embedding of a and to that of b, −1 to 1; 0 where either did nothing."""
    kept: float | None
    """1 − mean |b' − b| where the pair shows no change, 0 to 1; None where it changes everywhere."""
    distance: float = 0.0
    """Mean squared difference from what is expected of b', see `distances`; 0 for none."""

    @property
    def total(self) -> float:
        """Return the product of both, to rank by.

        A b left untouched keeps all, follows nothing, and is worth nothing.
        """
        return self.follows if self.kept is None or self.follows < 0 else self.follows * self.kept


def score(
    encoder: VisionEncoder,
    a: Tensor | Sequence[Tensor],
    a_prime: Tensor | Sequence[Tensor],
    b: Tensor,
    b_primes: Tensor | Sequence[Tensor],
    expected: Tensor | None = None,
) -> list[Score]:
    """Score each b'. Images are (H, W, 3) or batches of them, float in 0–1, each of any size.

    Of several pairs (a, a') the edit is the mean of theirs, and unchanged is what no pair changes. All images go
    through the encoder in one pass. expected: as for `distances`. Raises LoRWebError if they do not fit together or
    have NaN pixels.
    """
    analogy = one_analogy(a, a_prime, b)
    results = _finite(each_image(b_primes, "b_prime"), "b_prime")
    follows = _follows(encoder, analogy, results)
    apart = distances(results, Size(*analogy.b.shape[:2]), expected)
    return [Score(*figures) for figures in zip(follows, _kept(analogy, results), apart, strict=True)]


def distances(results: Sequence[Tensor], size: Size, expected: Tensor | None = None) -> list[float]:
    """Measure the mean squared difference of each b' from their mean, or from the middle between it and `expected`.

    Images are (H, W, 3) in 0–1, and compared at `size`. expected: b' as `expect` tells it. A mean of all that could be
    is the nearest guess at what is wanted, and the b' nearest to it errs least (`python -m small_world score`).
    """
    pictures = torch.cat([resize(image[None].float().cpu(), size) for image in results])
    middle = pictures.mean(0)
    if expected is not None:
        middle = (middle + resize(expected[None].float().cpu(), size)[0]) / 2
    return (pictures - middle).square().mean((1, 2, 3)).tolist()


def one_analogy(a: Tensor | Sequence[Tensor], a_prime: Tensor | Sequence[Tensor], b: Tensor) -> Triplet:
    """Match up one b with its pairs, which may come as lists of images of different sizes."""
    before, after, bs = (
        _finite(each_image(images, name), name) for name, images in {"a": a, "a_prime": a_prime, "b": b}.items()
    )
    if len(before) != len(after):
        raise LoRWebError(f"There are {len(before)} a's and {len(after)} a_primes; they are pairs, so give as many.")
    if len(bs) != 1:
        raise LoRWebError(
            f"There are {len(bs)} b's; results can be compared if they are all of one. Score each b apart, picking it "
            "e.g. with ImageFromBatch."
        )
    return Triplet(list(zip(before, after, strict=True)), bs[0])


def unchanged(analogy: Triplet) -> Tensor:
    """Find where none of the pairs shows a change: (H, W), bool, of b's size, onto which the pairs are stretched."""
    size = Size(*analogy.b.shape[:2])
    same = torch.ones(size, dtype=torch.bool)
    for pair in analogy.pairs:
        before, after = (resize(image[None].float().cpu(), size)[0] for image in pair)
        same &= (after - before).abs().mean(-1) < SAME_PIXEL
    return same


def rank(scores: Sequence[Score], by: str = "both") -> list[int]:
    """Rank the scores: their positions, the best first; of equals the earlier.

    Where nothing can be kept, kept is follows.
    """
    if by not in RANK_BY:
        raise LoRWebError(f"rank_by is {shown(by)}; expected one of: {', '.join(RANK_BY)}.")
    figures = {
        "both": lambda s: s.total,
        "follows": lambda s: s.follows,
        "kept": lambda s: s.follows if s.kept is None else s.kept,
        "expected": lambda s: -s.distance,
    }
    return sorted(range(len(scores)), key=lambda position: -figures[by](scores[position]))


def _follows(encoder: VisionEncoder, analogy: Triplet, results: list[Tensor]) -> list[float]:
    pairs = [image for pair in analogy.pairs for image in pair]
    embeddings = encoder.embed([*pairs, analogy.b, *results])[:, 0].double()
    pair_ends, b, ends = embeddings[: len(pairs)], embeddings[len(pairs)], embeddings[len(pairs) + 1 :]
    shown = (pair_ends[1::2] - pair_ends[::2]).mean(0)
    length = embeddings.norm(dim=-1).max() * SAME_EMBEDDING
    return [_cosine(shown, end - b, length) for end in ends]


def _cosine(one: Tensor, other: Tensor, shortest: Tensor) -> float:
    if min(one.norm(), other.norm()) <= shortest:
        return 0.0
    return (one @ other / (one.norm() * other.norm())).clamp(-1, 1).item()


def _kept(analogy: Triplet, results: list[Tensor]) -> list[float | None]:
    same = unchanged(analogy)
    if same.float().mean() < LEAST_UNCHANGED:
        return [None] * len(results)
    size, b = Size(*same.shape), analogy.b.float().cpu()[same]
    return [1 - (resize(image[None].float().cpu(), size)[0][same] - b).abs().mean().item() for image in results]


def _finite(images: list[Tensor], name: str) -> list[Tensor]:
    for number, image in enumerate(images, 1):
        if not image.isfinite().all():
            raise LoRWebError(
                f"Image {number} of {len(images)} in {name} has NaN or infinite pixels, as a VAE in too low a "
                "precision makes them. Decode it in a higher one (start ComfyUI with --fp32-vae)."
            )
    return images
