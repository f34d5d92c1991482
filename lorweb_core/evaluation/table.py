"""Average measures: over a task's analogies first, then over the tasks of a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from .metrics import MEASURES
from .run_folder import EvaluationFolder
from .tasks import EVERY, Item

RATINGS = ("preservation", "accuracy")
OUTCOMES = ("won", "tied", "lost")


class Cell(NamedTuple):
    """Hold the mean over tasks, and how they spread about it (standard deviation)."""

    mean: float
    spread: float
    tasks: int


class Table(NamedTuple):
    """Hold a group's cells, by way and column; None where nothing was measured."""

    group: str
    tasks: int
    items: int
    cells: dict[str, dict[str, Cell | None]]
    preferences: dict[str, dict[str, Cell | None]]
    """By the other way: shares of OUTCOMES of the way that is held against it, in 0–1."""


class Answers(NamedTuple):
    """Count a judge's answers to one kind of question."""

    asked: int
    nonsense: int
    """How many could not be read."""
    retried: int
    """Tries beyond the first of each."""


def tables(folder: EvaluationFolder, items: Sequence[Item], ways: Sequence[str], against: str) -> list[Table]:
    """Make a table of every group, and one of all tasks, which comes first."""
    groups = {EVERY: list(items)}
    for item in items:
        if item.group is not None:
            groups.setdefault(item.group, []).append(item)
    return [_table(folder, name, held, ways, against) for name, held in groups.items()]


def count_answers(folder: EvaluationFolder, items: Sequence[Item], ways: Sequence[str]) -> dict[str, Answers]:
    """Count a judge's answers, by what was asked."""
    counted = {}
    for kind in ("rating", "preference"):
        answers = [
            answer
            for way in ways
            for item in items
            for answer in (folder.recorded(kind, way, item) or {}).get("answers", [])
        ]
        nonsense, retried = (sum(answer[what] for answer in answers) for what in ("nonsense", "retried"))
        counted[kind] = Answers(len(answers), nonsense, retried)
    return counted


def _table(folder: EvaluationFolder, name: str, items: Sequence[Item], ways: Sequence[str], against: str) -> Table:
    def measured(kind: str, way: str, column: str) -> Cell | None:
        return average(items, lambda item: (folder.recorded(kind, way, item) or {}).get(column))

    cells = {
        way: {column: measured("measures", way, column) for column in MEASURES}
        | {column: measured("rating", way, column) for column in RATINGS}
        for way in ways
    }
    preferences = {
        way: {outcome: measured("preference", way, outcome) for outcome in OUTCOMES} for way in ways if way != against
    }
    return Table(name, len({item.task for item in items}), len(items), cells, preferences)


def average(items: Sequence[Item], value: Callable[[Item], Any]) -> Cell | None:
    """Average what there is of a value: each task first, and then the tasks; None if there is nothing."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for item in items:
        found = value(item)
        if found is not None:
            by_task[item.task].append(float(found))
    means = [fmean(values) for values in by_task.values()]
    return Cell(fmean(means), pstdev(means), len(means)) if means else None
