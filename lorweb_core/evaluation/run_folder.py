"""Keep what an evaluation goes on from on the disk: its settings, pictures, mixtures and measures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import LoRWebError, shown
from ..files.atomic import replacing
from ..files.image_file import read_image, write_png
from ..files.locks import held
from ..files.tensor_files import read_file
from .tasks import Item, Pictures

SETTINGS, MEASURES, PAGE, TABLE, LOCK = (
    "evaluation.json",
    "measures.jsonl",
    "evaluation.html",
    "table.json",
    "evaluation.lock",
)
GIVEN = ("a", "a_prime", "b", "b_prime")
"""Names of the data's pictures in files."""

_LARGEST = 1_000_000_000


class Record(NamedTuple):
    """Hold what was measured or answered once."""

    kind: str
    """One of KINDS."""
    way: str
    item: str
    """Key of the item."""
    values: dict[str, Any]


KINDS = ("measures", "rating", "preference")

_MEASURED_WITH = {
    ("measures",): ("lpips", "lpips_weights", "clip"),
    ("rating", "preference"): ("judge", "judge_model", "against"),
}
"""Kinds of records → the settings that they alone depend on."""


class EvaluationFolder:
    """Keep an evaluation in a folder, so that the same command goes on where it stopped."""

    def __init__(self, path: Path):
        self.path = path
        self._records: dict[tuple[str, str, str], Record] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it. Raises LoRWebError if one is in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with held(self.path / LOCK) as mine:
                if not mine:
                    raise LoRWebError(f"{shown(self.path)} has an evaluation in it that another process is at.")
                yield
        except OSError as error:
            raise LoRWebError(f"{shown(self.path)} cannot be written ({error.strerror or error}).") from error

    def begin(self, document: Mapping[str, Any]) -> bool:
        """Keep the settings, or go on with those kept; returns whether an evaluation was begun here before.

        Settings of measures and judges may change as long as nothing was measured with them. Raises LoRWebError, naming
        the first that differs, if it was begun with others, or for damaged files; nothing is changed then.
        """
        path = self.path / SETTINGS
        wanted = json.loads(json.dumps(document))
        begun = os.path.lexists(path)
        if begun:
            self._read_records()
            self._check_same(_read_json(path), wanted)
        elif any(each.name != LOCK for each in self.path.iterdir()):
            raise LoRWebError(f"--out {shown(self.path)} has other files in it. Give a new folder, or an empty one.")
        with replacing(path) as file:
            file.write(json.dumps(wanted, indent=1).encode())
        return begun

    def _check_same(self, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        recorded = {record.kind for record in self._records.values()}
        free = {key for kinds, keys in _MEASURED_WITH.items() if recorded.isdisjoint(kinds) for key in keys}
        for key in dict.fromkeys([*kept, *wanted]):
            if key not in free and kept.get(key) != wanted.get(key):
                raise LoRWebError(
                    f"The evaluation in {shown(self.path)} was begun with another {key}: {shown(kept.get(key))}, "
                    f"and now it is {shown(wanted.get(key))}. Go on with the same settings, or give another --out."
                )

    def result_file(self, way: str, item: Item) -> Path:
        return self._file("pictures", way, f"{item.key}.png")

    def given_file(self, name: str, item: Item) -> Path:
        """Find the file of one of GIVEN."""
        return self._file("pictures", "given", f"{item.key}-{name}.png")

    def mixture_file(self, item: Item) -> Path:
        return self._file("mixtures", f"{item.key}.safetensors")

    def keep_given(self, item: Item, pictures: Pictures) -> None:
        """Write an item's pictures as they are in the data."""
        for name, picture in zip(GIVEN, pictures, strict=True):
            write_png(picture, self.given_file(name, item))

    def keep_result(self, way: str, item: Item, picture: Tensor) -> None:
        """Write a way's b', (H, W, 3) in 0–1."""
        write_png(picture, self.result_file(way, item))

    def read_result(self, way: str, item: Item) -> Tensor:
        """Read a way's b', (H, W, 3) in 0–1."""
        return read_image(self.result_file(way, item))

    def read_given(self, item: Item) -> Pictures:
        return Pictures(*(read_image(self.given_file(name, item)) for name in GIVEN))

    def record(self, kind: str, way: str, item: Item, values: dict[str, Any]) -> None:
        """Keep what was measured, on the disk at once. Raises LoRWebError if it cannot be written."""
        record = Record(kind, way, item.key, values)
        path = self.path / MEASURES
        try:
            with open(path, "ab") as file:
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise LoRWebError(f"{shown(path)} could not be written ({error.strerror or error}).") from error
        self._records[record[:3]] = record

    def recorded(self, kind: str, way: str, item: Item) -> dict[str, Any] | None:
        """Find what was measured of a way's result; None if nothing was."""
        found = self._records.get((kind, way, item.key))
        return None if found is None else found.values

    def _read_records(self) -> None:
        """Read all that was measured; a last line without an end was cut short by a crash, and is taken away."""
        path = self.path / MEASURES
        if not os.path.lexists(path):
            return
        content = read_file(path, _LARGEST, "list of measures")
        whole, end, _ = content.rpartition(b"\n")
        if len(whole + end) < len(content):
            with replacing(path) as file:
                file.write(whole + end)
        for number, line in enumerate(whole.splitlines(), 1):
            record = _record_of(line)
            if record is None:
                raise LoRWebError(f"{shown(path)}, line {number} is damaged. Delete the line to measure it again.")
            self._records[record[:3]] = record

    def _file(self, *parts: str) -> Path:
        path = self.path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _record_of(line: bytes) -> Record | None:
    try:
        kind, way, item, values = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = all(isinstance(each, str) for each in (kind, way, item))
    return Record(kind, way, item, values) if texts and kind in KINDS and isinstance(values, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(read_file(path, 10_000_000, "list of settings"))
    except (ValueError, RecursionError) as error:
        raise LoRWebError(f"{shown(path)} is damaged. Give another --out.") from error
    if not isinstance(kept, dict):
        raise LoRWebError(f"{shown(path)} is damaged. Give another --out.")
    return kept
