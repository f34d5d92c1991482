"""What a setting may hold: how a value of the YAML is read, and what to say was expected where it cannot be."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple

# YAML 1.1 reads 1e-3 as a text: its numbers need a point before the exponent, and a sign in it.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class Kind(NamedTuple):
    """A kind of value."""

    expected: str
    """In words: "expected <this>"."""
    read: Callable[[Any], Any]
    """A value as YAML gives it, never None → as the dataclass holds it. Raises ValueError or OverflowError."""


def setting(default: Any, kind: Kind) -> Any:
    """A dataclass field that a key of the YAML gives."""
    return field(default=default, metadata={"kind": kind})


def required(kind: Kind) -> Any:
    """The same of a key that has no default."""
    return field(metadata={"kind": kind})


def section(default: Any) -> Any:
    """The same of a key with keys of its own, those of the default's class."""
    return field(default=default, metadata={"section": type(default)})


def sections(of: type) -> Any:
    """The same of a list of at least one such section."""
    return field(metadata={"sections": of})


def whole(least: int = 0, most: int = 10**9) -> Kind:
    """int. 1e4 is one too."""

    def read(value: Any) -> int:
        number = _number(value)
        if number != int(number) or not least <= number <= most:
            raise ValueError
        return int(number)

    return Kind(f"a whole number {'above 0' if least == 1 else f'from {least} on'}, up to {most:,}", read)


def number(expected: str, allowed: Callable[[float], bool]) -> Kind:
    """float, of those allowed."""

    def read(value: Any) -> float:
        number = float(_number(value))
        if not allowed(number):
            raise ValueError
        return number

    return Kind(expected, read)


NOT_NEGATIVE = number("a number from 0 on", lambda number: number >= 0)
POSITIVE = number("a number above 0", lambda number: number > 0)
SHARE = number("a number from 0 to 1", lambda number: 0 <= number <= 1)
DECAY = number("a number from 0 to below 1", lambda number: 0 <= number < 1)


def _number(value: Any) -> int | float:
    if type(value) is str and _EXPONENT.fullmatch(value):
        value = float(value)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return value


def switch() -> Kind:
    """bool."""

    def read(value: Any) -> bool:
        if type(value) is not bool:
            raise ValueError
        return value

    return Kind("true or false", read)


def text(pattern: str = r"(?s).+", expected: str = "a text") -> Kind:
    """str that is all of `pattern`."""

    def read(value: Any) -> str:
        if type(value) is not str or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Kind(expected, read)


def choice(*values: str, **also: str) -> Kind:
    """One of these; `also` are other spellings of them."""

    def read(value: Any) -> str:
        value = also.get(value, value) if type(value) is str else value
        if value not in values:
            raise ValueError
        return value

    return Kind(f"one of: {', '.join(values)}", read)


def folder() -> Kind:
    """Path; a relative one is relative to the working directory, as published."""
    words = text(r"[^\0]+", "a folder's path")

    def read(value: Any) -> Path:
        os.fsencode(words.read(value))  # a ValueError for half a character, which no path holds
        return Path(value)

    return Kind(words.expected, read)


def ending() -> Kind:
    """str, of file names, without the dot."""
    words = text(r"\.?[^./\\]+", "a file's ending, such as txt")
    return Kind(words.expected, lambda value: words.read(value).removeprefix("."))


def several(kind: Kind, expected: str, length: int | None = None) -> Kind:
    """Tuple of a kind; of this length if one is given."""

    def read(value: Any) -> tuple:
        if type(value) is not list or length not in (None, len(value)):
            raise ValueError
        return tuple(map(kind.read, value))

    return Kind(expected, read)


def one_or_several(kind: Kind, expected: str) -> Kind:
    """Tuple of a kind; one value is a tuple of it."""
    listed = several(kind, expected)
    return Kind(expected, lambda value: listed.read(value if type(value) is list else [value]))


def layer_choice() -> Kind:
    """A regular expression as str, or names as a tuple."""

    def read(value: Any) -> str | tuple[str, ...]:
        if type(value) is list and value:
            return tuple(map(text().read, value))
        try:
            return re.compile(text().read(value)).pattern
        except (re.error, RecursionError) as error:
            raise ValueError from error

    return Kind("a regular expression, or a list of names of Linear layers", read)


def cell_side() -> Kind:
    """int, pixels. The published form is a list; of more than one it trained at each."""

    def read(value: Any) -> int:
        side = whole(16).read(value[0] if type(value) is list and len(value) == 1 else value)
        if side % 8:
            raise ValueError
        return side

    return Kind("one number of pixels (this version trains at one resolution), a multiple of 8 from 16 on", read)
