"""Layouts: how an analogy is shown to the model, and where b' is in what it samples.

`grid` is the published one. `sequence` shows each image as a reference of its own, at the size of what is sampled:
the answer is the whole picture and not a cell of it. A new layout is an entry in LAYOUTS.

Of a grid, published is to sample all of it. b' alone can be sampled too, at the place that it has in the grid: the
other cells are known, and the model is shown them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import LoRWebError, shown
from .grid import (
    MULTIPLE,
    Size,
    area_size,
    check_pairs,
    cut_result,
    fitted,
    grid_sizes,
    reference_grid,
    resize,
    undo_fit,
)
from .triplet import Triplet

SAMPLED = ("grid", "result")
"""Choices of what is sampled: all of the layout, as published, or b' alone."""


class Place(NamedTuple):
    """Say where the first token of what is sampled is, in tokens of 16 pixels a side."""

    row: int
    column: int


ORIGIN = Place(0, 0)
"""Place of what is all of the layout, or a picture of its own."""


class Shown(NamedTuple):
    sampled: Size
    """Size of the picture to sample."""
    references: list[Tensor]
    """References, (H, W, 3) in 0–1, the one at frame index 1 first."""
    overview: Tensor
    """All references in one picture, (H, W, 3), to look at."""
    place: Place = ORIGIN
    """Place of what is sampled among the references' positions."""


class Show(Protocol):
    def __call__(self, triplet: Triplet, megapixels: float, fit: str, sampled: str = "grid") -> Shown:
        """Lay a triplet out for the model. megapixels: of all that the layout holds, whatever of it is sampled."""


class Result(Protocol):
    def __call__(self, images: Tensor, b: Size | None, fit: str, pairs: int, sampled: str = "grid") -> Tensor:
        """Get b', (n, h, w, 3), of b's size if there is one, out of decoded pictures (n, H, W, 3) of so many pairs."""


class Layout(NamedTuple):
    show: Show
    result: Result
    example_shares: Callable[[int], list[float]]
    """Number of pairs → how much of each reference, from its top, shows the pairs; the rest shows b."""
    indexed: bool
    """Whether the references are told apart by their frame indices, which further references would shift."""


def _show_grid(triplet: Triplet, megapixels: float, fit: str, sampled: str = "grid") -> Shown:
    check_sampled(sampled)
    (a, _), pairs = triplet.pairs[0], len(triplet.pairs)
    alone = sampled == "result"
    whole, reference = grid_sizes(Size(*a.shape[:2]), megapixels, pairs, whole_cells=alone)
    grid = reference_grid(triplet.pairs, triplet.b, whole, reference, fit)
    if not alone:
        return Shown(whole, [grid], grid)
    cell = Size(whole.height // (pairs + 1), whole.width // 2)
    return Shown(cell, [grid], grid, Place(pairs * cell.height // MULTIPLE, cell.width // MULTIPLE))


def _grid_result(images: Tensor, b: Size | None, fit: str, pairs: int, sampled: str = "grid") -> Tensor:
    check_sampled(sampled)
    return undo_fit(images, b, fit) if sampled == "result" else cut_result(images, b, fit, pairs)


def _show_sequence(triplet: Triplet, megapixels: float, fit: str, sampled: str = "grid") -> Shown:
    """Show b, a', a: frame indices 1, 2, 3; each further pair goes on from there. Each a' has its a's shape.

    What is sampled is b' alone in any case.
    """
    check_sampled(sampled)
    size = area_size(Size(*triplet.b.shape[:2]), megapixels)
    references = [resize(triplet.b[None], size)[0]]
    for a, a_prime in triplet.pairs:
        shape = Size(*a.shape[:2])
        each = area_size(shape, megapixels)
        references += [fitted(a_prime, each, shape, fit), resize(a[None], each)[0]]
    height = min(r.shape[0] for r in references)
    overview = [resize(r[None], Size(height, max(1, round(r.shape[1] * height / r.shape[0]))))[0] for r in references]
    return Shown(size, references, torch.cat(overview[::-1], 1))


def _sequence_result(images: Tensor, b: Size | None, fit: str, pairs: int, sampled: str = "grid") -> Tensor:
    check_sampled(sampled)
    return images if b is None else resize(images, b)


LAYOUTS = {
    "grid": Layout(_show_grid, _grid_result, lambda pairs: [pairs / (pairs + 1)], indexed=False),
    "sequence": Layout(_show_sequence, _sequence_result, lambda pairs: [0.0] + [1.0] * (2 * pairs), indexed=True),
}


def find_layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise LoRWebError(f"layout is {shown(name)}; expected one of: {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def check_sampled(sampled: str) -> None:
    """Raise LoRWebError if this is none of SAMPLED."""
    if sampled not in SAMPLED:
        raise LoRWebError(f"sampled is {shown(sampled)}; expected one of: {', '.join(SAMPLED)}.")


def check_weights(example_weight: float, b_weight: float) -> None:
    for name, weight in {"example_weight": example_weight, "b_weight": b_weight}.items():
        if not 0 < weight < math.inf:
            raise LoRWebError(
                f"{name} is {shown(weight)}; expected a number above 0: 1 as trained, less to look there less, more "
                "to look there more."
            )


def attention_bias(
    layout: str, references: Sequence[Size], pairs: int, example_weight: float, b_weight: float
) -> Tensor:
    """Compute what to add to attention logits so that each reference token counts as often as weighted: (tokens,).

    references: rows and columns of tokens of every reference that the model gets, in order. The layout's own are the
    last; others keep their weight. Raises LoRWebError if these cannot be this layout's.
    """
    check_weights(example_weight, b_weight)
    check_pairs(pairs)
    chosen = find_layout(layout)
    shares = chosen.example_shares(pairs)
    others = len(references) - len(shares)
    if others < 0 or (chosen.indexed and others):
        raise LoRWebError(
            f"The model is given {len(references)} reference images, but the layout {shown(layout)} with {pairs} "
            f"pair(s) has {len(shares)}. Connect Kontext Extended-Attention Conditioning to the sampler, its negative "
            "too, and set the same layout and number of pairs on Analogy Attention."
        )
    biases = [torch.zeros(math.prod(size)) for size in references[:others]]
    for (rows, columns), share in zip(references[others:], shares, strict=True):
        # The border between a' and b may lie within a row of tokens.
        example = (share * rows - torch.arange(rows)).clamp(0, 1)
        bias = example * math.log(example_weight) + (1 - example) * math.log(b_weight)
        biases.append(bias.repeat_interleave(columns))
    return torch.cat(biases)
