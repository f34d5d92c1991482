"""Ask a judge about results, and read its answers.

The words are this project's own: of the paper (arXiv 2602.15727 v2, appendix A.4) the measures are followed,
preservation and accuracy from 1 to 10 and a preference between two results, and not its prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

LEAST, MOST = 1, 10

_SHOWN = (
    "Picture A and picture A' show an example of an edit: A is before it and A' after it. Picture B is to be edited in "
    "the same way."
)
_RATING = (
    f"{_SHOWN} Picture R is the result of editing B. Rate two things with whole numbers from {LEAST} (worst) to {MOST} "
    "(best). preservation: everything in B that the example does not change is unchanged in R. accuracy: R has the "
    "change from A to A', made to B, wholly and nothing else instead of it. Answer in one line and with nothing else, "
    'in this form: {"preservation": 5, "accuracy": 5}'
)
_PREFERENCE = (
    f"{_SHOWN} Picture R1 and picture R2 are two results of editing B. The better one makes the change from A to A' to "
    "B and keeps the rest of B. Which one is better? Answer with one word and nothing else: R1, R2 or tie."
)


class Question(NamedTuple):
    """Hold what a judge is asked."""

    text: str
    pictures: Mapping[str, Tensor]
    """Pictures by their names in the text, in order, (H, W, 3) in 0–1."""


class Rating(NamedTuple):
    """Hold whole numbers from LEAST to MOST."""

    preservation: int
    accuracy: int


def ask_rating(a: Tensor, a_prime: Tensor, b: Tensor, result: Tensor) -> Question:
    """Ask how well a result keeps b and follows the example."""
    return Question(_RATING, {"A": a, "A'": a_prime, "B": b, "R": result})


def ask_preference(a: Tensor, a_prime: Tensor, b: Tensor, first: Tensor, second: Tensor) -> Question:
    """Ask which of two results is better."""
    return Question(_PREFERENCE, {"A": a, "A'": a_prime, "B": b, "R1": first, "R2": second})


def read_rating(answer: str) -> Rating | None:
    """Read both numbers of an answer; None if one is missing, given twice or out of range."""
    found = [
        re.findall(rf"\b{name}[\"'*\s]*[:=][\"'*\s]*(-?\d+(?:\.\d+)?)", answer, re.IGNORECASE)
        for name in Rating._fields
    ]
    if any(len(numbers) != 1 or not re.fullmatch(r"\d+(\.0+)?", numbers[0]) for numbers in found):
        return None
    rating = Rating(*(int(float(numbers[0])) for numbers in found))
    return rating if all(LEAST <= number <= MOST for number in rating) else None


def read_preference(answer: str) -> str | None:
    """Read R1, R2 or tie; None if none of them is said, or several are."""
    said = {word.lower() for word in re.findall(r"\b(?:R1|R2|tie)\b", answer, re.IGNORECASE)}
    return said.pop() if len(said) == 1 else None
