"""A training at a glance: its loss and learning rate, and how the basis is used so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..layer_names import grouped
from .canvas import Canvas
from .chart import Axis, Line, bars, draw_level, draw_lines, linear_axis, log_axis, whole_axis
from .heat_map import SMALL, Scale, blended, colour_bar, index_ticks, number
from .loss_curve import LoggedStep, mean_width, recent_loss, running_mean, seconds_per_step

if TYPE_CHECKING:
    from ..space.usage import Usage

MARGIN = 24
CURVES = 480
"""Width of the curves, pixels."""

LOSS, TALLEST, RATE = 300, 560, 90
"""Heights: of the loss at least, and at most where there are many layers beside it; of the learning rate."""

LABELS = 92
"""Left of the heat map."""

BARS, ENTROPY = 110, 110
GROUP_GAP = 6


def training_picture(losses: Sequence[LoggedStep], usage: Usage | None = None, theme: str = "dark") -> Tensor:
    """(H, W, 3), float32 in 0–1; its size depends on layers and N. losses: in order of their steps, some may lack.

    usage: None leaves its half away, as for an activation-routed basis.
    """
    first = MARGIN + 56
    left, base = first + CURVES + 48 + LABELS, 100 + BARS
    width, loss, around = first + CURVES + MARGIN, LOSS, 108 + 66 + RATE + 58
    bottom = around + loss
    if usage:
        rows, cell, groups, end = _rows(usage, base + 26)
        panel = max(230, cell * len(usage.shares))
        width, bottom = left + panel + 32 + ENTROPY + MARGIN, max(bottom, end + 88)
        loss = min(TALLEST, bottom - around)
    canvas = Canvas(width, bottom, theme)
    canvas.text((MARGIN, 16), _title(losses), 20)
    canvas.text((MARGIN, 44), _facts(losses), 14, canvas.theme.faint)
    _draw_loss(canvas, losses, (first, 108), loss)
    _draw_rate(canvas, losses, (first, 108 + loss + 66))
    if usage:
        _draw_shares(canvas, usage, (left, base), cell)
        _draw_layers(canvas, usage, groups, left, (rows, cell), end)
        _draw_entropy(canvas, usage, groups, (left + panel + 32, base), rows, end)
    return canvas.tensor()


def _title(losses: Sequence[LoggedStep]) -> str:
    if not losses:
        return "Training: no step is done yet"
    steps, over = losses[-1].number, min(mean_width(len(losses)), len(losses))
    mean = f", mean of the last {over:,}" if over > 1 else ""
    return f"Training: {steps:,} step{'s' * (steps != 1)}, loss {number(recent_loss(losses))}{mean}"


def _facts(losses: Sequence[LoggedStep]) -> str:
    if not losses:
        return ""
    lowest = min(losses, key=lambda step: step.loss)
    return (
        f"{number(seconds_per_step(losses))} s a step   |   lowest loss {number(lowest.loss)} at step {lowest.number:,}"
    )


def _draw_loss(canvas: Canvas, losses: Sequence[LoggedStep], at: tuple[int, int], height: int) -> None:
    theme = canvas.theme
    width = mean_width(len(losses))
    canvas.text((MARGIN, at[1] - 34), "Loss", 14)
    canvas.text((at[0] + CURVES, at[1] - 20), f"each step, and the mean over {width:,}", SMALL, theme.faint, "ra")
    values = [step.loss for step in losses]
    numbers = [step.number for step in losses]
    pale = blended(theme.series[0], theme.background, 0.5)
    each = Line(list(zip(numbers, values, strict=True)), pale, 1 if len(losses) > 200 else 2)
    mean = Line(list(zip(numbers, running_mean(values, width), strict=True)), theme.series[0], 3)
    lines = [each, mean] if len(losses) > 1 else [mean]
    draw_lines(canvas, at, (CURVES, height), lines, _steps(losses), log_axis(values))


def _draw_rate(canvas: Canvas, losses: Sequence[LoggedStep], at: tuple[int, int]) -> None:
    canvas.text((MARGIN, at[1] - 30), "Learning rate", 14)
    rates = [(step.number, step.learning_rate) for step in losses]
    axis = linear_axis((rate for _, rate in rates), marks=2)
    draw_lines(canvas, at, (CURVES, RATE), [Line(rates, canvas.theme.series[1], 3)], _steps(losses), axis)
    canvas.text((at[0] + CURVES / 2, at[1] + RATE + 28), "step", 13, canvas.theme.faint, "ma")


def _steps(losses: Sequence[LoggedStep]) -> Axis:
    return whole_axis(losses[-1].number if losses else 1)


Groups = list[tuple[str, str, list[int], int]]
"""Kind, stream, the layers' indices, and the pixel where their rows begin."""


def _rows(usage: Usage, top: int) -> tuple[int, int, Groups, int]:
    """Height of a layer's row, width of a LoRA's column, the layers by what they do, and where the last row ends."""
    count, n = usage.layer_shares.shape
    row = min(24, max(1, 760 // count if count < 190 else 1000 // count))
    cell = min(48, max(1, 480 // n))
    groups: Groups = []
    for kind, stream, layers in grouped(usage.layers):
        groups.append((kind, stream, layers, top))
        # Room for the group's two lines of name, however few layers it has.
        top += max(len(layers) * row, 34) + GROUP_GAP
    return row, cell, groups, top - GROUP_GAP


def _draw_shares(canvas: Canvas, usage: Usage, at: tuple[int, int], cell: int) -> None:
    """A bar for each LoRA, the line of an even share, and the dead ones by number."""
    theme, shares, n = canvas.theme, usage.shares, len(usage.shares)
    left, base = at
    over = f"{usage.analogies:,} analog{'y' if usage.analogies == 1 else 'ies'}"
    canvas.text((left, base - BARS - 26), f"Share of each LoRA in the change, over {over}", 14)
    dead = usage.dead
    listed = ", ".join(map(str, dead[:8])) + (", ..." if len(dead) > 8 else "")
    said = f"{len(dead)} of {n} dead: {listed}" if dead else f"none of {n} is dead" if shares.any() else "no change yet"
    canvas.text((left, base - BARS - 6), said, SMALL, theme.series[1] if dead else theme.faint)
    height = BARS - 26
    most = max(float(shares.max()), 1 / n)
    bars(canvas, at, height, shares, most, cell, theme.series[0], 0)
    even = base - height / (n * most)
    canvas.line([(left, even), (left + cell * n - 1, even)], theme.series[1], 2)
    canvas.text((left - 8, even), f"even {1 / n:.3g}", SMALL, theme.series[1], "rm")
    index_ticks(canvas, (left, base + 5), range(n), cell)


def _draw_layers(canvas: Canvas, usage: Usage, groups: Groups, left: int, size: tuple[int, int], end: int) -> None:
    """The heat map layers × LoRAs. size: height and width of a cell."""
    row, cell = size
    even = 1 / len(usage.shares)
    # An even share is a third of the scale at the least, so that even use does not look like much use; and a few
    # layers that have one LoRA alone do not make all others look alike.
    most = float(usage.layer_shares.quantile(0.995))
    scale = Scale(0.0, min(1.0, max(3 * even, most)), canvas.theme.sequential)
    for kind, stream, layers, top in groups:
        canvas.text((left - 8, top), kind, 13, anchor="ra")
        canvas.text((left - 8, top + 17), stream, SMALL, canvas.theme.faint, "ra")
        canvas.cells((left, top), scale(usage.layer_shares[layers]), (cell, row), scale.colours)
    above = "; the end: so much or more" if float(usage.layer_shares.max()) > scale.high else ""
    colour_bar(canvas, (left, end + 20), 210, scale, f"mean share in each layer's change{above}")


def _draw_entropy(canvas: Canvas, usage: Usage, groups: Groups, at: tuple[int, int], row: int, end: int) -> None:
    """A bar beside each layer's row, and the line of their mean."""
    (left, base), theme = at, canvas.theme
    mean = float(usage.entropy.mean())
    canvas.text((left, base - 36), "Entropy", 14)
    canvas.text((left, base - 18), f"mean {mean:.2f}", SMALL, theme.series[1])
    track = blended(theme.background, theme.faint, 0.15)
    for _, _, layers, top in groups:
        canvas.box((left, top), ENTROPY, row * len(layers), track)
        for place, value in enumerate(usage.entropy[layers].tolist()):
            gap = 1 if row > 4 else 0
            draw_level(canvas, (left, top + place * row), (ENTROPY, row - gap), value, theme.series[2])
    canvas.line([(left + mean * ENTROPY, groups[0][3]), (left + mean * ENTROPY, end)], theme.series[1], 2)
    for place, text, anchor in ((0, "0 one", "la"), (1, "even 1", "ra")):
        for y in (base + 5, end + 4):
            canvas.text((left + place * ENTROPY, y), text, SMALL, theme.faint, anchor)
