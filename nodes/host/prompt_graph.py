"""What is upstream of a node in the prompt that runs, as the host's API has it: node id → class and inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

Prompt = dict[str, dict[str, Any]]


def upstream(prompt: Prompt, node: str, name: str | None = None, end: Collection[str] = ()) -> list[str]:
    """List the ids of nodes upstream of a node, the nearest first.

    name: only what comes into this input of it. end: classes that nothing is looked for behind.
    """
    found: dict[str, None] = {}
    inputs = prompt.get(node, {}).get("inputs", {})
    waiting = _sources(inputs if name is None else {name: inputs.get(name)})
    while waiting:
        each = waiting.pop(0)
        if each not in found and each in prompt:
            found[each] = None
            if prompt[each].get("class_type") not in end:
                waiting += _sources(prompt[each].get("inputs", {}))
    return list(found)


def digest(prompt: Prompt, node: str) -> str:
    """Compute a hash of a node and all that is upstream of it, as the prompt has them."""
    part = {each: (prompt[each].get("class_type"), prompt[each].get("inputs")) for each in upstream(prompt, node)}
    own = prompt.get(node, {}).get("inputs")
    return hashlib.sha256(json.dumps([own, part], sort_keys=True, default=str).encode()).hexdigest()


def _sources(inputs: dict[str, Any]) -> list[str]:
    return [str(value[0]) for value in inputs.values() if isinstance(value, list) and len(value) == 2]
