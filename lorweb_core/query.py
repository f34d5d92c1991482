"""From the triplet (a, a', b) to the query that a basis is asked with, in the modes of NVlabs/LoRWeB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoder import EncoderSpec, VisionEncoder
from .errors import LoRWebError, shown
from .grid import Size, resize
from .triplet import Triplet

View = tuple[str, ...]
"""View that the encoder is shown: one image, or cells of a's size, two to a row."""

APART: tuple[View, ...] = (("a",), ("a'",), ("b",))
TOP_HALF: View = ("a", "a'")
WHOLE_GRID: View = ("a", "a'", "b", "b")
THREE_QUARTERS: View = ("a", "a'", "b", "black")

CELL_PIXELS = 512**2
"""Most pixels in a cell of a grid: encoders see 224 × 224 pixels of all of it."""


def _in_turn(*embeddings: Tensor) -> Tensor:
    return torch.cat(embeddings)


@dataclass(frozen=True)
class QueryMode:
    """Describe what is encoded, and how the query (k, E) is made of it.

    combine: of each view its embedding, (1, E), or with `states` the tokens of these hidden states of the encoder,
    (t, E), −1 being the last layer's.
    """

    views: tuple[View, ...]
    combine: Callable[..., Tensor] = _in_turn
    states: tuple[int, ...] = ()
    difference: bool = False
    """True where the query of no edit, that of (a, a, b), is zeros whatever the pictures are."""

    @property
    def sees_b(self) -> bool:
        """Tell whether the query depends on b."""
        return any("b" in view for view in self.views)

    def width(self, encoder: EncoderSpec) -> int | None:
        """Return Q, the length of one query with this encoder; None if it cannot serve this mode.

        In patch modes each token is a query.
        """
        if self.states:
            return encoder.token_width
        return len(self.combine(*torch.zeros(len(self.views), 1, 1))) * encoder.width


QUERY_MODES = {
    "cat-aa'b": QueryMode(APART),
    "ca'-ca": QueryMode(APART[:2], lambda a, a_prime: a_prime - a, difference=True),
    "ca'-ca+cb": QueryMode(APART, lambda a, a_prime, b: a_prime - a + b),
    "aa'bb'": QueryMode((WHOLE_GRID,)),
    "caa'bb'": QueryMode((WHOLE_GRID,)),
    "caa'b": QueryMode((THREE_QUARTERS,)),
    "caa'": QueryMode((TOP_HALF,)),
    "paa'b": QueryMode((THREE_QUARTERS,), states=(-1,)),
    "paa'b3": QueryMode((THREE_QUARTERS,), states=(-16, -8, -1)),
    "cat-paa'b": QueryMode(APART, states=(-1,)),
    "cat-paa'b3": QueryMode(APART, states=(-16, -8, -1)),
}


def encode_query(encoder: VisionEncoder, a: Tensor, a_prime: Tensor, b: Tensor, mode: str = "cat-aa'b") -> Tensor:
    """Encode the query of one analogy: images (H, W, 3), float in 0–1, each of any size → (1, k, E), float32."""
    return encode_queries(encoder, [Triplet([(a, a_prime)], b)], mode)


def encode_queries(encoder: VisionEncoder, analogies: Sequence[Triplet], mode: str = "cat-aa'b") -> Tensor:
    """Encode the queries of n analogies, (n, k, E), float32; each the mean of its demonstrations' queries.

    All images go through the encoder in one pass, and each only once, however many analogies it is part of.
    In patch modes each of the k tokens is a query of its own.
    """
    if mode not in QUERY_MODES:
        raise LoRWebError(f"Query mode {shown(mode)} is not known; this version has: {', '.join(QUERY_MODES)}.")
    how = QUERY_MODES[mode]
    places_of: dict[tuple[int, ...], int] = {}  # which images a view is made of → its place in the pass
    pictures: list[Tensor] = []

    def place(view: View, images: dict[str, Tensor]) -> int:
        cells = [images.get(cell) for cell in view]
        made_of = tuple(map(id, cells))
        if made_of not in places_of:
            places_of[made_of] = len(pictures)
            pictures.append(images[view[0]] if len(view) == 1 else lay_out(cells))
        return places_of[made_of]

    places = [
        [[place(view, {"a": a, "a'": a_prime, "b": b}) for view in how.views] for a, a_prime in pairs]
        for pairs, b in analogies
    ]
    embeddings = encoder.embed(pictures, how.states)
    return torch.stack([torch.stack([how.combine(*embeddings[views]) for views in pairs]).mean(0) for pairs in places])


def lay_out(cells: Sequence[Tensor | None]) -> Tensor:
    """Lay out images (h, w, 3) row by row, two to a row, None black, as one image; cells have the first one's shape."""
    first = next(cell for cell in cells if cell is not None)
    height, width = first.shape[:2]
    scale = min(1.0, (CELL_PIXELS / (height * width)) ** 0.5)
    size = Size(max(1, round(height * scale)), max(1, round(width * scale)))
    filled = [first.new_zeros((*size, 3)) if cell is None else resize(cell[None], size)[0] for cell in cells]
    rows = [torch.cat(filled[start : start + 2], 1) for start in range(0, len(filled), 2)]
    return torch.cat(rows)
