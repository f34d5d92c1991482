"""The page of an evaluation: its tables, the paper's beside them, and every picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..files.atomic import replacing
from .judge import NO_JUDGE, STAND_IN
from .metrics import MEASURES
from .paper import CITATION, LINK, PUBLISHED, Published
from .run_folder import GIVEN, PAGE, TABLE, EvaluationFolder
from .settings import EvaluationSettings
from .table import OUTCOMES, RATINGS, Answers, Cell, Table, count_answers, tables
from .tasks import Item

_STYLE = """
:root { color-scheme: light dark; --soft: #70747c; --line: #d8dae0; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem;
       background: #fff; color: #1c1e22; }
.tables { display: flex; gap: 1rem 3rem; align-items: flex-start; font-size: .9rem; overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
caption { text-align: left; font-weight: 600; }
th, td { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; font-weight: normal; }
td { white-space: nowrap; }
thead th { color: var(--soft); border-bottom: 1px solid var(--line); max-width: 7.5rem; }
.warning { border-left: 4px solid #d08700; padding-left: .8rem; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
small, figcaption { color: var(--soft); }
.item { display: flex; gap: .6rem; overflow-x: auto; margin: .6rem 0 1.4rem; }
figure { margin: 0; flex: 1 1 0; min-width: 7rem; max-width: 16rem; }
figure img { width: 100%; display: block; }
figcaption { font-size: .8rem; }
@media (prefers-color-scheme: dark) {
  :root { --soft: #8c929c; --line: #3a3e46; }
  body { background: #181a1e; color: #e6e8ec; }
}
"""

_WORDS = {"preservation": "preservation", "accuracy": "accuracy"} | MEASURES
_SHOWN = {"a": "a", "a_prime": "a′", "b": "b", "b_prime": "b′ of the data"}


def write_page(folder: EvaluationFolder, settings: EvaluationSettings, items: Sequence[Item]) -> Path:
    """Write the page, and its tables as JSON beside it; returns the page. Raises LoRWebError if one cannot be."""
    made = tables(folder, items, settings.ways, settings.held_against)
    answers = count_answers(folder, items, settings.ways)
    with replacing(folder.path / TABLE) as file:
        file.write(json.dumps(_document(made, answers), indent=1).encode())
    page = folder.path / PAGE
    with replacing(page) as file:
        lines = _page(folder, settings, items, made, answers)
        file.write("\n".join(lines).encode(errors="backslashreplace"))
    return page


def _document(made: Iterable[Table], answers: dict[str, Answers]) -> dict[str, Any]:
    def cells(rows: dict[str, dict[str, Cell | None]]) -> dict[str, Any]:
        return {way: {name: cell and cell._asdict() for name, cell in row.items()} for way, row in rows.items()}

    return {
        "groups": [
            table._asdict() | {"cells": cells(table.cells), "preferences": cells(table.preferences)} for table in made
        ],
        "answers": {kind: count._asdict() for kind, count in answers.items()},
    }


def _page(
    folder: EvaluationFolder,
    settings: EvaluationSettings,
    items: Sequence[Item],
    made: Sequence[Table],
    answers: dict[str, Answers],
) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>LoRWeB evaluation</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Evaluation</h1>"
    yield from map(_paragraph, _warnings(settings, answers))
    columns = _columns(settings, made)
    yield '<div class="tables"><div>'
    for table in made:
        yield from _our_table(table, settings, columns)
        if settings.judge != NO_JUDGE and table.preferences:
            yield from _preference_table(table, settings)
    yield "</div>"
    yield from _papers_table()
    yield "</div><p><small>Mean ± standard deviation over tasks; each task is the mean of its analogies. LPIPS is "
    yield "between b and b′, the squared error between b′ and the data’s: of both less is better, of the rest more. "
    yield "The CLIP direction is the cosine between b → b′ and a → a′, with the text between b → b′ and no words → "
    yield "the caption.</small></p>"
    yield "<h2>Pictures</h2>"
    for task, held in groupby(items, key=lambda item: item.task):
        yield f"<h3>{escape(task)}</h3>"
        for item in held:
            yield from _pictures(folder, settings, columns, item)
    yield '<h2>Settings</h2><table class="settings">'
    yield from (f"<tr><th>{escape(key)}</th><td>{escape(_told(value))}</td></tr>" for key, value in _facts(settings))
    yield "</table>\n</body>\n</html>\n"


def _facts(settings: EvaluationSettings) -> Iterable[tuple[str, Any]]:
    return settings.document().items()


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _warnings(settings: EvaluationSettings, answers: dict[str, Answers]) -> Iterator[str]:
    if settings.judge == STAND_IN:
        yield "The judge is a stand-in, which compares pixels: what it says is worth nothing but for trying this out."
    if settings.lpips_weights is not None:
        yield f"LPIPS's net has the weights of {settings.lpips_weights}, not those that were published for it."
    for kind, count in answers.items():
        if count.retried:
            yield f"The judge was asked again {count.retried} times for want of an answer (asked for a {kind})."
        if count.nonsense:
            yield (
                f"{count.nonsense} of {count.asked} answers of the judge (asked for a {kind}) made no sense and are "
                "left out."
            )


def _paragraph(warning: str) -> str:
    return f'<p class="warning">{escape(warning)}</p>'


def _columns(settings: EvaluationSettings, made: Sequence[Table]) -> dict[str, str]:
    """Choose what was measured, and its headings."""
    judge = " (stand-in)" if settings.judge == STAND_IN else ""
    lpips = " (own weights)" if settings.lpips_weights else ""
    ends = {"lpips": lpips, **dict.fromkeys(RATINGS, judge)}
    measured = {name for table in made for row in table.cells.values() for name, cell in row.items() if cell}
    return {name: words + ends.get(name, "") for name, words in _WORDS.items() if name in measured}


def _our_table(table: Table, settings: EvaluationSettings, columns: dict[str, str]) -> Iterator[str]:
    counted = f"{table.tasks} task{'s' * (table.tasks != 1)}, {table.items} analogies"
    yield f"<table><caption>{escape(table.group)} <small>({counted})</small></caption><thead><tr><th></th>"
    yield from (f"<th>{escape(words)}</th>" for words in columns.values())
    yield "</tr></thead><tbody>"
    for way in settings.ways:
        cells = (_cell(table.cells[way][name], 2 if name in RATINGS else 3) for name in columns)
        yield f"<tr><th>{escape(way)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</tbody></table>"


def _preference_table(table: Table, settings: EvaluationSettings) -> Iterator[str]:
    judge = " (stand-in)" if settings.judge == STAND_IN else ""
    against = escape(settings.held_against)
    yield f"<table><caption>Preference{judge}, {escape(table.group)}</caption><thead><tr><th></th>"
    yield "".join(f"<th>{against} {outcome}</th>" for outcome in OUTCOMES) + "</tr></thead><tbody>"
    for way, row in table.preferences.items():
        cells = (_percent(row[outcome]) for outcome in OUTCOMES)
        yield f"<tr><th>against {escape(way)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</tbody></table>"


def _cell(cell: Cell | None, digits: int) -> str:
    return "" if cell is None else f"{cell.mean:.{digits}f} <small>± {cell.spread:.{digits}f}</small>"


def _percent(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.mean:.0%} <small>± {cell.spread:.0%}</small>"


def _papers_table() -> Iterator[str]:
    columns = Published._fields[1:]
    yield "<div><table><caption>As published, on Relation252K</caption><thead><tr><th></th>"
    yield "".join(f"<th>{escape(_WORDS[name])}</th>" for name in columns) + "</tr></thead><tbody>"
    for row in PUBLISHED:
        yield f"<tr><th>{escape(row.name)}</th>{''.join(f'<td>{value:.2f}</td>' for value in row[1:])}</tr>"
    yield f'</tbody></table><p><small>From <a href="{LINK}">{escape(CITATION)}</a>. '
    yield "Only figures of the same data, judge and CLIP can be compared with it.</small></p></div>"


def _pictures(
    folder: EvaluationFolder, settings: EvaluationSettings, columns: dict[str, str], item: Item
) -> Iterator[str]:
    about = f"seed {item.seed}" + (f", “{item.prompt}”" if item.prompt else "")
    yield f'<small>{escape(about)}</small><div class="item">'
    for name in GIVEN:
        yield _figure(folder, folder.given_file(name, item), escape(_SHOWN[name]))
    for way in settings.ways:
        values = {**(folder.recorded("measures", way, item) or {}), **(folder.recorded("rating", way, item) or {})}
        said = [f"{_WORDS[name]} {values[name]:.3g}" for name in columns if values.get(name) is not None]
        caption = f"<b>{escape(way)}</b><br>" + "<br>".join(map(escape, said))
        yield _figure(folder, folder.result_file(way, item), caption)
    yield "</div>"


def _figure(folder: EvaluationFolder, path: Path, caption: str) -> str:
    link = quote(path.relative_to(folder.path).as_posix())
    picture = f'<a href="{link}"><img src="{link}" alt="" loading="lazy"></a>'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
