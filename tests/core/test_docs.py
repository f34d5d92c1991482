"""What the documents point at and quote is there."""

from __future__ import annotations

import ast
import re
from itertools import chain

import pytest
from environment import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
QUOTED = [line[2:].split(" | ")[0] for line in TROUBLESHOOTING.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_to_files(document):
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", document.read_text("utf-8")):
        assert target.startswith("https://") or (document.parent / target).exists(), target


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Every text in the code, with a line break in the place of what is filled in."""
    files = chain(ROOT.glob("nodes/**/*.py"), ROOT.glob("lorweb_core/**/*.py"))
    nodes = chain.from_iterable(ast.walk(ast.parse(path.read_text("utf-8"))) for path in files)
    return [text_of(node) for node in nodes if isinstance(node, (ast.Constant, ast.JoinedStr))]


def text_of(node: ast.Constant | ast.JoinedStr) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "\n" for part in parts)


@pytest.mark.parametrize("message", [quoted for quoted in QUOTED if quoted not in ("message", "---")])
def test_messages_in_troubleshooting_are_the_codes(message, texts):
    parts = (re.escape(part.strip()) for part in message.split("…"))
    quoted = re.compile(".*".join(parts), re.DOTALL)
    assert any(map(quoted.search, texts))
