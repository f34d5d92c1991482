"""The ways that pictures for training lie in folders, each read by one function."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from ...errors import LoRWebError, shown
from .analogies import Analogy, Pair, Picture, analogies_from_pairs, list_names
from .data_reader import DataReader, is_text

log = logging.getLogger(__name__)

LARGEST_CAPTION = 100_000
LARGEST_LIST = 32_000_000
"""Bytes of a file with a caption, and of one that lists pictures: about 100,000 of them."""

PAIRED = (("before", "after"), ("source", "target"), ("input", "output"))
"""What the two pictures of a pair are called, at the end of their names or as folders."""


class Wanted(NamedTuple):
    """Hold a folder of pictures and how to read it; the fields are those of `read_analogies`."""

    folder: Path
    control: Path | None
    caption_ext: str
    default_caption: str
    analogies_per_edit: int
    seed: int
    reader: DataReader

    def caption(self, beside: Path) -> str:
        """Read the text file of this name, whose suffix is exchanged."""
        path = beside.with_suffix(f".{self.caption_ext.lstrip('.')}")
        text = self.reader.text(path, "caption", LARGEST_CAPTION)
        return self.default_caption if text is None else text.strip()


class FolderLayout(NamedTuple):
    lies_in: Callable[[Wanted], bool]
    """Whether a folder, with a control folder or without, is laid out so."""
    read: Callable[[Wanted], list[Analogy]]
    """Raises LoRWebError for what is wrong; no analogies where there are none."""
    form: str
    """What to look for in the folder, in words."""


def _warn_of_missing(folder: Path, missing: Sequence[str], what: str) -> None:
    if missing:
        log.warning("%s: %d %s and are left out: %s.", shown(folder), len(missing), what, list_names(missing))


def _read_triplets(wanted: Wanted) -> list[Analogy]:
    """Read what is published: target/X is b', control/X the strip a|a'|b.

    The edit is what analogy_metadata.json has as category, else the caption, else the file's name.
    """
    reader = wanted.reader
    targets, controls = _target_and_control(wanted)
    strips = {path.stem: path for path in reader.images(controls)}
    categories = _categories(reader, targets.parent / "analogy_metadata.json")
    found, missing = [], []
    for target in reader.images(targets):
        if target.stem not in strips:
            missing.append(target.name)
            continue
        caption = wanted.caption(target)
        edit = categories.get(target.stem) or caption or target.stem
        a, a_prime, b = (Picture(strips[target.stem], part, 3) for part in range(3))
        found.append(Analogy(a, a_prime, b, Picture(target), edit, caption))
    _warn_of_missing(targets, missing, f"pictures have no strip a|a'|b of their name in {shown(controls)}")
    return found


def _target_and_control(wanted: Wanted) -> tuple[Path, Path]:
    folder, reader = wanted.folder, wanted.reader
    if wanted.control is not None:
        return folder, wanted.control
    beside = folder.name == "target" and reader.allows(folder.parent) and not reader.has_folder(folder / "target")
    return (folder, folder.with_name("control")) if beside else (folder / "target", folder / "control")


def _categories(reader: DataReader, path: Path) -> dict[str, str]:
    """Map an analogy's name to its category, where the metadata file says it."""
    described = _read_entries(reader, path, "analogy_id", "category") or []
    return {each["analogy_id"]: each["category"] for each in described if each.get("category")}


def _read_pair_folders(wanted: Wanted) -> list[Analogy]:
    """Read a folder for each edit: pairs NAME_before, NAME_after or before/NAME, after/NAME, maybe a caption.txt."""
    pairs: dict[str, list[Pair]] = {}
    lonely: list[str] = []
    for edit in wanted.reader.folders(wanted.folder):
        before, after = (_by_name(wanted.reader, edit, side) for side in (0, 1))
        caption = wanted.caption(edit / "caption.txt")
        both = sorted(before.keys() & after.keys())
        pairs[edit.name] = [Pair(Picture(before[name]), Picture(after[name]), caption) for name in both]
        apart = {**before, **after}
        lonely += [str(apart[name].relative_to(wanted.folder)) for name in sorted(before.keys() ^ after.keys())]
    _warn_of_missing(wanted.folder, lonely, "pictures have no other one to make a pair with")
    return analogies_from_pairs(pairs, wanted.analogies_per_edit, wanted.seed)


def _by_name(reader: DataReader, edit: Path, side: int) -> dict[tuple[str, str], Path]:
    """Find the pictures before (side 0) or after (1) the edit, by what the two of a pair have in common."""
    named = {}
    for path in reader.images(edit):
        for words in PAIRED:
            if path.stem.lower().endswith(f"_{words[side]}"):
                named[words[0], path.stem[: -len(words[side]) - 1]] = path
    for words in PAIRED:
        if reader.has_folder(edit / words[side]):
            named |= {(f"{words[0]}/", path.stem): path for path in reader.images(edit / words[side])}
    return named


def _read_relation252k(wanted: Wanted) -> list[Analogy]:
    """Read a folder for each category, the edit; pictures of its Group1/labels.json are pairs, left and right."""
    pairs: dict[str, list[Pair]] = {}
    missing: list[str] = []
    for category in wanted.reader.folders(wanted.folder):
        path = category / "Group1" / "labels.json"
        labels = _read_entries(wanted.reader, path, "img_name", "edit_instruction")
        if labels is None:
            continue
        pairs[category.name] = []
        for label in labels:
            path = path.with_name(label["img_name"])
            if not wanted.reader.has_file(path):
                missing.append(str(path.relative_to(wanted.folder)))
                continue
            caption = label.get("edit_instruction") or wanted.default_caption
            pairs[category.name].append(Pair(Picture(path, 0, 2), Picture(path, 1, 2), caption))
    _warn_of_missing(wanted.folder, missing, "pictures are named in a labels.json, but are missing")
    return analogies_from_pairs(pairs, wanted.analogies_per_edit, wanted.seed)


def _read_entries(reader: DataReader, path: Path, key: str, optional: str) -> list[dict[str, Any]] | None:
    """Read a JSON list of objects that each have a file's name under `key`, and maybe a text under `optional`.

    None if there is no such file. Raises LoRWebError, naming the file, for any other content.
    """
    text = reader.text(path, "list of pictures", LARGEST_LIST)
    if text is None:
        return None
    try:
        listed = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise LoRWebError(f"{shown(path)} is no JSON ({error}). Correct it, or download it again.") from error
    if not isinstance(listed, list):
        raise LoRWebError(f"{shown(path)}: expected a list of objects, not {shown(listed)}. Correct it.")
    for each in listed:
        if not isinstance(each, dict) or not is_text(each.get(key)) or not each[key]:
            raise LoRWebError(f"{shown(path)}: expected objects with a text under {key!r}, not {shown(each)}.")
        if not _is_name(each[key]):
            raise LoRWebError(f"{shown(path)}: {key} is {shown(each[key])}; expected the name of a file, no path.")
        if each.get(optional) is not None and not is_text(each[optional]):
            raise LoRWebError(f"{shown(path)}: {optional} is {shown(each[optional])}; expected a text.")
    return listed


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no value")


def _is_name(text: str) -> bool:
    """Tell if a text is a file's name on every system, and no path."""
    return (
        text not in (".", "..") and "\0" not in text and PurePosixPath(text).name == PureWindowsPath(text).name == text
    )


FOLDER_LAYOUTS = {
    "triplets": FolderLayout(
        lambda wanted: all(map(wanted.reader.has_folder, _target_and_control(wanted))),
        _read_triplets,
        "target/X.jpg, which is b', with control/X.jpg, the strip a|a'|b",
    ),
    "relation252k": FolderLayout(
        lambda wanted: any(
            wanted.reader.has_file(each / "Group1" / "labels.json") for each in wanted.reader.folders(wanted.folder)
        ),
        _read_relation252k,
        "<category>/Group1/labels.json with the pictures that it names beside it",
    ),
    "pairs": FolderLayout(
        lambda wanted: any(_by_name(wanted.reader, edit, 0) for edit in wanted.reader.folders(wanted.folder)),
        _read_pair_folders,
        "<edit>/NAME_before.png with <edit>/NAME_after.png (or source and target, or input and output), or "
        "<edit>/before/NAME.png with <edit>/after/NAME.png",
    ),
}
"""By name; a folder that several would read is read by the first."""
