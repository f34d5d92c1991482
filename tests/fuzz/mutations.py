"""What can be wrong with any file: of its bytes, and of what stands in its place."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

Mutation = Callable[[Random, bytes], bytes]


def truncated(random: Random, content: bytes) -> bytes:
    places = [0, 1, 7, 8, 9, len(content) // 2, len(content) - 1, random.randrange(len(content) + 1)]
    return content[: random.choice(places)]


def bits_flipped(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 8, 100)) if changed else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def beginning_flipped(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    changed[random.randrange(min(64, len(changed)))] ^= 1 << random.randrange(8)
    return bytes(changed)


def zeros_inside(random: Random, content: bytes) -> bytes:
    start = random.randrange(len(content))
    end = min(len(content), start + random.choice((1, 16, 4096)))
    return content[:start] + bytes(end - start) + content[end:]


def garbage_appended(random: Random, content: bytes) -> bytes:
    return content + random.randbytes(random.choice((1, 8, 1000)))


def garbage_prepended(random: Random, content: bytes) -> bytes:
    return random.randbytes(random.choice((1, 8))) + content


def a_part_left_out(random: Random, content: bytes) -> bytes:
    start = random.randrange(len(content))
    return content[:start] + content[start + random.choice((1, 100)) :]


def twice(random: Random, content: bytes) -> bytes:
    return content + content


def only_garbage(random: Random, content: bytes) -> bytes:
    return random.randbytes(random.choice((1, 100, 10_000)))


def only_zeros(random: Random, content: bytes) -> bytes:
    return bytes(random.choice((1, 8, 100, 100_000)))


def a_pickle(random: Random, content: bytes) -> bytes:
    return pickle.dumps({"state_dict": [1.0] * 100}, protocol=random.choice((0, 2, 4)))


def a_pickle_that_runs_code(random: Random, content: bytes) -> bytes:
    return b'cbuiltins\nexec\n(S\'open("pwned", "w")\'\ntR.'


def a_zip(random: Random, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content[:1000])
    return file.getvalue()


def a_web_page(random: Random, content: bytes) -> bytes:
    return b"<!doctype html><html><body>404: not found</body></html>"


BYTES: list[Mutation] = [
    truncated,
    bits_flipped,
    beginning_flipped,
    zeros_inside,
    garbage_appended,
    garbage_prepended,
    a_part_left_out,
    twice,
    only_garbage,
    only_zeros,
    a_pickle,
    a_pickle_that_runs_code,
    a_zip,
    a_web_page,
]


def nothing_there(path: Path) -> None:
    """Leave the path without a file."""


def a_folder(path: Path) -> None:
    path.mkdir()


def a_fifo(path: Path) -> None:
    """One that nobody writes to: whoever opens it waits for ever."""
    os.mkfifo(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_link_to_a_device(path: Path) -> None:
    """One that gives zeros without end."""
    path.symlink_to("/dev/zero")


def three_gigabytes_of_nothing(path: Path) -> None:
    """A sparse file: it takes no room on the disk, and all of it in the memory of who reads it whole."""
    with open(path, "wb") as file:
        file.truncate(3 << 30)


OBSTACLES: list[Callable[[Path], None]] = [nothing_there, a_folder]
if hasattr(os, "mkfifo"):
    OBSTACLES += [a_fifo, a_link_to_nothing, a_link_to_itself, a_link_to_a_device, three_gigabytes_of_nothing]


def in_place_of(path: Path, obstacle: Callable[[Path], None]) -> None:
    """Put an obstacle where a file is."""
    path.unlink(missing_ok=True)
    obstacle(path)


def odd_name(random: Random, name: str) -> str:
    """Now and then, where the system takes it, a file's name with what cannot be printed or sent in it."""
    if os.name == "nt" or random.random() < 0.85:
        return name
    stem, dot, suffix = name.partition(".")
    return stem + random.choice(("\n\x1b[31m", " ü \udcff", " {0} %s", "x" * 200, "\u202e")) + dot + suffix


def listed(text: str, separator: str | None = None) -> list[str]:
    """Take a text apart into the values that it lists, at spaces or at a separator."""
    return [value.strip() for value in text.split(separator)]


def words(operator: Callable) -> str:
    """Spell an operator's name."""
    return operator.__name__.replace("_", " ")
