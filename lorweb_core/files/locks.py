"""Locks that the system lets go of when the process that holds them ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

DAY = 24 * 60 * 60
"""Seconds after which a file is taken to be abandoned, where the file system has no locks."""

_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
# A link is not followed, and a pipe is not waited for.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def try_lock(file: int) -> bool | None:
    """Lock an open file for as long as it is open; returns whether that was possible.

    file: a descriptor, open for writing. False: another open file holds the lock, of this process or of another. None:
    the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            # Windows keeps others from what is locked: a byte far behind all that is ever written.
            at = os.lseek(file, 0, os.SEEK_CUR)
            os.lseek(file, 2**62, os.SEEK_SET)
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(file, at, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def abandoned(path: Path) -> int | None:
    """Open and lock a file that no living process holds; None if one may, or if it is no file that can be opened.

    Returns a descriptor, to be closed.
    """
    try:
        file = os.open(path, os.O_RDWR | _FLAGS)
    except OSError:
        return None
    locked = try_lock(file)
    if locked or (locked is None and time.time() - os.fstat(file).st_mtime > DAY):
        return file
    os.close(file)
    return None


def _is_at(file: int, path: Path) -> bool:
    """Tell whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except OSError:
        return False


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock that goes by the name of a file, which is there meanwhile; within is told whether it is held.

    False means that another has it, in this process or in another. Raises OSError if the file cannot be made.
    """
    file = _claim(path)
    try:
        yield file is not None
    finally:
        if file is not None:
            _give_up(file, path)


def _claim(path: Path) -> int | None:
    """Make the file and lock it; None if another has it."""
    for _ in range(100):
        try:
            file, made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666), True
        except FileExistsError:
            try:
                file, made = os.open(path, os.O_RDWR | _FLAGS), False
            except FileNotFoundError:
                continue  # given up this moment
        locked = try_lock(file)
        if locked is None:
            locked = made or time.time() - os.fstat(file).st_mtime > DAY
        # Windows removes no open file.
        if locked and (sys.platform == "win32" or _is_at(file, path)):
            return file
        os.close(file)
        if not locked and not made:
            break
    return None


def _give_up(file: int, path: Path) -> None:
    if sys.platform != "win32":
        # While the lock is held: afterwards the file may be another's.
        with suppress(OSError):
            path.unlink()
        os.close(file)
    else:
        # Windows removes no open file: it stays if another has opened it, who removes it then.
        os.close(file)
        with suppress(OSError):
            path.unlink()
