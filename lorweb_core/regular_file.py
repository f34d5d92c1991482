"""Files that are read whole: regular ones of a size that can be, and nothing else that has a name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import LoRWebError, shown


def check_regular(path: Path, what: str, most: int) -> None:
    """Raise LoRWebError unless `path` is a regular file, or a link to one, of at most `most` bytes.

    what: what to call it where something is wrong. Nothing is opened: whoever opens a FIFO waits for its writer.
    Raises FileNotFoundError if there is nothing of that name.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: of names that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise LoRWebError(f"{what} {shown(path)} cannot be read ({reason}).") from error
    if not stat.S_ISREG(status.st_mode):
        raise LoRWebError(f"{what} {shown(path)} is a folder, a pipe or a device; expected a file.")
    if status.st_size > most:
        raise LoRWebError(f"{what} {shown(path)} has {status.st_size:,} bytes; expected at most {most:,}.")


def read_text(path: Path, what: str, most: int) -> str:
    """Read a UTF-8 file of at most `most` bytes, without a byte order mark.

    Raises LoRWebError if it cannot be read, is no regular file or no such text, and FileNotFoundError if there is none.
    """
    check_regular(path, what, most)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise LoRWebError(f"{what} {shown(path)} cannot be read as UTF-8 text ({error}).") from error
