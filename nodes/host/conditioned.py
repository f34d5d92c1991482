"""How the analogy behind a picture was conditioned, for the node that cuts it."""

from __future__ import annotations

from typing import NamedTuple

from comfy_execution.utils import get_executing_context

from .notes import told_before
from .prompt_graph import Prompt, digest, upstream

CONDITIONING, RESULT = "LoRWeBExtendedAttention", "LoRWeBAnalogyResult"

MOST = 64
"""Conditionings that are remembered, some hundred bytes each."""


class Cut(NamedTuple):
    """Say where b' is in a picture."""

    fit: str
    layout: str
    pairs: int
    sampled: str
    """One of layout.SAMPLED."""


_made: dict[str, tuple[str, Cut]] = {}
"""Node → the digest of what it was made from, and how."""


def remember(cut: Cut, prompt: Prompt | None) -> None:
    """Remember how the node that runs now conditions. The host keeps its output as long as its inputs are the same."""
    running = get_executing_context()
    if running is None or prompt is None:
        return
    _made.pop(running.node_id, None)
    _made[running.node_id] = digest(prompt, running.node_id), cut
    while len(_made) > MOST:
        del _made[next(iter(_made))]


def find_cut(image: str, prompt: Prompt | None) -> Cut | None:
    """Find how the analogy behind an input of the node that runs now was conditioned; None where that is not certain.

    image: the input's name.
    """
    running = get_executing_context()
    if running is None or prompt is None:
        return None
    behind = upstream(prompt, running.node_id, image, end=(CONDITIONING, RESULT))
    nodes = [node for node in behind if prompt[node].get("class_type") == CONDITIONING]
    cuts = {_made[node][1] for node in nodes if node in _made and _made[node][0] == digest(prompt, node)}
    return cuts.pop() if len(cuts) == 1 and nodes else None


def told_behind(image: str, prompt: Prompt | None) -> list[str]:
    """List what nodes behind an input of the node that runs now were told in this run, up to the next result."""
    running = get_executing_context()
    if running is None or prompt is None:
        return []
    return told_before(upstream(prompt, running.node_id, image, end=(RESULT,)))
