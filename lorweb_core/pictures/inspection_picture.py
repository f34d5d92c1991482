"""An inspection as a picture: layers × basis LoRAs, grouped by what layers do, with sizes above and profiles beside."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..grid import Size, fit_inside
from ..space.inspection import Inspection
from .canvas import Canvas, Colour, coloured
from .captions import elided
from .chart import bars, draw_level
from .heat_map import SMALL, Scale, blended, colour_bar, index_ticks, number, scale_for, step_for
from .inspection_layout import BARS, GAP, MARGIN, PROFILE, Layout, layout_for
from .thumbnails import Thumbnails


def inspection_picture(inspection: Inspection, theme: str = "dark") -> Tensor:
    """Draw an inspection: (H, W, 3), float32 in 0–1.

    Its size depends on layers, N, and whether there are thumbnails and a comparison."""
    compared = inspection.compared
    layout = layout_for(inspection)
    canvas = Canvas(layout.width, layout.height, theme)
    colours = canvas.theme.series
    views = [("mixture", inspection, colours[0])]
    if compared:
        views.append(("compare_with", compared.other, colours[1]))
    _title(canvas, layout, [view for _, view, _ in views])
    _group_labels(canvas, layout)
    scale = scale_for(torch.stack([view.coefficients for _, view, _ in views]), canvas.theme)
    most = max(float(view.lora_sizes.max()) for _, view, _ in views)
    for left, (name, view, colour) in zip(layout.panels, views, strict=False):
        _thumbnails(canvas, (left, layout.top), layout, view.thumbnails)
        _sizes(canvas, left, layout, view, most, colour, name if compared else "")
        _heat_map(canvas, left, layout, view.coefficients, scale, "coefficient")
    if not compared:
        entropy, sizes = ([(values, colours[0])] for values in (inspection.entropy, inspection.layer_sizes))
        _profile(canvas, 0, layout, ["entropy", "of each layer, bits"], entropy, (0, _most_entropy(inspection)))
        high = float(inspection.layer_sizes.max()) or 1.0
        _profile(canvas, 1, layout, ["change |dW|", "of each layer"], sizes, (0, high))
        return canvas.tensor()
    _cosines(canvas, layout, compared.cosine, compared.change_cosine)
    difference = compared.difference
    signed = scale_for(difference, canvas.theme, signed=True)
    _heat_map(canvas, layout.panels[2], layout, difference, signed, "mixture - compare_with")
    entropies = [(view.entropy, colour) for _, view, colour in views]
    _profile(canvas, 0, layout, ["entropy", "mixture", "compare_with"], entropies, (0, _most_entropy(inspection)))
    cosines = [(compared.layer_cosines, colours[2]), (compared.layer_change_cosines, colours[3])]
    low = -1 if min(float(values.min()) for values, _ in cosines) < 0 else 0
    _profile(canvas, 1, layout, ["cosine", "of coefficients", "of changes dW"], cosines, (low, 1))
    return canvas.tensor()


def _most_entropy(inspection: Inspection) -> float:
    return math.log2(inspection.coefficients.shape[1]) or 1.0


def _title(canvas: Canvas, layout: Layout, views: Sequence[Inspection]) -> None:
    count, n = views[0].coefficients.shape
    layers = "1 layer" if count == 1 else f"{count} layers"
    changes = " and ".join(number(view.total) for view in views)
    canvas.text((MARGIN, MARGIN - 4), elided(canvas, views[0].basis, 20, layout.width - 2 * MARGIN), 20)
    facts = f"N = {n} LoRAs,  {layers},  total change |dW| = {changes}"
    canvas.text((MARGIN, MARGIN + 26), facts, 14, canvas.theme.faint)


def _group_labels(canvas: Canvas, layout: Layout) -> None:
    """Write the names of the groups, and the numbers of some blocks beside their rows."""
    faint, right = canvas.theme.faint, layout.panels[0] - 8
    canvas.text((right, layout.base + 4), "block", SMALL, faint, "ra")
    for group in layout.groups:
        middle = sum(group.slot) / 2
        canvas.text((MARGIN, middle - 2), group.kind, 14, anchor="ls")
        canvas.text((MARGIN, middle + 3), group.stream, SMALL, faint, "la")
        rows: dict[tuple[str, int], list[int]] = {}
        for row, block in enumerate(group.blocks):
            rows.setdefault(block, []).append(row)
        apart = layout.row * len(group.layers) / len(rows)
        step = step_for(apart, 13)
        for (sort, index), places in rows.items():
            if index % step or sort == "other":
                continue
            y = group.top + layout.row * (places[0] + places[-1] + 1) / 2
            canvas.line([(right + 2, y), (right + 6, y)])
            canvas.text((right, y), str(index), 11, faint, "rm")


def _thumbnails(canvas: Canvas, at: tuple[int, int], layout: Layout, shown: Sequence[Thumbnails]) -> None:
    """Draw as many triplets as there is room for."""
    end = layout.width - MARGIN if len(layout.panels) == 1 else at[0] + layout.panel
    side = layout.thumbnail
    triplet = 3 * side + 2 * 8
    fit = max(1, (end - at[0] + GAP) // (triplet + GAP))
    for index, thumbnails in enumerate(shown[:fit]):
        for place, (name, image) in enumerate(zip(("a", "a'", "b"), thumbnails, strict=True)):
            small = fit_inside(image / 255, Size(side, side), enlarge=False)
            left = at[0] + index * (triplet + GAP) + place * (side + 8)
            canvas.picture((left + (side - small.shape[1]) // 2, at[1] + side - small.shape[0]), small)
            canvas.text((left + side / 2, at[1] + side + 5), name, 13, canvas.theme.faint, "ma")
    if len(shown) > fit:
        canvas.text((end, at[1] + side + 5), f"+ {len(shown) - fit} more", SMALL, canvas.theme.faint, "ra")


def _sizes(canvas: Canvas, left: int, layout: Layout, view: Inspection, most: float, colour: Colour, name: str) -> None:
    """Draw the bars of the LoRAs' sizes, under a heading that ranks the largest."""
    heading = layout.base - BARS - 42
    if name:
        canvas.text((left, heading), name, 14, colour)
    else:
        canvas.text((left, heading), "size of each LoRA's change, |c A B|", 14)
    text = "no change"
    for place, n in enumerate(view.ranking):
        longer = f"{f'{text}, ' if place else 'largest: '}{n} ({float(view.shares[n]):.1%})"
        if not view.lora_sizes[n] or canvas.text_width(longer, SMALL) > layout.panel:
            break
        text = longer
    canvas.text((left, heading + 19), text, SMALL, canvas.theme.faint)
    bars(canvas, (left, layout.base), BARS - 14, view.lora_sizes, most, layout.cell, colour)


def _heat_map(canvas: Canvas, left: int, layout: Layout, table: Tensor, scale: Scale, what: str) -> None:
    labels = range(table.shape[1])
    index_ticks(canvas, (left, layout.base + 5), labels, layout.cell)
    rows = coloured(scale(table[[layer for group in layout.groups for layer in group.layers]]), scale.colours)
    parts = rows.split([len(group.layers) for group in layout.groups])
    for group, part in zip(layout.groups, parts, strict=True):
        canvas.blocks((left, group.top), part, (layout.cell, layout.row))
    index_ticks(canvas, (left, layout.bottom + 4), labels, layout.cell)
    colour_bar(canvas, (left, layout.bottom + 28), min(layout.panel, 210), scale, what)


def _cosines(canvas: Canvas, layout: Layout, coefficients: float, changes: float) -> None:
    left, top = layout.panels[2], layout.base - BARS - 42
    canvas.text((left, top), "difference", 14)
    for line, (what, value, colour) in enumerate(
        [("cosine of coefficients", coefficients, 2), ("cosine of changes dW", changes, 3)]
    ):
        y = top + 32 + 24 * line
        canvas.text((left, y), what, 14, canvas.theme.series[colour])
        canvas.text((left + 200, y), f"{value:.3f}", 14, anchor="ra")


def _profile(
    canvas: Canvas,
    place: int,
    layout: Layout,
    captions: Sequence[str],
    series: Sequence[tuple[Tensor, Colour]],
    axis: tuple[float, float],
) -> None:
    """Draw a value per layer beside its row: a bar, or of several series a mark each, in the colour of its caption."""
    left, (low, high) = layout.profiles[place], axis
    caption_colours = [canvas.theme.text, *([colour for _, colour in series] if len(series) > 1 else [])]
    for line, caption in enumerate(captions):
        colour = caption_colours[line] if line < len(caption_colours) else canvas.theme.faint
        y = layout.base + 2 - 17 * (len(captions) - line)
        canvas.text((left, y), caption, 14 if line == 0 else SMALL, colour)
    grid = blended(canvas.theme.background, canvas.theme.faint, 0.35)
    for tick in (low, (low + high) / 2, high):
        x = left + (tick - low) / (high - low) * PROFILE
        for group in layout.groups:
            canvas.line([(x, group.top), (x, group.top + layout.row * len(group.layers) - 1)], grid)
        for y in (layout.base + 5, layout.bottom + 4):
            anchor = {low: "la", high: "ra"}.get(tick, "ma")
            canvas.text((x, y), number(tick), SMALL, canvas.theme.faint, anchor)
    gap = 1 if layout.row > 6 else 0
    # Marks stand under one another where there is room, so that none hides another.
    apart = layout.row // len(series) if layout.row >= 8 else 0
    mark = max(3, apart or layout.row - gap)
    for group in layout.groups:
        for index, (values, colour) in enumerate(series):
            for row, value in enumerate(values[group.layers].tolist()):
                y, x = group.top + row * layout.row, left + (value - low) / (high - low) * PROFILE
                if len(series) == 1:
                    draw_level(canvas, (left, y), (PROFILE, layout.row - gap), (value - low) / (high - low), colour)
                else:
                    canvas.box((round(x) - 2, y + index * apart), 4, mark, colour)
