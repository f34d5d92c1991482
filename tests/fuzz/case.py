"""What a case of the fuzzing suite is, and what its outcome must be."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_MESSAGE = 2000


class Case(NamedTuple):
    """Something broken, made by a kind's `make(seed, folder)`: a pure function of the seed."""

    what: str
    """What was done to it, in words."""
    named: tuple[str, ...]
    """A refusal says one of these: the file's or the input's name."""
    load: Callable[[], Any]
    """Take it in as a user would."""
    check: Callable[[Any], str | None]
    """Raise AssertionError if what `load` returned is not what a plain reading of the same bytes gives; what it returns
    is told.
    """
    writes: bool = False
    """Whether `load` may change files in the case's folder."""


class Refused(Exception):
    """A refusal by somebody else than the pack, such as the host before it calls a node. That is fine as well."""


def outcome(case: Case, folder: Path) -> tuple[str, str]:
    """Run a case: ("refused", the message), ("loaded", what the check tells) or ("failed", why)."""
    before = None if case.writes else _snapshot(folder)
    try:
        held = case.load()
    except Refused as refusal:
        return "refused", str(refusal)
    except Exception as error:
        if "LoRWebError" not in [kind.__name__ for kind in type(error).__mro__]:
            return "failed", "".join(traceback.format_exception(error)[-6:])
        wrong = wrong_in_message(str(error), case.named) or _changed(before, folder)
        return ("failed", wrong) if wrong else ("refused", str(error))
    try:
        described = case.check(held) or ""
    except Exception as error:
        return "failed", "It loaded. " + "".join(traceback.format_exception(error)[-3:])
    wrong = _changed(before, folder)
    return ("failed", wrong) if wrong else ("loaded", described)


def wrong_in_message(message: str, named: tuple[str, ...]) -> str | None:
    """Say what is wrong with a refusal's words; None if nothing is."""
    if len(message) > LONGEST_MESSAGE:
        return f"A message of {len(message):,} characters: {message[:200]!r}"
    try:
        message.encode()
    except UnicodeEncodeError:
        return f"A message that cannot be sent: {message[:300]!r}"
    if not all(character.isprintable() or character == "\n" for character in message):
        return f"A message with what cannot be printed: {message[:300]!r}"
    if not any(name in message for name in named):
        return f"A message that names none of {named}: {message!r}"
    return None


def _snapshot(folder: Path) -> dict[str, tuple]:
    """Name → kind, size and time of change of everything in a folder."""
    stats = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (stat.st_mode, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def _changed(before: dict[str, tuple] | None, folder: Path) -> str | None:
    if before is None or (after := _snapshot(folder)) == before:
        return None
    return f"Reading changed the folder: {sorted(dict(before.items() ^ after.items()))}"
