"""The study's results, as a table in `docs/small_world.md` and plots beside it."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean, stdev

from lorweb_core.files.atomic import replacing
from lorweb_core.files.image_file import write_png
from lorweb_core.pictures.chart import bar_chart
from small_world.study import RESULTS, VARIANTS, read

DOCS = RESULTS.parent
PAGE = DOCS / "small_world.md"
SPLITS = {"seen": "seen edits", "new_pairs": "new pairs", "new_edits": "new edits"}
CHARTS = {
    "error": ("Small world: how far b' is from what it should be", "mean squared error in pixels from 0 to 1"),
    "follows": ("Small world: how b' follows the example", "cosine of a to a' and b to b' in the encoder's embedding"),
}


def write_report() -> None:
    """Write the table and the plots of `docs/small_world.md` anew."""
    found = by_variant(read())
    write_table(PAGE, table(found))
    copied = {label: (copying_error(found, split), 0.0) for split, label in SPLITS.items()}
    for measure, (title, unit) in CHARTS.items():
        groups = {
            name.replace("×", "x"): {
                label: spread([row[split][measure] for row in rows]) for split, label in SPLITS.items()
            }
            for name, rows in found.items()
        }
        if measure == "error":
            groups = {"copying b": copied} | groups
        write_png(bar_chart(groups, title, unit, "light"), DOCS / f"small_world_{measure}.png")


def write_table(page: Path, content: str, name: str = "table") -> None:
    """Write a page's table anew, between the marks of its name."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    text = page.read_text(encoding="utf-8")
    with replacing(page) as file:
        file.write(marks.sub(lambda found: f"{found[1]}{content}{found[2]}", text).encode())


def by_variant(rows: list[dict]) -> dict[str, list[dict]]:
    """Group results by variant, in the order of VARIANTS; those without results are left out."""
    found = {name: [row for row in rows if row["variant"] == name] for name in VARIANTS}
    return {name: results for name, results in found.items() if results}


def spread(values: list[float]) -> tuple[float, float]:
    """Compute mean and standard deviation over the seeds."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def copying_error(found: dict[str, list[dict]], split: str) -> float:
    """Average the error that b has in the place of b', which no variant changes."""
    return mean(row[split]["copying"] for rows in found.values() for row in rows)


def table(found: dict[str, list[dict]]) -> str:
    """Format the results of `by_variant` as a table in Markdown."""
    lines = [
        "| N × r | values | seeds | " + " | ".join(f"{label}: error | follows" for label in SPLITS.values()) + " |",
        "| --- | --- | --- |" + " --- |" * 6,
        "| copying b | | | " + " | ".join(f"{copying_error(found, split):.4f} | " for split in SPLITS) + " |",
    ]
    for name, rows in found.items():
        cells = []
        for split in SPLITS:
            for measure, digits in (("error", 4), ("follows", 2)):
                middle, deviation = spread([row[split][measure] for row in rows])
                cells.append(f"{middle:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(rows) > 1 else ""))
        lines.append(f"| {name} | {rows[0]['parameters']:,} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
