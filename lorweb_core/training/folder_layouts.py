"""The ways that pictures for training lie in folders, each read by one function."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import LoRWebError
from .analogies import Analogy, Pair, Picture, every_two, some

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of the files that are taken for pictures."""

PAIRED = (("before", "after"), ("source", "target"), ("input", "output"))
"""What the two pictures of a pair are called, at the end of their names or as folders."""


class Wanted(NamedTuple):
    """A folder of pictures and how to read it; the fields are those of `read_analogies`."""

    folder: Path
    control: Path | None
    caption_ext: str
    default_caption: str
    analogies_per_edit: int
    seed: int

    def caption(self, beside: Path) -> str:
        """What the text file of this name, whose suffix is exchanged, says."""
        path = beside.with_suffix(f".{self.caption_ext.lstrip('.')}")
        try:
            return path.read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            return self.default_caption
        except (OSError, UnicodeDecodeError) as error:
            raise LoRWebError(f"The caption {path} cannot be read as UTF-8 text ({error}).") from error


class FolderLayout(NamedTuple):
    lies_in: Callable[[Path, Path | None], bool]
    """Whether a folder, with a control folder or without, is laid out so."""
    read: Callable[[Wanted], list[Analogy]]
    """Raises LoRWebError for what is wrong; no analogies where there are none."""
    form: str
    """What to look for in the folder, in words."""


def entries(folder: Path) -> list[Path]:
    """What is in a folder, in order of names, without hidden files."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise LoRWebError(f"{folder}: the folder cannot be read ({error.strerror}).") from error


def _images(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix.lower() in SUFFIXES]


def _folders(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir()]


def _warn_of_missing(folder: Path, missing: Sequence[str], what: str) -> None:
    if missing:
        log.warning("%s: %d %s and are left out: %s.", folder, len(missing), what, some(missing))


def _read_triplets(wanted: Wanted) -> list[Analogy]:
    """As published: target/X is b', control/X the strip a|a'|b. The edit is what analogy_metadata.json has as category,
    else the caption, else the file's name.
    """
    targets, controls = _target_and_control(wanted.folder, wanted.control)
    strips = {path.stem: path for path in _images(controls)}
    categories = _categories(targets.parent / "analogy_metadata.json")
    found, missing = [], []
    for target in _images(targets):
        if target.stem not in strips:
            missing.append(target.name)
            continue
        caption = wanted.caption(target)
        edit = categories.get(target.stem) or caption or target.stem
        a, a_prime, b = (Picture(strips[target.stem], part, 3) for part in range(3))
        found.append(Analogy(a, a_prime, b, Picture(target), edit, caption))
    _warn_of_missing(targets, missing, f"pictures have no strip a|a'|b of their name in {controls}")
    return found


def _target_and_control(folder: Path, control: Path | None) -> tuple[Path, Path]:
    if control is not None:
        return folder, control
    if (folder / "target").is_dir() or folder.name != "target":
        return folder / "target", folder / "control"
    return folder, folder.with_name("control")


def _categories(path: Path) -> dict[str, str]:
    """Name of an analogy → its category, where the metadata file says it."""
    if not path.is_file():
        return {}
    described = _read_entries(path, "analogy_id")
    return {each["analogy_id"]: category for each in described if (category := str(each.get("category") or ""))}


def _read_pair_folders(wanted: Wanted) -> list[Analogy]:
    """A folder for each edit, its pairs NAME_before, NAME_after or before/NAME, after/NAME, and maybe a caption.txt."""
    pairs, lonely = {}, []
    for edit in _folders(wanted.folder):
        before, after = _by_name(edit, 0), _by_name(edit, 1)
        caption = wanted.caption(edit / "caption.txt")
        both = sorted(before.keys() & after.keys())
        pairs[edit.name] = [Pair(Picture(before[name]), Picture(after[name]), caption) for name in both]
        apart = {**before, **after}
        lonely += [str(apart[name].relative_to(wanted.folder)) for name in sorted(before.keys() ^ after.keys())]
    _warn_of_missing(wanted.folder, lonely, "pictures have no other one to make a pair with")
    return every_two(pairs, wanted.analogies_per_edit, wanted.seed)


def _by_name(edit: Path, side: int) -> dict[tuple[str, str], Path]:
    """The pictures before (side 0) or after (1) the edit, by what the two of a pair have in common."""
    named = {}
    for words in PAIRED:
        ending = f"_{words[side]}"
        for path in _images(edit):
            if path.stem.lower().endswith(ending):
                named[words[0], path.stem[: -len(ending)]] = path
        if (edit / words[side]).is_dir():
            named |= {(f"{words[0]}/", path.stem): path for path in _images(edit / words[side])}
    return named


def _read_relation252k(wanted: Wanted) -> list[Analogy]:
    """A folder for each category, which is the edit; pictures of its Group1/labels.json are pairs, left and right."""
    pairs, missing = {}, []
    for category in _folders(wanted.folder):
        labels = category / "Group1" / "labels.json"
        if not labels.is_file():
            continue
        pairs[category.name] = []
        for label in _read_entries(labels, "img_name"):
            path = labels.with_name(label["img_name"])
            if not path.is_file():
                missing.append(str(path.relative_to(wanted.folder)))
                continue
            caption = str(label.get("edit_instruction") or wanted.default_caption)
            pairs[category.name].append(Pair(Picture(path, 0, 2), Picture(path, 1, 2), caption))
    _warn_of_missing(wanted.folder, missing, "pictures are named in a labels.json, but are missing")
    return every_two(pairs, wanted.analogies_per_edit, wanted.seed)


def _read_entries(path: Path, key: str) -> list[dict[str, Any]]:
    """A JSON list of objects that each have a text under `key`."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8-sig"))
        valid = isinstance(listed, list) and all(
            isinstance(each, dict) and isinstance(each.get(key), str) and each[key] for each in listed
        )
    except OSError as error:
        raise LoRWebError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise LoRWebError(f"{path} is no JSON ({error}). Correct it, or download it again.") from error
    if not valid:
        raise LoRWebError(f"{path}: expected a list of objects, each with a text under {key!r}. Correct it.")
    return listed


LAYOUTS = {
    "triplets": FolderLayout(
        lambda folder, control: all(path.is_dir() for path in _target_and_control(folder, control)),
        _read_triplets,
        "target/X.jpg, which is b', with control/X.jpg, the strip a|a'|b",
    ),
    "relation252k": FolderLayout(
        lambda folder, _: any((each / "Group1" / "labels.json").is_file() for each in _folders(folder)),
        _read_relation252k,
        "<category>/Group1/labels.json with the pictures that it names beside it",
    ),
    "pairs": FolderLayout(
        lambda folder, _: any(_by_name(edit, 0) for edit in _folders(folder)),
        _read_pair_folders,
        "<edit>/NAME_before.png with <edit>/NAME_after.png (or source and target, or input and output), or "
        "<edit>/before/NAME.png with <edit>/after/NAME.png",
    ),
}
"""By name; a folder that several would read is read by the first."""
