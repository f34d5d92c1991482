"""What lies in folders of pictures: names, and the small texts beside the pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...errors import LoRWebError, shown
from ...files.tensor_files import regular_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Endings of the files that are taken for pictures."""


class _Listing(NamedTuple):
    """Hold what is in a folder, in order of names, without hidden files."""

    entries: list[Path]
    images: list[Path]
    folders: list[Path]


class DataReader:
    """Read folders, of each what was in it when it was first asked for; everywhere, or in some folders only.

    Its functions raise LoRWebError for what leads out of these, through links or otherwise, and for what cannot be
    read.
    """

    def __init__(self, roots: Iterable[Path] = ()):
        """roots: all that is read lies in one of these, links followed; none for anywhere."""
        self._roots = tuple(map(Path, roots))
        self._real_roots = tuple(Path(os.path.realpath(root)) for root in self._roots)
        self._listed: dict[Path, _Listing] = {}

    def allows(self, path: Path) -> bool:
        """Tell if a path lies where may be read, whether it exists or not."""
        if not self._roots:
            return True
        if path.drive.startswith("\\\\") and not any(map(path.is_relative_to, self._roots)):
            return False  # to follow the links of another machine's folder is to log in there
        try:
            real = Path(os.path.realpath(path))
        except ValueError:  # of a name that no file can have
            return False
        return any(map(real.is_relative_to, self._real_roots))

    def check(self, path: Path) -> Path:
        """Return the path if it lies where may be read."""
        if not self.allows(path):
            raise LoRWebError(
                f"{shown(path)} leads out of the folders that may be read. Put there what it leads to, not a link."
            )
        return path

    def entries(self, folder: Path) -> list[Path]:
        """List what is in a folder, in order of names, without hidden files."""
        return self._listing(folder).entries

    def images(self, folder: Path) -> list[Path]:
        return _named(self._listing(folder).images)

    def folders(self, folder: Path) -> list[Path]:
        return _named(self._listing(folder).folders)

    def has_folder(self, path: Path) -> bool:
        return os.path.isdir(path) and bool(self.check(path))

    def has_file(self, path: Path) -> bool:
        return os.path.isfile(path) and bool(self.check(path))

    def text(self, path: Path, what: str, most: int) -> str | None:
        """Read a UTF-8 file of at most `most` bytes; None if there is none. what: is to be read, for an error."""
        if not os.path.lexists(path):
            return None
        size = regular_file(self.check(path), what).st_size
        if size > most:
            raise LoRWebError(f"{shown(path)} has {size:,} bytes; a {what} is read up to {most:,}.")
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise LoRWebError(f"The {what} {shown(path)} cannot be read as UTF-8 text ({error}).") from error

    def _listing(self, folder: Path) -> _Listing:
        if folder not in self._listed:
            self.check(folder)
            try:
                with os.scandir(folder) as found:
                    listed = sorted((each.name, each) for each in found if not each.name.startswith("."))
            except OSError as error:
                raise LoRWebError(f"{shown(folder)}: the folder cannot be read ({error.strerror}).") from error
            self._listed[folder] = listing = _Listing([], [], [])
            for name, each in listed:
                path = folder / name
                listing.entries.append(self.check(path) if each.is_symlink() else path)
                if name.lower().endswith(SUFFIXES):
                    listing.images.append(path)
                if os.path.isdir(path) if each.is_symlink() else each.is_dir():
                    listing.folders.append(path)
        return self._listed[folder]


def _named(paths: list[Path]) -> list[Path]:
    """Return the paths of pictures or edits, whose names go into texts."""
    nameless = next((path for path in paths if not is_text(path.name)), None)
    if nameless is not None:
        raise LoRWebError(f"{shown(nameless)} has a name that is no UTF-8 text. Rename it.")
    return paths


def is_text(value: object) -> bool:
    """Tell if a value is a text that can be written: names of other encodings hold halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
