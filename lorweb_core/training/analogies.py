"""Analogies a : a' :: b : b' among pictures on disk: made of every two pairs of an edit, split by edit."""

from __future__ import annotations

import difflib
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..errors import LoRWebError
from ..image_file import read_image
from ..triplet import rgb_image

log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """An image file, or one of several pictures of equal width side by side in it."""

    path: Path
    part: int = 0
    """Which column, from the left."""
    parts: int = 1


class Pair(NamedTuple):
    """A picture before and after an edit."""

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
        """What to call it in messages: its edit and its files."""
        files = dict.fromkeys(f"{picture.path.parent.name}/{picture.path.name}" for picture in self.pictures)
        return f"{self.edit} ({', '.join(files)})"


def load_picture(picture: Picture) -> Tensor:
    """(H, W, 3), float32 in 0–1, upright. Raises LoRWebError, naming the file, if there is no such picture in it."""
    image = read_image(picture.path)
    left, right = (image.shape[1] * edge // picture.parts for edge in (picture.part, picture.part + 1))
    which = f", part {picture.part + 1} of {picture.parts}" if picture.parts > 1 else ""
    return rgb_image(image[:, left:right], f"The picture {picture.path}{which}")


def every_two(pairs: Mapping[str, Sequence[Pair]], most: int, seed: int) -> list[Analogy]:
    """Of every two pairs of an edit two analogies, each pair demonstrating the other's edit; `most` of an edit at most.

    pairs: by edit, each edit's in an order that is the same every time. Which analogies an edit gives depends on the
    seed, the edit's name and its number of pairs, and on no other edit. The caption is the demonstrating pair's, as
    published. Edits of fewer than two pairs are named in a warning; LoRWebError if all that have any are such.
    """
    few = {edit: len(held) for edit, held in pairs.items() if len(held) < 2}
    if few:
        told = some([f"{edit} ({count})" for edit, count in few.items()])
        if len(few) == len(pairs) and any(few.values()):
            raise LoRWebError(
                "No edit has two pairs, and an analogy takes two: one shows the edit, one is to be edited. Found, with "
                f"the number of pairs: {told}. Add pairs of the same edits."
            )
        log.warning("%d edits make no analogy, which takes two pairs, and are left out: %s.", len(few), told)
    return [analogy for edit, held in pairs.items() for analogy in _of_edit(edit, held, most, seed)]


def _of_edit(edit: str, pairs: Sequence[Pair], most: int, seed: int) -> list[Analogy]:
    others = max(0, len(pairs) - 1)
    ordered = range(len(pairs) * others)
    # Seeded by a text, which Python hashes the same in every process and version.
    chosen = sorted(random.Random(f"{seed} {edit}").sample(ordered, min(most, len(ordered))))
    made = []
    for first, second in (divmod(number, others) for number in chosen):
        shown, asked = pairs[first], pairs[second + (second >= first)]
        made.append(Analogy(shown.before, shown.after, asked.before, asked.after, edit, shown.caption))
    return made


def split_by_edit(
    analogies: Sequence[Analogy], held_out: Sequence[str] = (), share: float = 0.0, seed: int = 0
) -> tuple[list[Analogy], list[Analogy]]:
    """Those to train on, and those of edits kept for validation; no edit is in both.

    held_out: names of edits, or globs such as `color *`. share: of the other edits, how many to keep besides, in 0–1;
    which ones depends on the seed and on their names only, so further edits hardly move one from one side to the other.
    Raises LoRWebError if a name is no edit's, or if nothing is left to train on.
    """
    edits = sorted({analogy.edit for analogy in analogies})
    kept: set[str] = set()
    for pattern in held_out:
        matching = [edit for edit in edits if edit == pattern or fnmatchcase(edit, pattern)]
        if not matching:
            near = difflib.get_close_matches(pattern, edits, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {some(edits)}."
            raise LoRWebError(f"held_out: {pattern!r} is the name of no edit; {hint}")
        kept.update(matching)
    others = sorted(set(edits) - kept, key=lambda edit: hashlib.sha256(f"{seed} {edit}".encode()).digest())
    kept.update(others[: round(share * len(others))])
    train = [analogy for analogy in analogies if analogy.edit not in kept]
    if analogies and not train:
        raise LoRWebError(
            f"All {len(edits)} edits are kept for validation, none is left to train on: hold out fewer of them."
        )
    return train, [analogy for analogy in analogies if analogy.edit in kept]


def some(names: Sequence[str], most: int = 20) -> str:
    """Names for a message, as many as can be read."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
