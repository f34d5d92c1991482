"""`--set key=value`: one setting in the place of what the YAML says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ...errors import LoRWebError, named, shown
from ...files.yaml_file import parse_yaml


def override(settings: dict[str, Any], assignment: str) -> None:
    """Put `train.lr=2e-4`, or in a list `datasets.0.folder_path=pairs`, into the document's settings.

    The value is YAML; an empty one brings back the default. Sections that are not there are made; a list's number may
    be its next one. Whether the key is known is for the reader of the settings. Raises LoRWebError if this is no
    assignment, or leads into what has no keys.
    """
    path, equals, value = assignment.partition("=")
    assignment = named(assignment)
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise LoRWebError(f"--set {assignment}: expected key=value, such as train.lr=2e-4.")
    value = parse_yaml(value, f"--set {assignment}: the value")
    held: Any = settings
    for key, following in pairwise(keys):
        place = _place(held, key, assignment)
        if held[place] is None:
            held[place] = [] if following.isdecimal() else {}
        held = held[place]
    held[_place(held, keys[-1], assignment)] = value


def _place(held: Any, key: str, assignment: str) -> str | int:
    """Where `held` has this key, made if need be."""
    if isinstance(held, dict):
        held.setdefault(key)
        return key
    if isinstance(held, list) and key.isdecimal() and len(key) < 10 and int(key) <= len(held):
        if int(key) == len(held):
            held.append(None)
        return int(key)
    if isinstance(held, list):
        raise LoRWebError(
            f"--set {assignment}: {named(key)} is to be in a list of {len(held)}; expected 0 to {len(held)}."
        )
    raise LoRWebError(
        f"--set {assignment}: {named(key)} cannot be set, as what it is to be in is {shown(held)}, without keys."
    )
