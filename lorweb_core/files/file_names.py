"""Names that a person types for a file: such as every system takes, and such as stay in one folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import LoRWebError, shown

LONGEST = 200
"""Most bytes of a part of a path, in UTF-8. Systems take 255, and what is written for a while has a longer name."""
DEEPEST = 8
"""Most parts of a name."""

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f]')


def path_inside(root: Path, name: str, suffix: str = "", called: str | None = None) -> Path:
    """Turn a name, which may begin with subfolders, into a path inside a folder. Nothing is made.

    suffix: appended to the name, unless it has it. called: what messages call the folder. Raises LoRWebError if the
    name leads out of the folder, links followed, or is none that every system takes.
    """
    called = called or shown(root)
    typed, name = name, name.strip().replace("\\", "/").removesuffix(suffix)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts:
        raise _leads_out(typed, called)
    parts[-1] += suffix
    _check(typed, parts, suffix)
    path = Path(root, *parts)
    check_inside(root, path, called)
    return path


def check_inside(root: Path, path: Path, called: str | None = None) -> None:
    """Raise LoRWebError if a path leads out of a folder once all links are followed; the folder may be one itself."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        relative = path.relative_to(root).as_posix()
        raise _leads_out(relative, called or shown(root), ": a link leads elsewhere. Remove it, or give")


def check_length(name: str) -> None:
    """Raise LoRWebError if the name of a file, without folders, is longer than every system takes."""
    size = len(name.encode())
    if size > LONGEST:
        raise LoRWebError(
            f"The name {shown(name)} takes {size} bytes with what is appended; expected at most {LONGEST}. Choose a "
            "shorter name."
        )


def _check(typed: str, parts: list[str], suffix: str) -> None:
    """Raise LoRWebError if a part of a name is none that every system takes."""
    what = f"The name {shown(typed)}"
    if any("\ud800" <= character <= "\udfff" for part in parts for character in part):
        raise LoRWebError(f"{what} has half a character, which no file can have. Type it again.")
    if any(map(_FORBIDDEN.search, parts)):
        raise LoRWebError(
            f'{what} has a character that files cannot have: a control character, or one of < > : " | ? *. '
            "Leave it out."
        )
    for part in parts:
        if part.removesuffix(suffix) != part.removesuffix(suffix).strip(" ."):
            raise LoRWebError(f"{what} has a part that begins or ends with a dot or a space. Leave these out.")
        if _RESERVED.fullmatch(part):
            raise LoRWebError(f"{what} has the part {shown(part)}, which Windows keeps for a device. Choose another.")
        check_length(part)
    if len(parts) > DEEPEST:
        raise LoRWebError(f"{what} has {len(parts)} parts; expected at most {DEEPEST}. Choose fewer subfolders.")


def _leads_out(name: str, called: str, why: str = ". Give") -> LoRWebError:
    """Say that a name leads out. why: the end of that sentence, and the beginning of what to do."""
    return LoRWebError(f"The name {shown(name)} does not stay in {called}{why} a name like my_edit or lorweb/my_edit.")
