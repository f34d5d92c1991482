"""Sentences that a node shows while the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from comfy_execution.utils import get_executing_context
from server import PromptServer

log = logging.getLogger(__name__)


def tell(node: str, notes: Iterable[str]) -> None:
    """Show sentences in the node that runs now, below its inputs, and write them to the log.

    node: its name, for the log. The host's frontend shows progress text by itself, and keeps it until the next.
    """
    sentences = list(dict.fromkeys(notes))
    for sentence in sentences:
        log.warning("%s: %s", node, sentence)
    running, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if sentences and running is not None and server is not None:
        server.send_progress_text("\n".join(sentences), running.node_id)
