"""Mixtures fitted to examples: against routing, against LoRAs fitted as long to the same pair, and to several pairs.

A line for each way, split and seed in `docs/small_world_fit.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.fitting.examples import encode_examples, read_pairs
from lorweb_core.fitting.fit import fit_mixture
from lorweb_core.fitting.settings import FitSettings
from lorweb_core.training.data.batch import Text
from small_world import study, study_report
from small_world.fitted_lora import fitted_lora
from small_world.models import stored
from small_world.models.autoencoder import TinyAutoencoder
from small_world.models.flux import TEXT_WIDTH, prompt
from small_world.world.benchmark import open_benchmark
from small_world.world.drawn_analogies import Analogies, draw_analogies, queries, sample
from small_world.world.drawn_grids import floats
from small_world.world.plain.edits import draw_pairs
from small_world.world.plain.scenes import SIDE
from small_world.worlds import PLAIN, Edit

RESULTS = Path(__file__).parent.parent / "docs" / "small_world_fit.jsonl"
PAGE = RESULTS.with_name("fitting.md")
SEEDS = (0, 1, 2)
EACH = 12
"""Analogies of a split."""
SETTINGS = FitSettings(megapixels=(2 * SIDE / 1024) ** 2, checkpointing=False, together=4)
MOST_PAIRS = 4

SPLITS = {"new_edits": "new edits", "new_pairs": "new pairs", "seen": "seen edits", "placed": "seen edits with a sun"}
"""Splits of `world.splits`, and edits a part of which depends on place: the sun is always in the same corner."""


class Way(NamedTuple):
    """Choose how b' is made: by a mixture, routed or fitted, or by a LoRA of a rank; see SETTINGS for the rest."""

    splits: tuple[str, ...]
    steps: int = SETTINGS.steps
    rank: int = 0
    pairs: int = 1
    zeros: bool = False
    flips: bool = SETTINGS.flips


_ALL, _NEW = ("new_edits", "new_pairs", "seen"), ("new_edits",)
_SEVERAL = ("new_edits", "new_pairs", "placed")
WAYS = {
    "routed": Way((*_ALL, "placed"), 0),
    "fitted": Way((*_ALL, "placed")),
    "fitted, seen mirrored too": Way((*_ALL, "placed"), flips=True),
    "a LoRA of rank 4, 20 steps": Way(_NEW, 20, 4),
    "a LoRA of rank 16, 20 steps": Way(_NEW, 20, 16),
    "fitted from a query of zeros": Way(_NEW, zeros=True),
    "fitted to two pairs": Way(_SEVERAL, pairs=2),
    "fitted to four pairs": Way(_SEVERAL, pairs=4),
    "fitted, 60 steps": Way(_NEW, 60),
    "a LoRA of rank 4, 60 steps": Way(_NEW, 60, 4),
    "a LoRA of rank 16, 60 steps": Way(_NEW, 60, 16),
}


class WorldEncoders:
    """Encode pictures as the world's autoencoder does, and text as no words."""

    identity = "small world"

    def __init__(self, autoencoder: TinyAutoencoder):
        self._autoencoder = autoencoder

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        return self._autoencoder.encode(images.movedim(-1, 1)).float()

    def encode_text(self, captions: Sequence[str]) -> Text:
        return prompt(torch.zeros(len(captions), 1, TEXT_WIDTH))


class Question(NamedTuple):
    """Hold what is asked of every way: analogies, and for each the pairs that show its edit, its own first."""

    analogies: Analogies
    pairs: list[list[tuple[Tensor, Tensor]]]
    queries: Tensor


class FitStudy:
    """Hold what all measurements share."""

    def __init__(self) -> None:
        self.benchmark = open_benchmark(PLAIN)
        autoencoder = stored.load_autoencoder(PLAIN)
        self.encode, self.encoders = autoencoder.encode, WorldEncoders(autoencoder)
        self.basis = stored.load_basis(PLAIN)
        self.attached = AttachedBasis(self.basis, self.benchmark.base)

    def ask(self, split: str) -> Question:
        """Draw EACH analogies, spread over the edits of a split."""
        of, seed = _edits(split)
        chosen = [of[i * len(of) // EACH] for i in range(EACH)]
        analogies = draw_analogies(PLAIN, chosen, 1, seed, self.encode)
        more = draw_pairs(chosen, MOST_PAIRS - 1, torch.Generator().manual_seed(seed + 1)).unflatten(0, (EACH, -1))
        drawn = torch.cat([analogies.examples[:, None], more], 1)
        pairs = [[tuple(floats(pair).movedim(1, -1)) for pair in several] for several in drawn]
        return Question(analogies, pairs, queries(analogies, study.SHIPPED[PLAIN].mode, self.benchmark.encoder))

    def measure(self, way: Way, question: Question, seed: int) -> dict[str, float]:
        """Make every b' in a way: the mean error, and that of copying b."""
        solve = self._lora if way.rank else self._mixtures
        made = solve(way, question, seed)
        b, b_prime = floats(question.analogies.tasks).unbind(1)

        def error(pictures: Tensor) -> float:
            return round((pictures - b_prime).square().mean().item(), 5)

        return {"error": error(made), "copying": error(b)}

    def _mixtures(self, way: Way, question: Question, seed: int) -> Tensor:
        settings = replace(SETTINGS, seed=seed, steps=max(1, way.steps), flips=way.flips)
        tables = []
        for query, pairs in zip(question.queries, question.pairs, strict=True):
            mixture = self.basis.route(query)
            if way.steps:
                start = None if way.zeros else mixture
                mixture = fit_mixture(
                    self.benchmark.base, self.encoders, self.basis, start, pairs[: way.pairs], settings
                )
            tables.append(mixture.table)
        with torch.no_grad(), self.attached.attached():
            self.attached.mix(torch.stack(tables, 1))
            return sample(question.analogies, torch.arange(EACH), self.benchmark.base, seed)

    def _lora(self, way: Way, question: Question, seed: int) -> Tensor:
        settings = replace(SETTINGS, seed=seed)
        made = []
        for index, pairs in enumerate(question.pairs):
            examples = encode_examples(read_pairs(pairs[:1]), self.encoders, settings).fitted
            with fitted_lora(self.benchmark.base, examples, way.rank, way.steps, settings):
                made.append(sample(question.analogies, torch.tensor([index]), self.benchmark.base, seed))
        return torch.cat(made)


def _edits(split: str) -> tuple[list[Edit], int]:
    """List the edits of a split, and the seed that its pictures are drawn from."""
    if split != "placed":
        return PLAIN.splits[split].edits, PLAIN.splits[split].seed
    return [edit for edit in PLAIN.splits["seen"].edits if "sun" in edit], PLAIN.splits["seen"].seed


def run() -> None:
    """Measure what is not in the results yet, and write the page's table anew after each."""
    done = {(row["way"], row["split"], row["seed"]) for row in study.read(RESULTS)}
    jobs = [(name, split, seed) for (name, way), seed in product(WAYS.items(), SEEDS) for split in way.splits]
    fit_study = FitStudy()
    questions = cache(fit_study.ask)
    for name, split, seed in jobs:
        if (name, split, seed) in done:
            continue
        row = {"way": name, "split": split, "seed": seed, **fit_study.measure(WAYS[name], questions(split), seed)}
        print(row, flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    study_report.write_table(PAGE, table(study.read(RESULTS)))


def table(rows: list[dict]) -> str:
    """Format results as a table in Markdown: mean and standard deviation over the seeds."""
    lines = ["| error of b' | " + " | ".join(SPLITS.values()) + " |", "| --- |" + " --- |" * len(SPLITS)]
    copying = (mean([row["copying"] for row in rows if row["split"] == split]) for split in SPLITS)
    lines.append("| copying b | " + " | ".join(f"{error:.4f}" for error in copying) + " |")
    for way in (way for way in WAYS if any(row["way"] == way for row in rows)):
        errors = [[row["error"] for row in rows if (row["way"], row["split"]) == (way, split)] for split in SPLITS]
        cells = [_spread(found) if found else "" for found in errors]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(errors: list[float]) -> str:
    middle, deviation = study_report.spread(errors)
    return f"{middle:.4f} ± {deviation:.4f}"
