"""Sentences that a node shows while the run goes on."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from comfy_execution.utils import get_executing_context

log = logging.getLogger(__name__)


def tell(node: str, notes: Iterable[str]) -> None:
    """Show sentences in the node that runs now, below its inputs, and write them to the log.

    node: its name, for the log. The host's frontend shows progress text by itself, and keeps it until the next.
    """
    sentences = list(dict.fromkeys(notes))
    for sentence in sentences:
        log.warning("%s: %s", node, sentence)
    if sentences:
        show("\n".join(sentences))


def show(text: str) -> None:
    """Show a text in the node that runs now, in place of the one before; where nobody can see it, do nothing."""
    running = get_executing_context()
    server = getattr(sys.modules.get("server"), "PromptServer", None)  # none where the host only runs graphs
    if running is not None and getattr(server, "instance", None) is not None:
        server.instance.send_progress_text(text, running.node_id)
