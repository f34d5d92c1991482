"""An export at a glance: how the error falls with the rank, where this file stands, and where its error is."""

from __future__ import annotations

import math

from torch import Tensor

from ..export.report import Report, total_error
from ..layer_names import grouped
from .canvas import Canvas
from .captions import elided
from .chart import draw_level

WIDTH, HEIGHT = 960, 470
# Errors are drawn on a logarithmic scale of so many decades below 100 %.
_DECADES = 4
_BAR = 290


def export_picture(report: Report, theme: str = "dark") -> Tensor:
    """Draw an export: (H, W, 3), float32 in 0–1."""
    canvas = Canvas(WIDTH, HEIGHT, theme)
    canvas.text((24, 18), elided(canvas, report.file, 20, WIDTH - 48), 20)
    canvas.text((24, 48), _facts(report), 14, canvas.theme.faint)
    _draw_curve(canvas, report, (84, 112), (410, 300))
    _draw_groups(canvas, report, (560, 84))
    return canvas.tensor()


def _facts(report: Report) -> str:
    compressed = {"exact": "exact", "rank": "compressed to a rank", "error": "compressed to an error"}[report.mode]
    left_out = f" ({report.left_out} unchanged left out)" if report.left_out else ""
    return (
        f"{compressed}   |   {_ranks(report)}   |   {report.bytes / 1e6:,.1f} MB, {report.dtype}   |   "
        f"{_layers(len(report.layers))}{left_out}   |   total error {percent(report.error)}"
    )


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _ranks(report: Report) -> str:
    lowest, highest = report.ranks
    return f"rank {lowest}" if lowest == highest else f"rank {lowest} to {highest}"


def _draw_curve(canvas: Canvas, report: Report, at: tuple[int, int], size: tuple[int, int]) -> None:
    canvas.text((at[0] - 60, at[1] - 28), "Total error, if every layer had this rank", 14)
    errors = report.error_by_rank
    last = max(1, len(errors) - 1, report.ranks[1])
    y_ticks = [(1 - decade / _DECADES, percent(10**-decade)) for decade in range(_DECADES + 1)]
    x_ticks = [(rank / last, str(rank)) for rank in _steps(last)]
    lines = [[(rank / last, _height(error)) for rank, error in enumerate(errors)]] if len(errors) > 1 else []
    canvas.plot(at, size, lines, x_ticks, y_ticks)
    canvas.text((at[0] + size[0] / 2, at[1] + size[1] + 28), "rank", 13, canvas.theme.faint, "ma")

    # This file: from its lowest rank to its highest, at its error.
    colour = canvas.theme.series[1]
    lowest, highest = (at[0] + rank / last * size[0] for rank in report.ranks)
    y = at[1] + (1 - _height(report.error)) * size[1]
    canvas.line([(lowest, y), (highest, y)], colour, 3)
    for x in {lowest, highest}:
        canvas.draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
    label = f"{_ranks(report)}: {percent(report.error)}"
    width = canvas.text_width(label)
    middle = min(max((lowest + highest) / 2, at[0] + width / 2 + 8), at[0] + size[0] - width / 2 - 8)
    below = y < at[1] + 40
    box = (middle - width / 2 - 4, y + 10 if below else y - 30)
    canvas.box(box, width + 8, 20, canvas.theme.background)
    canvas.text((middle, box[1] + 10), label, 14, colour, "mm")


def _draw_groups(canvas: Canvas, report: Report, at: tuple[int, int]) -> None:
    canvas.text(at, "Error by kind of layer and stream", 14)
    groups = _groups(report)
    most = max((error for _, error, _ in groups), default=0.0) or 1.0
    for row, (label, error, count) in enumerate(groups):
        top = at[1] + 30 + 38 * row
        canvas.text((at[0], top), label, 13)
        canvas.text((at[0] + _BAR, top), _layers(count), 13, canvas.theme.faint, "ra")
        track, colour = canvas.theme.sequential[0], canvas.theme.series[0]
        draw_level(canvas, (at[0], top + 19), (_BAR, 9), error / most, colour, track)
        canvas.text((at[0] + _BAR + 10, top + 24), percent(error), 13, anchor="lm")


def _groups(report: Report) -> list[tuple[str, float, int]]:
    """List the groups of layers: label, error over the group, number of layers."""
    groups, names = [], list(report.layers)
    for kind, stream, members in grouped(names):
        reports = {names[i]: report.layers[names[i]] for i in members}
        label = f"{kind}, {'both streams' if stream == 'both' else stream}"
        groups.append((label, total_error(reports), len(reports)))
    return groups


def percent(share: float) -> str:
    """Write a share in three figures at most: 41.2 %, 0.021 %."""
    return f"{share * 100:.3g} %" if share * 100 >= 1e-3 or not share else f"{share * 100:.0e} %"


def _height(error: float) -> float:
    """Place an error on the logarithmic scale, 1 for 100 %."""
    return min(1.0, max(0.0, 1 + math.log10(max(error, 1e-30)) / _DECADES))


def _steps(last: int) -> list[int]:
    """Choose about five round numbers from 0 to the last."""
    step = next(s for p in range(9) for s in (10**p, 2 * 10**p, 4 * 10**p, 5 * 10**p, 8 * 10**p) if last <= 5 * s)
    return list(range(0, last + 1, step))
