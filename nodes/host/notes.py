"""Sentences that a node shows while the run goes on."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from comfy_execution.utils import get_executing_context

log = logging.getLogger(__name__)

_told: dict[str, dict[str, list[str]]] = {}
"""Prompt that runs → node → sentences."""

_showing: set[str] = set()
"""Nodes that show sentences."""

_stepping: list[tuple[str, str] | None] = [("", "")]
"""Prompt and node whose sampling was last told of."""


def tell(node: str, notes: Iterable[str]) -> None:
    """Show sentences in the node that runs now, below its inputs, and write them to the log.

    node: its name, for the log. The host's frontend shows progress text by itself, and keeps it until the next.
    """
    sentences = list(dict.fromkeys(notes))
    for sentence in sentences:
        log.warning("%s: %s", node, sentence)
    running = get_executing_context()
    if running is not None:
        if running.prompt_id not in _told:
            _told.clear()
        _told.setdefault(running.prompt_id, {})[running.node_id] = sentences
        if sentences:
            _showing.add(running.node_id)
            show("\n".join(sentences))
        elif running.node_id in _showing:
            _showing.remove(running.node_id)
            show(" ")  # the frontend takes no empty text


def tell_once(node: str, notes: Iterable[str]) -> None:
    """Tell what a step of sampling finds, but only in the first step of a run."""
    running = get_executing_context()
    key = running and (running.prompt_id, running.node_id)
    if _stepping != [key]:
        _stepping[:] = [key]
        tell(node, notes)


def told_before(nodes: Iterable[str]) -> list[str]:
    """List what these nodes were told in the prompt that runs now, by their ids."""
    running = get_executing_context()
    told = _told.get(running.prompt_id, {}) if running else {}
    return [sentence for node in nodes for sentence in told.get(node, ())]


def show(text: str) -> None:
    """Show a text in the node that runs now, in place of the one before; where nobody can see it, do nothing."""
    running = get_executing_context()
    server = getattr(sys.modules.get("server"), "PromptServer", None)  # none where the host only runs graphs
    if running is not None and getattr(server, "instance", None) is not None:
        server.instance.send_progress_text(text, running.node_id)
