"""The log of a training: a row for each step that was logged."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import LoRWebError, shown
from ..files.atomic import replacing
from .trainer import Step

HEADER = ",".join(Step._fields).encode()
_MOST = 2.0**128
"""What is more is no float32."""
_LONGEST = 1000
"""Bytes of a line; a row has fewer than 120."""


def begins_as_log(path: Path) -> bool:
    """Tell whether a file begins with the header of our logs, whatever follows."""
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            return file.readline(_LONGEST).rstrip() == HEADER
    except OSError:
        return False


def read_losses(path: Path) -> list[Step]:
    """Read all steps logged so far, none if there is no file.

    A last line without an end was cut short, by a full disk or a crash, and is passed over. Raises LoRWebError, naming
    file and line, if anything else is no row of ours.
    """
    if not os.path.lexists(path):
        return []
    if not path.is_file():
        raise LoRWebError(f"{shown(path)} is no file. Move it away, or give the training another name.")
    try:
        with path.open("rb") as file:
            return list(_steps(path, file))
    except OSError as error:
        raise LoRWebError(f"{shown(path)} could not be read ({error.strerror or error}).") from error


def append_loss(path: Path, step: Step) -> None:
    """Log a step. Raises LoRWebError if it could not be written, also where a link leads to another file."""
    try:
        with open(path, "ab", opener=_no_link) as file:
            file.write(_rows([step] if file.tell() else [Step._fields, step]))
    except OSError as error:
        raise LoRWebError(f"{shown(path)} could not be written ({error.strerror or error}).") from error


def write_losses(path: Path, steps: Iterable[Step]) -> None:
    """Write a log anew. Raises LoRWebError if it could not be written; the old one stays then."""
    with replacing(path) as file:
        file.write(_rows([Step._fields, *steps]))


def _rows(rows: Iterable[tuple]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _steps(path: Path, file: BinaryIO) -> Iterator[Step]:
    last = 0
    for number, line in enumerate(_lines(file), 1):
        if number == 1 and line.rstrip() == HEADER:
            continue
        step = None if number == 1 else _step(line)
        if step is None or step.number <= last:
            raise LoRWebError(
                f"{shown(path)} is damaged in line {number}, {shown(line)}; expected {HEADER.decode()}"
                f"{'' if number == 1 else ', after the step before'}. Delete the lines from there on, or give the "
                "training another name."
            )
        yield step
        last = step.number


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Read all lines that have an end, and the beginning of one that is too long."""
    while (line := file.readline(_LONGEST)).endswith(b"\n") or len(line) == _LONGEST:
        yield line


def _step(line: bytes) -> Step | None:
    """Read a row; None if it is none."""
    try:
        number, *rest = line.decode("ascii").strip().split(",")
        step = Step(int(number), *map(float, rest))
    except (ValueError, TypeError):
        return None
    # NaN is no less than anything.
    return step if step.number > 0 and all(abs(value) < _MOST for value in step) else None
