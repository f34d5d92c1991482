"""What the study found, as a table in `docs/small_world.md` and plots beside it."""

from __future__ import annotations

import re
from statistics import mean, stdev

from lorweb_core.files.atomic import replacing
from lorweb_core.files.image_file import write_png
from lorweb_core.pictures.chart import bar_chart
from small_world.study import RESULTS, VARIANTS, read

DOCS = RESULTS.parent
PAGE = DOCS / "small_world.md"
POOLS = {"seen": "seen edits", "new_pairs": "new pairs", "new_edits": "new edits"}
CHARTS = {
    "error": ("Small world: how far b' is from what it should be", "mean squared error in pixels from 0 to 1"),
    "follows": ("Small world: how b' follows the example", "cosine of a to a' and b to b' in the encoder's embedding"),
}
_TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.DOTALL)


def write_report() -> None:
    found = by_variant(read())
    page = PAGE.read_text(encoding="utf-8")
    with replacing(PAGE) as file:
        file.write(_TABLE.sub(lambda marks: f"{marks[1]}{table(found)}{marks[2]}", page).encode())
    copied = {told: (copying(found, pool), 0.0) for pool, told in POOLS.items()}
    for measure, (title, unit) in CHARTS.items():
        groups = {
            name.replace("×", "x"): {told: spread([row[pool][measure] for row in of]) for pool, told in POOLS.items()}
            for name, of in found.items()
        }
        if measure == "error":
            groups = {"copying b": copied} | groups
        write_png(bar_chart(groups, title, unit, "light"), DOCS / f"small_world_{measure}.png")


def by_variant(rows: list[dict]) -> dict[str, list[dict]]:
    found = {name: [row for row in rows if row["variant"] == name] for name in VARIANTS}
    return {name: of for name, of in found.items() if of}


def spread(values: list[float]) -> tuple[float, float]:
    """Mean, and standard deviation over the seeds."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def copying(found: dict[str, list[dict]], pool: str) -> float:
    """The error of b in the place of b', which is the same whoever asks."""
    return mean(row[pool]["copying"] for of in found.values() for row in of)


def table(found: dict[str, list[dict]]) -> str:
    lines = [
        "| N × r | values | seeds | " + " | ".join(f"{told}: error | follows" for told in POOLS.values()) + " |",
        "| --- | --- | --- |" + " --- |" * 6,
        "| copying b | | | " + " | ".join(f"{copying(found, pool):.4f} | " for pool in POOLS) + " |",
    ]
    for name, of in found.items():
        cells = []
        for pool in POOLS:
            for measure, digits in (("error", 4), ("follows", 2)):
                middle, deviation = spread([row[pool][measure] for row in of])
                cells.append(f"{middle:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(of) > 1 else ""))
        lines.append(f"| {name} | {of[0]['parameters']:,} | {len(of)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
