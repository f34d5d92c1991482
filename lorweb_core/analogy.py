"""One analogy as a whole: its pictures, and all that the steps from its mixture to its b' have to agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from .errors import LoRWebError, shown
from .grid import Size, check_fit
from .kept_references import EACH_STEP, Refresh
from .layout import SAMPLED, Shown, check_sampled, find_layout
from .triplet import Triplet, triplets

SHOWN_PAIRS = ("first pair", "all pairs")
"""Choices of which of several pairs the model is shown."""


@dataclass(frozen=True, eq=False, repr=False)
class Analogy:
    """Hold the pictures of one or several b's, and how they are shown and sampled. Raises LoRWebError for settings
    that do not exist.
    """

    triplets: tuple[Triplet, ...]
    """Analogies to solve, one per b."""
    fit: str = "stretch"
    """One of grid.FITS."""
    layout: str = "grid"
    """One of layout.LAYOUTS."""
    megapixels: float = 1.0
    """Size of all that the layout samples, in 1024² pixels."""
    sampled: str | None = None
    """One of layout.SAMPLED; None for what the basis was trained with."""
    refresh: Refresh = EACH_STEP
    """Steps in which the references are computed."""
    demonstrations: str = SHOWN_PAIRS[0]
    """One of SHOWN_PAIRS."""
    notes: tuple[str, ...] = ()
    """Sentences on what looks wrong with the pictures."""

    def __post_init__(self) -> None:
        check_fit(self.fit)
        find_layout(self.layout)
        if self.sampled is not None:
            check_sampled(self.sampled)
        if self.demonstrations not in SHOWN_PAIRS:
            raise LoRWebError(
                f"demonstrations is {shown(self.demonstrations)}; expected one of: {', '.join(SHOWN_PAIRS)}."
            )

    def __repr__(self) -> str:
        # Hosts write out inputs where a node fails: never the pictures.
        return f"<Analogy of {len(self.triplets)} b's, {self.layout}>"

    @property
    def shown(self) -> list[Triplet]:
        """List what the model is shown: each b with its first pair, or with all."""
        if self.demonstrations == "all pairs":
            return list(self.triplets)
        return [triplet._replace(pairs=triplet.pairs[:1]) for triplet in self.triplets]

    @property
    def pairs(self) -> int:
        """Count the pairs that the model is shown for each b."""
        return len(self.shown[0].pairs)

    @property
    def all_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """List the pairs of all b's, each once."""
        return list({tuple(map(id, pair)): pair for triplet in self.triplets for pair in triplet.pairs}.values())

    def lay_out(self, sampled: str) -> list[Shown]:
        """Lay out each b's analogy for the model, all of one size. sampled: one of layout.SAMPLED."""
        show = find_layout(self.layout).show
        return [show(triplet, self.megapixels, self.fit, sampled) for triplet in self.shown]

    @property
    def cell(self) -> Size:
        """Compute the size that b' is sampled at."""
        return self._sampled_size("result")

    def find_sampled(self, picture: Size) -> str:
        """Find which of layout.SAMPLED a picture of this size is. Raises LoRWebError if it can be none of them."""
        choices = [self.sampled] if self.sampled else SAMPLED
        sizes = {self._sampled_size(choice): choice for choice in choices}
        if picture not in sizes:
            expected = " or ".join(f"{size.width}×{size.height}" for size in sizes)
            raise LoRWebError(
                f"The picture is {picture.width}×{picture.height} pixels, but this analogy is sampled at {expected}. "
                "Link the analogy that Kontext Extended-Attention Conditioning has, its latent to the sampler, and "
                "change sizes only after Analogy Result."
            )
        return sizes[picture]

    def _sampled_size(self, sampled: str) -> Size:
        return replace(self, triplets=self.triplets[:1]).lay_out(sampled)[0].sampled


def match_up(pairs: Sequence[tuple[Tensor, Tensor]], b: Tensor) -> tuple[Triplet, ...]:
    """Match up b, (H, W, C) or (n, H, W, C), with several inputs (a, a') of images or batches: one Triplet per b.

    Each input is matched as by `triplets`, and each b has the pairs of all inputs, which may differ in size.
    """
    matched = [triplets(a, a_prime, b) for a, a_prime in pairs]
    return tuple(Triplet([p for each in same for p in each.pairs], same[0].b) for same in zip(*matched, strict=True))
