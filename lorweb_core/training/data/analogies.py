"""Analogies a : a' :: b : b' among pictures on disk: made of every two pairs of an edit, split by edit."""

from __future__ import annotations

import difflib
import hashlib
import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ...errors import LoRWebError, named, shown
from ...files.image_file import read_image
from ...triplet import rgb_image

log = logging.getLogger(__name__)

LONGEST_PATTERN = 1_000
MOST_PATTERNS = 100
"""Patterns of `held_out`. Each is held against every edit; whole names are not counted."""


class Picture(NamedTuple):
    """Name an image file, or one of several pictures of equal width side by side in it."""

    path: Path
    part: int = 0
    """Which column, from the left."""
    parts: int = 1


class Pair(NamedTuple):
    """Name a picture before and after an edit."""

    before: Picture
    after: Picture
    caption: str


class Analogy(NamedTuple):
    a: Picture
    a_prime: Picture
    b: Picture
    b_prime: Picture
    edit: str
    """What a : a' and b : b' have in common; analogies of one edit are split off together."""
    caption: str

    @property
    def pictures(self) -> tuple[Picture, Picture, Picture, Picture]:
        return self[:4]

    @property
    def name(self) -> str:
        """Name it in messages: its edit and its files."""
        files = dict.fromkeys(f"{picture.path.parent.name}/{picture.path.name}" for picture in self.pictures)
        return f"{list_names([self.edit])} ({list_names(list(files))})"


def load_picture(picture: Picture) -> Tensor:
    """Load a picture, (H, W, 3), float32 in 0–1, upright. Raises LoRWebError, naming the file, if it has none such."""
    image = read_image(picture.path)
    left, right = (image.shape[1] * edge // picture.parts for edge in (picture.part, picture.part + 1))
    which = f", part {picture.part + 1} of {picture.parts}" if picture.parts > 1 else ""
    return rgb_image(image[:, left:right], f"The picture {shown(picture.path)}{which}")


def analogies_from_pairs(pairs: Mapping[str, Sequence[Pair]], most: int, seed: int) -> list[Analogy]:
    """Make two analogies of every two pairs of an edit, each demonstrating the other's; `most` of an edit at most.

    pairs: by edit, each edit's in an order that is the same every time. Which analogies an edit gives depends on the
    seed, the edit's name and its number of pairs, and on no other edit. The caption is the demonstrating pair's, as
    published. Edits of fewer than two pairs are named in a warning; LoRWebError if all that have any are such.
    """
    few = {edit: len(held) for edit, held in pairs.items() if len(held) < 2}
    if few:
        listed = list_names([f"{edit} ({count})" for edit, count in few.items()])
        if len(few) == len(pairs) and any(few.values()):
            raise LoRWebError(
                "No edit has two pairs, and an analogy takes two: one shows the edit, one is to be edited. Found, with "
                f"the number of pairs: {listed}. Add pairs of the same edits."
            )
        log.warning("%d edits make no analogy, which takes two pairs, and are left out: %s.", len(few), listed)
    return [analogy for edit, held in pairs.items() for analogy in _of_edit(edit, held, most, seed)]


def _of_edit(edit: str, pairs: Sequence[Pair], most: int, seed: int) -> list[Analogy]:
    others = max(0, len(pairs) - 1)
    ordered = range(len(pairs) * others)
    # Seeded by a text, which Python hashes the same in every process and version.
    chosen = sorted(random.Random(f"{seed} {edit}").sample(ordered, min(most, len(ordered))))
    made = []
    for first, second in (divmod(number, others) for number in chosen):
        example, asked = pairs[first], pairs[second + (second >= first)]
        made.append(Analogy(example.before, example.after, asked.before, asked.after, edit, example.caption))
    return made


def split_by_edit(
    analogies: Sequence[Analogy], held_out: Sequence[str] = (), share: float = 0.0, seed: int = 0
) -> tuple[list[Analogy], list[Analogy]]:
    """Split analogies into those to train on and those of edits kept for validation; no edit is in both.

    held_out: names of edits, or globs such as `color *`. share: of the other edits, how many to keep besides, in 0–1;
    which ones depends on the seed and on their names only, so further edits hardly move one from one side to the other.
    Raises LoRWebError if a name is no edit's, if there are more than MOST_PATTERNS globs or one is longer than
    LONGEST_PATTERN characters, or if nothing is left to train on.
    """
    edits = sorted({analogy.edit for analogy in analogies})
    names = set(edits)
    globs = [pattern for pattern in dict.fromkeys(held_out) if pattern not in names or re.search(r"[*?\[]", pattern)]
    kept = names & set(held_out)
    if len(globs) > MOST_PATTERNS:
        raise LoRWebError(
            f"held_out has {len(globs):,} patterns or names of no edit; at most {MOST_PATTERNS:,} may be."
        )
    for pattern in globs:
        matching = list(filter(_glob(pattern), edits))
        if not matching and pattern not in names:
            near = difflib.get_close_matches(pattern[:100], edits[:1000], 1)  # in a second at most
            hint = f"did you mean {shown(near[0])}?" if near else f"there are: {list_names(edits)}."
            raise LoRWebError(f"held_out: {shown(pattern)} is the name of no edit; {hint}")
        kept.update(matching)
    others = sorted(set(edits) - kept, key=lambda edit: hashlib.sha256(f"{seed} {edit}".encode()).digest())
    kept.update(others[: round(share * len(others))])
    train = [analogy for analogy in analogies if analogy.edit not in kept]
    if analogies and not train:
        raise LoRWebError(
            f"held_out and validation_share keep all {len(edits)} edits from training, and none is left: hold out "
            "fewer of them."
        )
    return train, [analogy for analogy in analogies if analogy.edit in kept]


def _glob(pattern: str) -> Callable[[str], object]:
    """Make a test for texts of a glob, in which case matters."""
    if len(pattern) > LONGEST_PATTERN:
        raise LoRWebError(
            f"held_out: {shown(pattern)} has {len(pattern):,} characters; expected at most {LONGEST_PATTERN:,}."
        )
    return re.compile(translate(pattern)).match


def list_names(names: Sequence[str], most: int = 20, show: Callable[[str], str] = named) -> str:
    """List names in a message: as many, and as much of each, as can be read. show: makes of each what is listed."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(show, names[:most])) + more
