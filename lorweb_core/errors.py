"""The error for bad input, and the one function that puts what a user gave into words."""

from __future__ import annotations

import reprlib
from pathlib import PurePath
from typing import Any

LONGEST = 200
"""Most characters that a value takes in a message."""


class LoRWebError(ValueError):
    """Say in words what is wrong with input that the method cannot work with.

    The message is for the person who gave that input: it names the file, layer or input, says what was
    expected and what to do. Callers show it as it is. Characters that cannot be printed, or sent as UTF-8, are
    escaped in it.
    """

    __module__ = "lorweb_core"  # hosts show the full name of a type, which would begin with where the pack lies

    def __init__(self, message: str):
        super().__init__(_printable(message))


def shown(value: Any) -> str:
    """Describe a value that a user gave, for a message: escaped, and at most 200 characters long.

    Texts stand in quotes and paths do not; of long or nested values the beginning is shown, whatever their size.
    """
    if isinstance(value, PurePath):
        return _shortened(_printable(str(value)))
    represented = _Shortened().repr(value)
    return _shortened(_printable(represented if isinstance(value, str) else " ".join(represented.split())))


def named(name: str | PurePath) -> str:
    """Describe a name that stands without quotes in messages: a file's, without its folder, or a layer's or tensor's.

    Escaped, and at most 200 characters long.
    """
    text = name.name if isinstance(name, PurePath) else name
    return _shortened(_printable(text).replace("\n", "\\n"))


def _printable(text: str) -> str:
    """Escape what is no printable character, but for line breaks."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def _shortened(text: str) -> str:
    """Leave out the middle of a text of more than LONGEST characters."""
    if len(text) <= LONGEST:
        return text
    half = (LONGEST - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


class _Shortened(reprlib.Repr):
    """Represent the beginning of a value: of YAML's nested aliases, 50 MB texts and 5,000-digit numbers too."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = LONGEST
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out whole numbers of more than 4,300 digits.
        return repr(x) if x.bit_length() < 512 else f"a whole number of about {int(x.bit_length() * 0.30103):,} digits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[:LONGEST])
