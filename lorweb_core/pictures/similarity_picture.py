"""The similarity of a basis's LoRAs to one another as a picture."""

from __future__ import annotations

from torch import Tensor

from ..space.similarity import Similarity
from .canvas import Canvas
from .captions import elided
from .chart import bars
from .heat_map import SMALL, blended, colour_bar, index_ticks, number, scale_for, step_for

MARGIN = 24
LABELS = 40
BARS = 90


def similarity_picture(similarity: Similarity, theme: str = "dark") -> Tensor:
    """Draw a heat map of the cosines in the order of `similarity`, sizes of the LoRAs above: (H, W, 3), float32 in 0–1.

    The scale ends at the largest cosine of two different LoRAs, so that the least structure shows; each LoRA's own, 1,
    is left grey.
    """
    n, order = len(similarity.sizes), similarity.order
    cell = min(96, max(2, 704 // n))
    side = n * cell
    left, base = MARGIN + LABELS, MARGIN + 120 + BARS
    top = base + 26
    canvas = Canvas(max(560, left + side + MARGIN), top + side + 122, theme)
    canvas.text((MARGIN, MARGIN - 4), elided(canvas, similarity.basis, 20, canvas.image.width - 2 * MARGIN), 20)
    layers = "1 layer" if similarity.layers == 1 else f"{similarity.layers} layers"
    canvas.text((MARGIN, MARGIN + 26), f"N = {n} LoRAs over {layers}, similar ones together", 14, canvas.theme.faint)
    sizes = similarity.sizes[order]
    canvas.text((left, MARGIN + 62), "size of each LoRA, |A B|", 14)
    extent = f"from {number(float(sizes.min()))} to {number(float(sizes.max()))}"
    canvas.text((left, MARGIN + 81), extent, SMALL, canvas.theme.faint)
    bars(canvas, (left, base), BARS - 14, sizes, float(sizes.max()), cell, canvas.theme.series[0], 0)
    index_ticks(canvas, (left, base + 5), order, cell)
    _matrix(canvas, (left, top), similarity.cosines[order][:, order], order, cell)
    return canvas.tensor()


def _matrix(canvas: Canvas, at: tuple[int, int], cosines: Tensor, labels: list[int], cell: int) -> None:
    (left, top), n = at, len(labels)
    others = cosines.clone().fill_diagonal_(0)
    scale = scale_for(others, canvas.theme, signed=True)
    canvas.cells(at, scale(others), (cell, cell), scale.colours)
    own = blended(canvas.theme.background, canvas.theme.faint, 0.6)
    step = step_for(cell, canvas.text_width("00", SMALL) + 6)
    for i, label in enumerate(labels):
        canvas.box((left + i * cell, top + i * cell), cell, cell, own)
        if i % step == 0:
            canvas.text((left - 7, top + (i + 0.5) * cell), str(label), SMALL, canvas.theme.faint, "rm")
    index_ticks(canvas, (left, top + n * cell + 5), labels, cell)
    below = top + n * cell + 34
    colour_bar(canvas, (left, below), 240, scale, "cosine of the changes A B of two LoRAs; grey: of each with itself")
