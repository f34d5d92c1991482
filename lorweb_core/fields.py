"""Fields of settings: what each may hold, and the one reader of what a YAML gives of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

from .errors import LoRWebError, named, shown

# YAML 1.1 reads 1e-3 as a text: its numbers need a point before the exponent, and a sign in it.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

REFUSALS = (ValueError, OverflowError, re.error, RecursionError)
"""Errors by which a kind refuses a value."""


class Kind(NamedTuple):
    """Describe what a key may hold."""

    expected: str
    """Words for what may stand there."""
    read: Callable[[Any], Any]
    """Function from a value as YAML gives it, never None, to what the dataclass holds. Raises one of REFUSALS."""

    def then(self, convert: Callable[[Any], Any]) -> Kind:
        """Make the kind that converts what this one reads."""
        return Kind(self.expected, lambda value: convert(self.read(value)))


@dataclass(frozen=True)
class Section:
    """Describe a key that holds keys of its own, or with `many` a list of at least one such section."""

    of: type
    """Dataclass that it becomes."""
    read: Callable[[str, type, Mapping[str, Any], str], Any]
    """Function that reads it, as `read_section` does."""
    many: bool = False
    expected: ClassVar[str] = "a list of at least one"


def setting(default: Any, kind: Kind) -> Any:
    """Make a dataclass field that a key of the YAML gives."""
    return field(default=default, metadata={"holds": kind})


def required(kind: Kind) -> Any:
    """Make a dataclass field that a key of the YAML must give."""
    return field(metadata={"holds": kind})


def section(default: Any, read: Callable[..., Any] | None = None) -> Any:
    """Make a dataclass field that a section gives. read: takes the place of `read_section`."""
    return field(default=default, metadata={"holds": Section(type(default), read or read_section)})


def sections(of: type) -> Any:
    """Make a dataclass field that a list of sections must give."""
    return field(metadata={"holds": Section(of, read_section, many=True)})


def wrong_value(file: str, key: str, value: Any, expected: str) -> LoRWebError:
    """Make the error for a value that its key may not hold."""
    return LoRWebError(f"{file}: {key} is {shown(value)}; expected {expected}.")


def key_path(where: str, key: Any) -> str:
    """Name a key as `--set` takes it: `train.lr`, `datasets.0.folder_path`."""
    key = named(key) if isinstance(key, str) else shown(key)
    return f"{where}.{key}" if where else key


def sections_of(file: str, of: type, given: Any, where: str = "") -> Iterator[tuple[str, type, Mapping[str, Any]]]:
    """List the sections of a document: where each is, the dataclass it becomes, and what it holds.

    Raises LoRWebError, naming the key, where a section has no keys.
    """
    if not isinstance(given, Mapping):
        raise wrong_value(file, where, given, "keys with values")
    yield where, of, given
    for item in fields(of):
        holds, value = item.metadata["holds"], given.get(item.name)
        if isinstance(holds, Section) and value is not None:
            for place, held in _places(file, holds, value, key_path(where, item.name)):
                yield from sections_of(file, holds.of, held, place)


def read_section(file: str, of: type, given: Mapping[str, Any], where: str = "") -> Any:
    """Make the dataclass of a section whose inner sections have keys, as `sections_of` finds.

    Raises LoRWebError as `read_values`, and for a key that is missing.
    """
    values = read_values(file, of, given, where)
    for item in fields(of):
        if item.name not in values and item.default is MISSING:
            expected = item.metadata["holds"].expected
            raise LoRWebError(f"{file}: {key_path(where, item.name)} is missing; expected {expected}.")
    return of(**values)


def read_values(file: str, of: type, given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Read what a section gives of a dataclass's fields. A key that is left empty gives nothing.

    file: what errors call it. where: the section's path, as in `train`. Raises LoRWebError, naming file and key, for a
    value that the key may not hold.
    """
    present = [item for item in fields(of) if given.get(item.name) is not None]
    return {item.name: _read(file, item, given[item.name], key_path(where, item.name)) for item in present}


def _read(file: str, item: Field, value: Any, where: str) -> Any:
    holds: Kind | Section = item.metadata["holds"]
    if isinstance(holds, Section):
        held = tuple(holds.read(file, holds.of, one, place) for place, one in _places(file, holds, value, where))
        return held if holds.many else held[0]
    try:
        return holds.read(value)
    except REFUSALS as error:
        raise wrong_value(file, where, value, holds.expected) from error


def _places(file: str, holds: Section, value: Any, where: str) -> list[tuple[str, Any]]:
    """List the sections that a key holds, each with where it is."""
    if not holds.many:
        return [(where, value)]
    if type(value) is not list or not value:
        raise wrong_value(file, where, value, holds.expected)
    return [(f"{where}.{index}", one) for index, one in enumerate(value)]


def kind(expected: str, valid: Callable[[Any], Any], convert: Callable[[Any], Any] = lambda value: value) -> Kind:
    """Take the values that are valid once they are converted."""

    def read(value: Any) -> Any:
        value = convert(value)
        if not valid(value):
            raise ValueError
        return value

    return Kind(expected, read)


def integer(least: int = 0, most: float = 10**9, step: int = 1) -> Kind:
    """Take an int, written as one."""
    expected = f"a whole number {'above 0' if least == 1 else f'from {least} on'}, up to {most:,}"
    return kind(expected, lambda value: type(value) is int and least <= value <= most and value % step == 0)


def whole(least: int = 0, most: float = 10**9, step: int = 1) -> Kind:
    """Take a whole number as int, however it is written: 1e4 is one too."""
    exact = integer(least, most, step)
    return Kind(exact.expected, lambda value: exact.read(int(_number(value)) if _number(value) % 1 == 0 else None))


def number(expected: str, allowed: Callable[[float], bool]) -> Kind:
    """Take a finite number as float, of those allowed."""
    return kind(expected, allowed, lambda value: float(_number(value)))


def _number(value: Any) -> int | float:
    if type(value) is str and _EXPONENT.fullmatch(value):
        value = float(value)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return value


def text(pattern: str = r"(?s).+", expected: str = "a text") -> Kind:
    """Take a str that is all of `pattern`."""
    return kind(expected, lambda value: type(value) is str and re.fullmatch(pattern, value))


def choice(*values: str, **also: str) -> Kind:
    """Take one of these; `also` are other spellings of them."""
    spelled = dict(zip(values, values, strict=True)) | also
    return kind(
        f"one of: {', '.join(values)}", values.__contains__, lambda value: type(value) is str and spelled.get(value)
    )


def several(one: Kind, expected: str, least: int = 0, most: float = math.inf, alone: Kind | None = None) -> Kind:
    """Take a list of a kind as tuple, of at least and at most so many. alone: reads what is no list."""

    def read(value: Any) -> Any:
        if type(value) is not list and alone:
            return alone.read(value)
        if type(value) is not list or not least <= len(value) <= most:
            raise ValueError
        return tuple(map(one.read, value))

    return Kind(expected, read)


SWITCH = kind("true or false", lambda value: type(value) is bool)
NOT_NEGATIVE = number("a number from 0 on", lambda number: number >= 0)
POSITIVE = number("a number above 0", lambda number: number > 0)
SHARE = number("a number from 0 to 1", lambda number: 0 <= number <= 1)
DECAY = number("a number from 0 to below 1", lambda number: 0 <= number < 1)
