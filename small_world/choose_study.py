"""Edits chosen from examples that show more than is wanted: Choose Edit's ways, against the example as it is.

A line for each basis, question, way and seed in `docs/small_world_choose.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from statistics import mean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from lorweb_core.basis import LoRABasis
from lorweb_core.choosing import GAIN, joined, without
from lorweb_core.demonstrations import mix
from lorweb_core.errors import LoRWebError
from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.fitting.fit import fit_mixture
from lorweb_core.mixture import Mixture
from lorweb_core.query import encode_queries
from lorweb_core.space.blend import blend
from lorweb_core.triplet import Triplet
from small_world import choices, study, study_report
from small_world.choices import Asked, Choice, judge
from small_world.fit_study import SETTINGS, WorldEncoders
from small_world.models import stored
from small_world.models.other_basis import OTHER, other_basis
from small_world.world.benchmark import open_benchmark
from small_world.world.drawn_analogies import sample
from small_world.world.drawn_grids import floats
from small_world.world.plain import edits
from small_world.worlds import PLAIN

RESULTS = study.RESULTS.with_name("small_world_choose.jsonl")
SEEDS = (0, 1, 2)
"""Seeds of the scenes and of the noise."""

FITTED = 6
"""Analogies of a question in which mixtures are fitted."""

COPYING, AS_IT_IS, CEILING = "copying b", "the example as it is", "an example of the wanted change alone"
CHOSEN, MASKED = "Choose Edit, unwanted pair", "Choose Edit, mask"


class Setting:
    """Hold a basis on the base, and how mixtures of it are made of examples."""

    def __init__(self, basis: LoRABasis, benchmark, autoencoder):
        self.basis, self.base, self.encoder = basis, benchmark.base, benchmark.encoder
        self._encoders = WorldEncoders(autoencoder)
        self.seed = 0

    @cached_property
    def attached(self) -> AttachedBasis:
        return AttachedBasis(self.basis, self.base)

    def routed(self, examples: Sequence[Triplet]) -> Mixture:
        return mix(self.basis, self.encoder, examples)

    def queries(self, examples: Sequence[Triplet]) -> Tensor:
        return encode_queries(self.encoder, examples, self.basis.config.query_mode)

    def fitted(self, examples: Sequence[Triplet]) -> Mixture:
        """Fit each example's routed mixture to its pair."""
        settings = replace(SETTINGS, seed=self.seed)
        starts = self.routed(examples).split()
        fits = [
            fit_mixture(self.base, self._encoders, self.basis, start, example.pairs, settings)
            for start, example in zip(starts, examples, strict=True)
        ]
        return joined(fits)

    @torch.no_grad()
    def made(self, mixture: Mixture, asked: Asked) -> Tensor:
        """Sample b' of all analogies."""
        self.attached.mix(mixture.table)
        with self.attached.attached():
            return sample(asked.analogies, torch.arange(len(asked.whole)), self.base, self.seed)


def _coefficients(setting: Setting, asked: Asked) -> Mixture:
    whole = setting.routed(asked.whole)
    others = [setting.routed(examples) for examples in asked.apart[asked.unwanted :]]
    return whole.with_table(whole.table - sum(other.table - other.origin_table for other in others))


def _queries(setting: Setting, asked: Asked) -> Mixture:
    query = setting.queries(asked.whole)
    for examples in asked.apart[asked.unwanted :]:
        query = query - setting.queries(examples) + setting.queries([example.without_edit() for example in examples])
    return setting.basis.route(query)


def _without(mixtures: Callable[[Sequence[Triplet]], Mixture], asked: Asked, gain: float = GAIN) -> Mixture:
    whole = mixtures(asked.whole)
    others = [mixtures(examples).split() for examples in asked.apart[asked.unwanted :]]
    chosen = joined([_or_whole(mixture, each) for mixture, *each in zip(whole.split(), *others, strict=True)])
    return chosen.with_table(whole.origin_table + gain / GAIN * (chosen.table - whole.origin_table))


def _or_whole(mixture: Mixture, unwanted: Sequence[Mixture]) -> Mixture:
    try:
        return without(mixture, unwanted)
    except LoRWebError as error:
        print("refused, taken as it is:", error)
        return mixture


def _sum(setting: Setting, asked: Asked) -> Mixture:
    parts = [setting.routed(examples) for examples in asked.apart]
    return blend(parts, [1] * len(parts), origin="no edit")


Way = Callable[[Setting, Asked], Mixture]
WAYS: dict[str, Way] = {
    CEILING: lambda setting, asked: setting.routed(asked.alone),
    AS_IT_IS: lambda setting, asked: setting.routed(asked.whole),
    "coefficients: both − Y from no edit": _coefficients,
    "queries: both − Y": _queries,
    **{
        f"{CHOSEN}, gain {gain:g}": lambda setting, asked, gain=gain: _without(setting.routed, asked, gain)
        for gain in (1.0, 1.3, 1.4)
    },
    CHOSEN: lambda setting, asked: _without(setting.routed, asked),
    MASKED: lambda setting, asked: setting.routed(asked.masked),
    f"{CHOSEN}, both fitted": lambda setting, asked: _without(setting.fitted, asked),
    f"{MASKED}, fitted": lambda setting, asked: setting.fitted(asked.masked),
    f"{CEILING}, fitted": lambda setting, asked: setting.fitted(asked.alone),
    "X + Y from no edit": _sum,
}


class Question(NamedTuple):
    """Hold a choice and the ways that are measured on it."""

    choice: Callable[[], Choice]
    ways: tuple[str, ...]


_GAINS = tuple(way for way in WAYS if "gain" in way)
_SUBTRACTED = ("coefficients: both − Y from no edit", "queries: both − Y", CHOSEN)


def _some(of: Sequence[edits.Edit], count: int = FITTED) -> list[edits.Edit]:
    return [of[i * len(of) // count] for i in range(count)]


QUESTIONS = {
    "one of two": Question(lambda: Choice(edits.split()[1]), (CEILING, AS_IT_IS, *_SUBTRACTED)),
    "by mask": Question(lambda: Choice(choices.parted_pairs()), (CEILING, AS_IT_IS, MASKED, CHOSEN)),
    "two from two": Question(lambda: Choice(edits.split()[1], 2), (AS_IT_IS, "X + Y from no edit")),
    "one of two, fitted": Question(
        lambda: Choice(_some(edits.split()[1])),
        (CEILING, AS_IT_IS, CHOSEN, f"{CHOSEN}, both fitted", f"{CEILING}, fitted"),
    ),
    "by mask, fitted": Question(
        lambda: Choice(_some(choices.parted_pairs())), (CEILING, AS_IT_IS, MASKED, f"{MASKED}, fitted")
    ),
    "one of two, known pairs": Question(lambda: Choice(choices.known_pairs()), (CEILING, AS_IT_IS, *_GAINS, CHOSEN)),
    "one of three": Question(lambda: Choice(choices.triples()), (CEILING, AS_IT_IS, CHOSEN)),
    "two of three": Question(lambda: Choice(choices.triples(), 2), (CEILING, AS_IT_IS, CHOSEN)),
}
BASES = {"ca'-ca": lambda benchmark: stored.load_basis(PLAIN), OTHER.mode: other_basis}


def run(only: Iterable[str] = (), bases: Iterable[str] = ()) -> None:
    """Measure what is not in the results yet, and write the page's table anew after it."""
    done = {(row["basis"], row["question"], row["seed"], row["way"]) for row in study.read(RESULTS)}
    benchmark, autoencoder = open_benchmark(PLAIN), stored.load_autoencoder(PLAIN)
    for mode in bases or BASES:
        setting = Setting(BASES[mode](benchmark), benchmark, autoencoder)
        for name, seed in product(only or QUESTIONS, SEEDS):
            question = QUESTIONS[name]
            ways = [way for way in (COPYING, *question.ways) if (mode, name, seed, way) not in done]
            if not ways:
                continue
            setting.seed, asked = seed, choices.ask(question.choice(), seed, autoencoder.encode)
            for way in ways:
                _write({"basis": mode, "question": name, "seed": seed, "way": way, **_measure(setting, asked, way)})
    study_report.write_table(study_report.PAGE, table(study.read(RESULTS)), "choices")


def _measure(setting: Setting, asked: Asked, way: str) -> dict[str, float]:
    made = floats(asked.analogies.tasks)[:, 0] if way == COPYING else setting.made(WAYS[way](setting, asked), asked)
    return {name: round(value, 5) for name, value in judge(made, asked)._asdict().items()}


def _write(row: dict) -> None:
    print(row, flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def table(rows: list[dict]) -> str:
    """Format results as a table in Markdown: means over the seeds, and the spread of the error."""
    lines = [
        "| basis, question | way | seeds | error | to the ceiling | wanted change made | unwanted change made |",
        "| --- |" + " --- |" * 6,
    ]
    for (mode, name), ways in _grouped(rows).items():
        ceiling = ways.get(CEILING) or ways.get(AS_IT_IS)
        if not ceiling:
            continue
        for way, found in ways.items():
            errors = [row["error"] for row in found]
            ratio = mean(errors) / mean(row["error"] for row in ceiling)
            shares = " | ".join(f"{mean(row[key] for row in found):.2f}" for key in ("wanted", "unwanted"))
            spread = f" ± {stdev(errors):.4f}" if len(errors) > 1 else ""
            cells = [f"`{mode}`, {name}", way, f"{len(errors)}", f"{mean(errors):.4f}{spread}", f"{ratio:.2f}", shares]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _grouped(rows: list[dict]) -> dict[tuple[str, str], dict[str, list[dict]]]:
    grouped: dict[tuple[str, str], dict[str, list[dict]]] = {}
    for mode, name in product(BASES, QUESTIONS):
        of = [row for row in rows if (row["basis"], row["question"]) == (mode, name)]
        for way in (COPYING, *WAYS):
            if found := [row for row in of if row["way"] == way]:
                grouped.setdefault((mode, name), {})[way] = found
    return grouped
