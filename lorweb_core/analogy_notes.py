"""Tell what looks wrong with an analogy's pictures, in sentences for the person who gave them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .alignment import ALIGNED, Displacement, cut_to_common, find_displacement
from .analogy import Analogy
from .grid import Size, resize
from .likeness import looks_same
from .triplet import Triplet

MOST_STRETCH = 1.5
"""Factor between the shapes of a picture and of its cell up to which nothing is said."""

MOST_PIXELS = 3.0
"""Factor between the sides of b and of its cell up to which nothing is said."""

MOST_LOST = 0.02
"""Mean difference of b from what its cell can hold, of 1, up to which nothing is said; drawings lose 0.01 or so."""


def align_pairs(triplets: tuple[Triplet, ...]) -> tuple[tuple[Triplet, ...], tuple[str, ...]]:
    """Cut the pairs whose a' is displaced to what both show, and say so: the triplets so, and a sentence for each."""
    pairs = {tuple(map(id, pair)): pair for triplet in triplets for pair in triplet.pairs}
    found = {key: find_displacement(*pair) for key, pair in pairs.items()}
    cut = {key: pair if found[key] is ALIGNED else cut_to_common(*pair, found[key]) for key, pair in pairs.items()}
    notes = tuple(
        f"{_whose(number, len(pairs))} is cut to what both show: a' {_describe(displacement)}."
        for number, displacement in enumerate(found.values(), 1)
        if displacement is not ALIGNED
    )
    return tuple(Triplet([cut[tuple(map(id, pair))] for pair in pairs], b) for pairs, b in triplets), notes


def look_at(analogy: Analogy, node: str = "Analogy") -> tuple[str, ...]:
    """Say what looks wrong: pairs without a change or displaced, shapes that are stretched, a b much too large.

    node: the one whose settings can change that.
    """
    return (*_pairs(analogy), *_shapes(analogy, node), *_size(analogy, node))


def _pairs(analogy: Analogy) -> Iterator[str]:
    pairs = analogy.all_pairs
    for number, (a, a_prime) in enumerate(pairs, 1):
        if looks_same(a, a_prime):
            yield (
                f"{_whose(number, len(pairs))} shows no change: a and a' are the same picture. Give the example after "
                "its edit as a'."
            )
            continue
        displacement = find_displacement(a, a_prime)
        if displacement is not ALIGNED:
            yield (
                f"{_whose(number, len(pairs))} seems not to lie on itself: a' {_describe(displacement)}. Set align on "
                "the node Analogy, or give both in one framing."
            )


def _shapes(analogy: Analogy, node: str) -> Iterator[str]:
    if analogy.fit != "stretch":
        return
    shown = analogy.shown
    a, b = Size(*shown[0].pairs[0][0].shape[:2]), Size(*shown[0].b.shape[:2])
    grid = analogy.layout == "grid"
    if grid and _stretch(a, b) > MOST_STRETCH:
        yield (
            f"b is stretched by {_stretch(a, b):.1f}, into the shape of a. Set fit to pad or crop, or layout to "
            f"sequence, on {node}."
        )
    for before, after in analogy.all_pairs:
        shape = a if grid else Size(*before.shape[:2])
        stretch = max(_stretch(shape, Size(*image.shape[:2])) for image in (before, after))
        if stretch > MOST_STRETCH:
            yield (
                f"A picture of the example is stretched by {stretch:.1f}, into the shape of a. Set fit to pad or crop "
                f"on {node}, or give a and a' in one shape."
            )
            return


def _size(analogy: Analogy, node: str) -> Iterator[str]:
    b, cell = Size(*analogy.shown[0].b.shape[:2]), analogy.cell
    if min(b.height / cell.height, b.width / cell.width) > MOST_PIXELS and _lost(analogy.shown[0].b, cell) > MOST_LOST:
        layout = ", or layout to sequence," if analogy.layout == "grid" else ""
        yield (
            f"b has {b.width}×{b.height} pixels, and b' is sampled at {cell.width}×{cell.height}: what is finer is "
            f"lost. Set megapixels higher{layout} on {node}, or give a part of b."
        )


def _lost(image: Tensor, cell: Size) -> float:
    """Compute the mean difference of an image, (H, W, 3), from itself brought to a cell's size and back."""
    back = resize(resize(image[None], cell), Size(*image.shape[:2]))[0]
    return float((back - image).abs().mean())


def _stretch(one: Size, other: Size) -> float:
    """Compute the factor between two shapes, 1 or more."""
    ratio = one.width * other.height / (one.height * other.width)
    return max(ratio, 1 / ratio)


def _whose(number: int, pairs: int) -> str:
    return "The pair" if pairs == 1 else f"Pair {number} of {pairs}"


def _describe(displacement: Displacement) -> str:
    parts = [
        f"{abs(shift):.1%} further {words[shift < 0]}"
        for shift, words in ((displacement.right, ("right", "left")), (displacement.down, ("down", "up")))
        if abs(shift) >= 0.001
    ]
    if abs(displacement.scale - 1) >= 0.001:
        parts.append(f"{abs(displacement.scale - 1):.1%} {'larger' if displacement.scale > 1 else 'smaller'}")
    return "is " + " and ".join(parts)
