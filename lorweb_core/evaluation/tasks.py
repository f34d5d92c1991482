"""Draw the analogies of an evaluation from a folder of pairs, by task."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..errors import LoRWebError
from ..training.data.analogies import list_names
from ..training.data.pictures_on_disk import Analogy, load_picture, read_analogies
from ..triplet import Triplet
from .settings import EvaluationSettings, Group

EVERY = "all tasks"
"""Name of the group that every task is in."""


class Item(NamedTuple):
    """Hold one analogy that every way is given."""

    key: str
    """Name of its files, the same every time."""
    analogy: Analogy
    group: str | None
    seed: int
    """Seed of its noise, the same for every way."""
    prompt: str
    """Words that the model is told."""

    @property
    def task(self) -> str:
        return self.analogy.edit


class Pictures(NamedTuple):
    """Hold an item's pictures, (H, W, 3) each, float32 in 0–1."""

    a: Tensor
    a_prime: Tensor
    b: Tensor
    b_prime: Tensor
    """Picture b' of the data."""

    @property
    def triplet(self) -> Triplet:
        return Triplet([(self.a, self.a_prime)], self.b)


def load(item: Item) -> Pictures:
    """Load an item's pictures. Raises LoRWebError, naming the file, if one cannot be read."""
    return Pictures(*(load_picture(picture) for picture in item.analogy.pictures))


def draw_items(settings: EvaluationSettings) -> list[Item]:
    """Draw the analogies, the same for the same settings and folder, task by task.

    a and a' come from one pair of a task and b and b' from another; only names are read. Raises LoRWebError if there is
    none, or if a group has no task.
    """
    found = read_analogies(
        Path(settings.data), layout=settings.layout, analogies_per_edit=settings.limit, seed=settings.seed
    )
    by_task: dict[str, list[Analogy]] = defaultdict(list)
    for analogy in found:
        by_task[analogy.edit].append(analogy)
    chosen = _choose_tasks(sorted(by_task), settings)
    return [
        _item(number, analogy, group, settings)
        for task, group in chosen
        for number, analogy in enumerate(by_task[task][: settings.limit])
    ]


def _choose_tasks(tasks: Sequence[str], settings: EvaluationSettings) -> list[tuple[str, str | None]]:
    """Choose at most `settings.tasks` of each group, by the seed and their names; those in no group are one too."""
    members: dict[str | None, list[str]] = {group.name: [] for group in settings.groups}
    for task in tasks:
        members.setdefault(_group_of(task, settings.groups), []).append(task)
    for name, held in members.items():
        if not held:
            raise LoRWebError(f"The group {name} has no task. There are: {list_names(tasks, 8)}. Correct its pattern.")
    most = settings.tasks or None
    return [
        (task, name)
        for name, held in members.items()
        for task in sorted(sorted(held, key=lambda task: _draw_by(f"{settings.seed} {task}"))[:most])
    ]


def _group_of(task: str, groups: Sequence[Group]) -> str | None:
    return next((group.name for group in groups if fnmatchcase(task, group.pattern)), None)


def _item(number: int, analogy: Analogy, group: str | None, settings: EvaluationSettings) -> Item:
    key = f"{_draw_by(analogy.edit)[:12]}-{number:03d}"
    # Within what every generator takes, and another one for each item.
    seed = int(_draw_by(f"{settings.seed} {key}")[:12], 16)
    return Item(key, analogy, group, seed, analogy.caption if settings.prompts == "captions" else "")


def _draw_by(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
