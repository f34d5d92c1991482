"""The reach study's results, as a table in `docs/small_world.md` and plots beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from lorweb_core.files.image_file import write_png
from lorweb_core.pictures.chart import bar_chart
from small_world.reach_study import KINDS, RESULTS, ROWS, VARIANTS, WAYS
from small_world.study import read
from small_world.study_report import PAGE, spread, write_table

Found = dict[str, list[dict]]
"""Results by row, one for each seed."""

LABELS = dict(zip(KINDS, ("new pairs", "inside", "outside", "whole families", "untaught families"), strict=True))
ERROR = "error / copying"
MEASURES = {
    ERROR: "error of b′, of copying b's",
    "follows": "direction in the embedding",
    "along": "share of the change that is made",
    "beside": "change × 1000 where none is wanted",
}
DIGITS, THOUSANDTHS = 2, 1000


class Chart(NamedTuple):
    """Say what a plot shows."""

    file: str
    title: str
    unit: str
    measure: str
    rows: tuple[str, ...]


_NAMES = tuple(VARIANTS)
_ERROR = "mean squared error, as a share of copying b's"
CHARTS = (
    Chart("reach_sizes.png", "N LoRAs of rank r: what is wrong with b'", _ERROR, ERROR, _NAMES[:5]),
    Chart("reach_modes.png", "Queries, the pair shown, what is sampled", _ERROR, ERROR, ("16 × 1", *_NAMES[5:])),
    Chart("reach_ways.png", "Told, routed, fitted, a LoRA fitted as long", _ERROR, ERROR, tuple(WAYS)),
    Chart(
        "reach_beside.png",
        "What changes where nothing should",
        "mean squared change of pixels from 0 to 1, times 1000",
        "beside",
        ("1 × 16", "16 × 1", *WAYS),
    ),
)


def write_report(page: Path = PAGE) -> None:
    """Write the table and the plots of the reach study anew, and show the plots below the table."""
    found = by_row(read(RESULTS))
    shown = [table(found)]
    for chart in CHARTS:
        if groups := bars(found, chart):
            write_png(bar_chart(groups, chart.title, chart.unit, "light"), page.with_name(chart.file))
            shown.append(f"![{chart.title}]({chart.file})\n")
    write_table(page, "\n".join(shown), "reach")


def by_row(results: Iterable[dict]) -> Found:
    """Group results by row, in the order of ROWS; those without results are left out."""
    results = list(results)
    found = {name: [result for result in results if result["row"] == name] for name in ROWS}
    return {name: seeds for name, seeds in found.items() if seeds}


def values(seeds: Iterable[dict], kind: str, measure: str) -> list[float]:
    """List what the seeds came to: errors as shares of copying's, `beside` in thousandths; none that is not known."""
    if measure == ERROR:
        return [result[kind]["error"] / result[kind]["copying"] for result in seeds]
    scale = THOUSANDTHS if measure == "beside" else 1
    return [scale * result[kind][measure] for result in seeds if result[kind][measure] is not None]


def table(found: Found) -> str:
    """Format results as a table in Markdown, one measure after the other: mean and standard deviation over seeds."""
    lines = [
        f"| | values of LoRAs + router | seeds | {' | '.join(LABELS.values())} |",
        "| --- | --- | --- |" + " --- |" * len(KINDS),
    ]
    for measure, title in MEASURES.items():
        lines.append(f"| **{title}** | | |" + " |" * len(KINDS))
        for name, seeds in found.items():
            cells = [_cell(values(seeds, kind, measure)) for kind in KINDS]
            lines.append(f"| {name} | {_learned(seeds[0])} | {len(seeds)} | {' | '.join(cells)} |")
    for what, names in (("bases solve", VARIANTS), ("the others solve", WAYS)):
        if seeds := [result for name in names for result in found.get(name, ())]:
            copying = [mean(result[kind]["copying"] for result in seeds) for kind in KINDS]
            errors = " | ".join(f"{error:.4f}" for error in copying)
            lines.append(f"| **error of copying b, of what {what}** | | | {errors} |")
    return "\n".join(lines) + "\n"


def bars(found: Found, chart: Chart) -> dict[str, dict[str, tuple[float, float]]]:
    """Gather a plot's groups of bars, one for each of its rows that is known, as `bar_chart` takes them."""
    groups = {}
    for name in chart.rows:
        measured = {LABELS[kind]: values(found.get(name, ()), kind, chart.measure) for kind in KINDS}
        if known := {label: spread(of_seeds) for label, of_seeds in measured.items() if of_seeds}:
            groups[name.replace("×", "x")] = known
    return groups


def _learned(result: dict) -> str:
    return f"{result['loras']:,} + {result['router']:,}" if "loras" in result else ""


def _cell(of_seeds: list[float]) -> str:
    if not of_seeds:
        return ""
    middle, deviation = spread(of_seeds)
    return f"{middle:.{DIGITS}f}" + (f" ± {deviation:.{DIGITS}f}" if len(of_seeds) > 1 else "")
