"""The scores of an analogy's results as a picture: the analogy above, the results from the best to the worst below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..grid import Size, fit_inside
from ..score import Score, unchanged
from ..triplet import Triplet
from .canvas import Canvas, Colour
from .chart import draw_level

CELL_AREA = 200**2
"""Pixels of a cell, which has b's shape."""

SHORTEST, LONGEST = 130, 300
"""Pixels of a cell's sides."""

NARROWEST = 190
"""Pixels of a column: two bars with their names and numbers."""

GAP = 18
BAR = 24
"""Pixels down from one bar to the next."""

TITLE = 26


def score_picture(
    analogy: Triplet, b_primes: Sequence[Tensor], scores: Sequence[Score], order: Sequence[int], theme: str = "dark"
) -> Tensor:
    """Draw scores: (H, W, 3), float in 0–1. order: as `rank` gives it; a b' is (H, W, 3), float in 0–1, of any size."""
    cell = _cell(Size(*analogy.b.shape[:2]))
    column = max(NARROWEST, cell.width)
    columns = 4 if len(b_primes) <= 4 else 6 if len(b_primes) <= 12 else 8
    rows = -(-len(b_primes) // columns)
    top_row = GAP + TITLE + cell.height + GAP
    row = TITLE + cell.height + 10 + 2 * BAR + GAP
    canvas = Canvas(GAP + columns * (column + GAP), top_row + GAP + rows * row + 2 * BAR, theme)

    def show(image: Tensor, left: int, top: int) -> None:
        small = fit_inside(image, cell)
        canvas.picture((left + (column - small.shape[1]) // 2, top + (cell.height - small.shape[0]) // 2), small)

    a, a_prime = analogy.pairs[0]
    same = unchanged(analogy)
    first = f" (1 of {len(analogy.pairs)})" if len(analogy.pairs) > 1 else ""
    titled = {
        f"a{first}": a,
        f"a'{first}": a_prime,
        "b": analogy.b,
        f"to keep: {_percent(same)} of b": _covered(analogy.b, same, canvas.theme.background),
    }
    for number, (title, image) in enumerate(titled.items()):
        left = GAP + number * (column + GAP)
        canvas.text((left + column / 2, GAP), title, 15, anchor="ma")
        show(image, left, GAP + TITLE)
    canvas.line([(GAP, top_row), (canvas.image.width - GAP, top_row)])

    for place, position in enumerate(order):
        left = GAP + place % columns * (column + GAP)
        top = top_row + GAP + place // columns * row
        if place == 0:
            _mark(canvas, left - 8, top - 8, column + 16, row - GAP + 12)
        canvas.text((left, top), f"#{place + 1}" + (" best" if place == 0 else ""), 17)
        if len(b_primes) > 1:
            canvas.text((left + column, top + 2), f"b' {position + 1}", 14, canvas.theme.faint, "ra")
        show(b_primes[position], left, top + TITLE)
        _bars(canvas, scores[position], left, top + TITLE + cell.height + 10, column)

    bottom = canvas.image.height - 2 * BAR
    faint = canvas.theme.faint
    canvas.text((GAP, bottom), "follows: b became b' as a became a' (cosine of embeddings, -1 to 1)", 14, faint)
    canvas.text((GAP, bottom + 19), "kept: likeness of b' to b where the pair shows no change (0 to 1)", 14, faint)
    return canvas.tensor()


def _cell(b: Size) -> Size:
    scale = (CELL_AREA / (b.height * b.width)) ** 0.5
    height, width = (min(max(round(side * scale), SHORTEST), LONGEST) for side in b)
    return Size(height, width)


def _bars(canvas: Canvas, score: Score, left: int, top: int, width: int) -> None:
    """Draw follows from the middle, kept from the left; the number at the end of each."""
    blue, orange, green = canvas.theme.series[:3]
    start, length, thick = left + 58, width - 58 - 48, 11
    track = canvas.theme.diverging[len(canvas.theme.diverging) // 2]
    middle = start + length / 2

    def bar(name: str, number: str, y: int, begin: float, part: float, colour: Colour) -> None:
        canvas.text((left, y + thick / 2), name, 14, anchor="lm")
        draw_level(canvas, (start, y), (length, thick), part, colour, track, begin)
        canvas.text((left + width, y + thick / 2), number, 14, anchor="rm")

    half = abs(score.follows) / 2
    begin, colour = (0.5, blue) if score.follows >= 0 else (0.5 - half, orange)
    bar("follows", f"{round(score.follows, 2) + 0.0:.2f}", top, begin, half, colour)
    canvas.line([(middle, top - 3), (middle, top + thick + 2)])
    if score.kept is None:
        bar("kept", "none", top + BAR, 0, 0, green)
    else:
        bar("kept", f"{score.kept:.2f}", top + BAR, 0, score.kept, green)


def _mark(canvas: Canvas, left: int, top: int, width: int, height: int) -> None:
    colour = canvas.theme.series[2]
    right, bottom = left + width, top + height
    canvas.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], colour, 3)


def _covered(b: Tensor, same: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Show b where it should stay, and stripes where the pair changes."""
    height, width = same.shape
    period = max(4, (height + width) // 40)
    diagonal = torch.arange(height)[:, None] + torch.arange(width)
    striped = torch.where((diagonal % period < period / 2)[..., None], torch.tensor(colour) / 255, 0.5)
    return torch.where(same[..., None], b.float().cpu(), striped)


def _percent(same: Tensor) -> str:
    return f"{100 * same.float().mean():.0f} %"
