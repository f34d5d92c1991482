"""Run an evaluation: make what is not made yet, measure what is not measured yet, and write the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import LoRWebError, shown
from .judge import Judge
from .metrics import Clip, Lpips, squared_error
from .page import write_page
from .questions import Question, ask_preference, ask_rating, read_preference, read_rating
from .run_folder import EvaluationFolder
from .settings import EvaluationSettings
from .tasks import Item, load
from .ways import WAYS, Models

log = logging.getLogger(__name__)

Bar = Callable[[str, int, int], None]
"""Hear of a phase's name, how much of it is done, and of how much."""

_T = TypeVar("_T")

LONGEST_KEPT = 500
"""Characters that are kept of an answer."""


class Evaluation(NamedTuple):
    """Hold what an evaluation works with; the metrics and the judge are loaded when they are first needed."""

    settings: EvaluationSettings
    items: Sequence[Item]
    folder: EvaluationFolder
    models: Models
    lpips: Callable[[], Lpips | None]
    clip: Callable[[], Clip | None]
    judge: Callable[[], Judge | None]
    bar: Bar


def run(evaluation: Evaluation) -> Path:
    """Do all that is left to do, and return the page. What is done stays, however this ends."""
    _keep_pictures(evaluation)
    _make(evaluation)
    _measure(evaluation)
    _judge(evaluation)
    page = write_page(evaluation.folder, evaluation.settings, evaluation.items)
    log.info("Wrote %s", page.name)
    return page


def _told(evaluation: Evaluation, phase: str, left: Sequence[_T], total: int) -> Iterator[_T]:
    """Go through what is left of a phase, and tell how far it is."""
    done = total - len(left)
    if not left:
        return
    evaluation.bar(phase, done, total)
    for number, each in enumerate(left, 1):
        yield each
        evaluation.bar(phase, done + number, total)


def _keep_pictures(evaluation: Evaluation) -> None:
    folder, items = evaluation.folder, evaluation.items
    # The last of an item's files is there when all are.
    left = [item for item in items if not folder.given_file("b_prime", item).exists()]
    for item in _told(evaluation, "Reading the pictures", left, len(items)):
        folder.keep_given(item, load(item))


def _make(evaluation: Evaluation) -> None:
    settings, items, folder, models = evaluation[:4]
    left = {way: [item for item in items if not folder.result_file(way, item).exists()] for way in settings.ways}
    for way, asked in left.items():
        if asked:
            WAYS[way].prepare(models, asked)
    for way, asked in left.items():
        if not asked:
            continue
        with WAYS[way].making(models) as make:
            for item in _told(evaluation, f"Making b' ({way})", asked, len(items)):
                folder.keep_result(way, item, make(item, folder.read_given(item)))


def _left(evaluation: Evaluation, kind: str, ways: Sequence[str]) -> list[tuple[str, Item]]:
    """List of which results a record is missing; those of one analogy come together."""
    return [
        (way, item) for item in evaluation.items for way in ways if evaluation.folder.recorded(kind, way, item) is None
    ]


def _measure(evaluation: Evaluation) -> None:
    folder, ways = evaluation.folder, evaluation.settings.ways
    left = _left(evaluation, "measures", ways)
    if not left:
        return
    lpips, clip = evaluation.lpips(), evaluation.clip()
    for way, item in _told(evaluation, "Measuring", left, len(ways) * len(evaluation.items)):
        pictures, result = folder.read_given(item), folder.read_result(way, item)
        of_images, of_text = clip.directions(pictures, result, item.analogy.caption) if clip else (None, None)
        values = {
            "lpips": lpips.measure(pictures.b, result) if lpips else None,
            "clip_image": of_images,
            "clip_text": of_text,
            "error": squared_error(result, pictures.b_prime),
        }
        folder.record("measures", way, item, values)


def _judge(evaluation: Evaluation) -> None:
    settings, folder = evaluation.settings, evaluation.folder
    others = [way for way in settings.ways if way != settings.held_against]
    ratings, preferences = _left(evaluation, "rating", settings.ways), _left(evaluation, "preference", others)
    judge = evaluation.judge() if ratings or preferences else None
    if judge is None:
        return
    for way, item in _told(evaluation, "Rating", ratings, len(settings.ways) * len(evaluation.items)):
        folder.record("rating", way, item, _rate(judge, folder, way, item))
    for way, item in _told(evaluation, "Comparing", preferences, len(others) * len(evaluation.items)):
        folder.record("preference", way, item, _compare(judge, folder, settings.held_against, way, item))


def _rate(judge: Judge, folder: EvaluationFolder, way: str, item: Item) -> dict[str, Any]:
    question = ask_rating(*folder.read_given(item)[:3], folder.read_result(way, item))
    rating, kept = _ask(judge, question, read_rating)
    return {"answers": [kept]} | ({} if rating is None else rating._asdict())


def _compare(judge: Judge, folder: EvaluationFolder, one: str, other: str, item: Item) -> dict[str, Any]:
    """Ask in both orders. What wins in both has won, and all else is a tie; nonsense leaves the analogy out."""
    given, results = folder.read_given(item)[:3], [folder.read_result(way, item) for way in (one, other)]
    asked = [_ask(judge, ask_preference(*given, *pair), read_preference) for pair in (results, results[::-1])]
    said = [understood for understood, _ in asked]
    values: dict[str, Any] = {"answers": [kept for _, kept in asked]}
    if None in said:
        return values
    won, lost = said == ["r1", "r2"], said == ["r2", "r1"]
    return values | {"won": int(won), "tied": int(not (won or lost)), "lost": int(lost)}


def _ask(judge: Judge, question: Question, read: Callable[[str], _T | None]) -> tuple[_T | None, dict[str, Any]]:
    """Ask a question; returns what is understood of the answer, and what is kept of it."""
    before = judge.retried
    try:
        said = judge.answer(question)
    except LoRWebError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:  # of a model that cannot take so many pictures, or its words
        raise LoRWebError(
            f"The judge cannot be asked ({shown(str(error))}). Give another --judge, "
            "which takes several pictures at a time."
        ) from error
    understood = read(said)
    kept = {"said": said[:LONGEST_KEPT], "nonsense": understood is None, "retried": judge.retried - before}
    return understood, kept
