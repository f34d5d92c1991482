"""Write the tables of the nodes' help pages: `python tools/help_pages.py URL`, of a ComfyUI that runs with the pack.

A page is `web/docs/<node id>.md` in English, `web/docs/<node id>/zh.md` and `ja.md`, where the host's frontend looks.
Its text is written by hand; its tables, from the first heading of TABLES on, are what the node's schema says, or
`locales/<language>/nodeDefs.json`. A page that is not there yet is begun.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from environment import ROOT

TABLES = {"en": ("## Inputs", "## Outputs"), "zh": ("## 输入", "## 输出"), "ja": ("## 入力", "## 出力")}
"""Language → the headings of both tables."""

ADVANCED = {"en": "advanced", "zh": "高级", "ja": "詳細"}
PICTURE = "![](pictures/{}.png)"


def page_path(node: str, language: str) -> Path:
    """Find where a node's page in a language lies."""
    docs = ROOT / "web" / "docs"
    return docs / f"{node}.md" if language == "en" else docs / node / f"{language}.md"


def read_schemas(url: str) -> dict[str, dict]:
    """Ask a running ComfyUI for what it tells the frontend of this pack's nodes."""
    with urllib.request.urlopen(f"{url.rstrip('/')}/object_info", timeout=60) as answer:
        known = json.loads(answer.read())
    return {name: schema for name, schema in known.items() if name.startswith("LoRWeB")}


def translations(language: str) -> dict[str, dict]:
    """Read the nodes' names and texts in a language; English is the schemas' own, and has no file."""
    if language == "en":
        return {}
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def tables(schema: dict, translated: dict, language: str) -> str:
    """Describe a node's inputs and outputs in two tables of Markdown; one that would be empty is left out."""
    inputs = [
        _row(name, translated.get("inputs", {}).get(name, {}), options.get("tooltip"), language, options)
        for group in ("required", "optional")
        for name, (_, options) in ((name, (*given, {})[:2]) for name, given in schema["input"].get(group, {}).items())
    ]
    outputs = [
        _row(name, translated.get("outputs", {}).get(str(place), {}), tooltip, language, {})
        for place, (name, tooltip) in enumerate(zip(schema["output_name"], schema["output_tooltips"], strict=True))
    ]
    found = zip(TABLES[language], (inputs, outputs), strict=True)
    return "\n\n".join("\n".join([heading, "", "| | |", "| --- | --- |", *rows]) for heading, rows in found if rows)


def _row(name: str, translated: dict, tooltip: str, language: str, options: dict) -> str:
    label = translated.get("name", name)
    label = f"`{name}`" if label == name else f"{label} `{name}`"
    advanced = f" ({ADVANCED[language]})" if options.get("advanced") else ""
    return f"| {label}{advanced} | {translated.get('tooltip', tooltip)} |"


def write_page(node: str, schema: dict, language: str) -> None:
    """Rewrite the tables of a node's page, or begin a page with its name, its picture and its description."""
    translated = translations(language).get(node, {})
    path = page_path(node, language)
    if path.exists():
        text = path.read_text("utf-8")
        text = text[: min(f"{text}{heading}".find(heading) for heading in TABLES[language])]
    else:
        name, described = (translated.get(key, schema[key]) for key in ("display_name", "description"))
        text = f"# {name}\n\n{PICTURE.format(node)}\n\n{described}\n\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text.rstrip()}\n\n{tables(schema, translated, language)}\n", "utf-8", newline="\n")


def main(url: str) -> None:
    for node, schema in read_schemas(url).items():
        for language in TABLES:
            write_page(node, schema, language)


if __name__ == "__main__":
    main(sys.argv[1])
