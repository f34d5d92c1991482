"""The paper's comparisons on the small world: a basis against one LoRA of its size, and what routing looks at.

Every variant is trained on the same analogies, three times; what came out is a line each in `docs/small_world.jsonl`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from lorweb_core.basis import load_basis
from lorweb_core.config import BasisConfig
from lorweb_core.query import QUERY_MODES
from lorweb_core.training.settings.config import TrainSettings
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.training.trainer import Step, Training
from small_world.models import image_encoder as encoder
from small_world.models import stored as models
from small_world.printed_progress import Steps
from small_world.world.drawn_analogies import Analogies, Drawn, queries, solve
from small_world.world.splits import SOLVED, World, open_world

RESULTS = Path(__file__).parent.parent / "docs" / "small_world.jsonl"
KEYS = 32
SEEDS = (0, 1, 2)
SETTINGS = TrainSettings(
    batch_size=24,
    optimizer="adamw",
    lr=5e-3,
    lr_scheduler="onecycle",
    dtype="fp32",
    timestep_type="sigmoid",
    result_weight=4.0,
    gradient_checkpointing=False,
)


@dataclass(frozen=True)
class Variant:
    n: int
    rank: int
    mode: str = "ca'-ca"
    show_pair: bool = True
    steps: int = 300

    @property
    def config(self) -> BasisConfig:
        return BasisConfig(
            linear=self.rank,
            loras_num=self.n,
            lora_keys_dim=KEYS,
            query_mode=self.mode,
            external_query_model=encoder.ID,
        )


LONG = 1200
SHIPPED = Variant(16, 1, steps=LONG)
VARIANTS = {
    "1 × 16": Variant(1, 16),
    "4 × 4": Variant(4, 4),
    "16 × 1": Variant(16, 1),
    "1 × 64": Variant(1, 64),
    "16 × 1, cat-aa'b": Variant(16, 1, "cat-aa'b"),
    "16 × 1, caa'b": Variant(16, 1, "caa'b"),
    "16 × 1, no pair": Variant(16, 1, show_pair=False),
    "1 × 16, no pair": Variant(1, 16, show_pair=False),
    "1 × 16, long": Variant(1, 16, steps=LONG),
    "16 × 1, long": SHIPPED,
    "16 × 1, cat-aa'b, long": Variant(16, 1, "cat-aa'b", steps=LONG),
    "16 × 1, caa'b, long": Variant(16, 1, "caa'b", steps=LONG),
}


def shipped(world: World) -> TrainableBasis:
    """The basis that is kept in `models/`, on the world's base."""
    basis = untrained(world, SHIPPED)
    basis.load(load_basis(models.BASIS).layers)
    basis.attach(world.base.model, world.base.linears)
    return basis


def untrained(world: World, variant: Variant) -> TrainableBasis:
    return TrainableBasis(world.base.shapes, variant.config, QUERY_MODES[variant.mode].width(encoder.SPEC))


def train(basis: TrainableBasis, world: World, variant: Variant, seed: int) -> Training:
    """Its hooks stay on the base: `Training.detach` takes them off."""
    settings = replace(SETTINGS, steps=variant.steps)
    analogies = world.analogies("trained", variant.show_pair)
    source = Drawn(analogies, queries(analogies, variant.mode, world.encoder), settings.batch_size, seed)
    training = Training(basis, world.base, source, settings)
    progress = Steps(f"{variant.n} × {variant.rank}, {variant.mode}, seed {seed}", settings.steps)

    def show(step: Step) -> None:
        progress.step = step.number - 1
        progress.show(loss=step.loss)

    training.run(show)
    return training


def measure(world: World, variant: Variant, seed: int) -> dict:
    """Train one, and solve analogies of seen edits, of new pairs of them, and of new edits."""
    torch.manual_seed(seed)
    basis = untrained(world, variant)
    began = time.perf_counter()
    training = train(basis, world, variant, seed)
    told = {"n": variant.n, "rank": variant.rank, "mode": variant.mode, "pair": variant.show_pair, "seed": seed}
    told |= {"parameters": sum(p.numel() for p in basis.parameters()), "seconds": round(time.perf_counter() - began)}
    told |= solve_pools(world, variant, basis)
    training.detach()
    return told


def solve_pools(world: World, variant: Variant, basis: TrainableBasis) -> dict[str, dict[str, float]]:
    """Of each pool that is solved: errors of b', what copying b has, and how b' follows a'."""
    return {name: tell(world, variant, basis, world.analogies(name, variant.show_pair)) for name in SOLVED}


def tell(world: World, variant: Variant, basis: TrainableBasis, analogies: Analogies) -> dict[str, float]:
    asked = queries(analogies, variant.mode, world.encoder)
    solved = solve(analogies, asked, basis, world.base, world.encoder)
    return {name: round(getattr(solved, name).mean().item(), 5) for name in ("error", "copying", "follows")}


def run(only: Iterable[str] = (), worker: int = 0, workers: int = 1, results: Path = RESULTS) -> None:
    """All that is not in `results` yet; of several workers each does its share, on one core."""
    torch.set_num_threads(1)
    done = {(row["variant"], row["seed"]) for row in read(results)}
    # The short ones first.
    jobs = sorted(product(only or VARIANTS, SEEDS), key=lambda job: (VARIANTS[job[0]].steps, job[1]))
    mine = [job for job in jobs[worker::workers] if job not in done]
    world = open_world()
    for name, seed in mine:
        row = {"variant": name, **measure(world, VARIANTS[name], seed)}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read(results: Path = RESULTS) -> list[dict]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
