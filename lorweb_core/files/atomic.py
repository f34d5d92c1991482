"""Files written whole or not at all: under a name of their own first, and then renamed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import LoRWebError, shown
from .locks import DAY, abandoned, try_lock

_PART = re.compile(r"\.lorweb-[0-9a-f]+\.part")
_EARLIER_PART = re.compile(r"\..+\.\w+\.\d+\.part")
"""Names that such files had before, by the name of the file and the number of the process."""


def is_part(name: str) -> bool:
    """Tell whether a file of that name is only there while one is written, or was left over from that."""
    return bool(_PART.fullmatch(name) or _EARLIER_PART.fullmatch(name))


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `path` at the end; until then, and if anything fails, the old one stays.

    A link at `path` is replaced, not followed. size: bytes that will be needed. Raises LoRWebError, naming the file, if
    the disk has not that much or if it cannot be written.
    """
    name = shown(Path(path.name))
    try:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise LoRWebError(
                f"{name} takes {size / 1e6:,.0f} MB, but {shown(path.parent)} has {free / 1e6:,.0f} MB "
                "free. Make room, or choose another folder."
            )
        with _part(path.parent) as (part, file):
            yield file
            # On the disk before its name is: a crash must not leave the name of the old file on half of the new.
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # which renames no open file
                file.close()
            part.replace(path)
    except OSError as error:
        raise LoRWebError(
            f"{name} could not be written into {shown(path.parent)} ({error.strerror or error}). What was "
            "there before is as it was."
        ) from error


def check_writable(folder: Path) -> None:
    """Raise OSError if no file can be made in a folder."""
    with _part(folder):
        pass


@contextmanager
def _part(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a new file of a name of its own, which goes at the end unless it was renamed.

    It is locked while it is open, by which other writers know that it is not left over; those that are, are removed.
    """
    part, file = _new_part(folder)
    try:
        _remove_left_over(folder, part)
        yield part, file
    finally:
        # What fails here must not hide what failed before it.
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _new_part(folder: Path) -> tuple[Path, BinaryIO]:
    while True:
        part = folder / f".lorweb-{secrets.token_hex(8)}.part"
        file = open(part, "x+b")  # noqa: SIM115 (its context is _part)
        if try_lock(file.fileno()) is not False and part.exists():
            return part, file
        file.close()  # another writer took it for left over, before it was locked


def _remove_left_over(folder: Path, own: Path) -> None:
    """Remove what writers that ended before their time have left in a folder."""
    with suppress(OSError):
        now = own.stat().st_mtime  # by the clock of the disk, which may be another machine's
        for name in os.listdir(folder):
            if name.endswith(".part") and name != own.name:
                _remove_if_left_over(folder / name, now)


def _remove_if_left_over(path: Path, now: float) -> None:
    with suppress(OSError):
        age = now - path.lstat().st_mtime
        if _PART.fullmatch(path.name):
            # Windows has to close a file before it gets its name: for that moment nothing locks it.
            if sys.platform == "win32" and age < 60:
                return
            file = abandoned(path)
            if file is not None:
                os.close(file)
                path.unlink()
        elif _EARLIER_PART.fullmatch(path.name) and path.is_file() and not path.is_symlink() and age > DAY:
            path.unlink()
