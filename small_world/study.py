"""The paper's comparisons on the small world: a basis against one LoRA of its size, and what routing looks at.

Every variant is trained on the same analogies, three times; what came out is a line each in `docs/small_world.jsonl`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorweb_core.basis import load_basis
from lorweb_core.config import BasisConfig
from lorweb_core.query import QUERY_MODES
from lorweb_core.training.batch import Source
from lorweb_core.training.flux_base import FluxBase
from lorweb_core.training.settings import TrainSettings
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.training.trainer import Step, Training

from . import edits, encoder, models
from .analogies import Embed, PoolSource, Solved, solve
from .pool import Pool, make_pool
from .progress import Steps
from .scenes import SIDE

RESULTS = Path(__file__).parent.parent / "docs" / "small_world.jsonl"
KEYS = 32
SEEDS = (0, 1, 2)
SETTINGS = TrainSettings(
    batch_size=24,
    steps=300,
    optimizer="adamw",
    lr=5e-3,
    lr_scheduler="onecycle",
    dtype="fp32",
    timestep_type="sigmoid",
    result_weight=4.0,
    gradient_checkpointing=False,
)

COUNTS = {"seen": 91, "new_pairs": 104, "new_edits": 48}
"""Analogies that are solved, of which pool."""


@dataclass(frozen=True)
class Variant:
    n: int
    rank: int
    mode: str = "ca'-ca"
    show_pair: bool = True

    @property
    def config(self) -> BasisConfig:
        return BasisConfig(
            linear=self.rank,
            loras_num=self.n,
            lora_keys_dim=KEYS,
            query_mode=self.mode,
            external_query_model=encoder.ID,
        )


SHIPPED = Variant(16, 1)
VARIANTS = {
    "1 × 16": Variant(1, 16),
    "4 × 4": Variant(4, 4),
    "16 × 1": Variant(16, 1),
    "1 × 64": Variant(1, 64),
    "16 × 1, cat-aa'b": Variant(16, 1, "cat-aa'b"),
    "16 × 1, caa'b": Variant(16, 1, "caa'b"),
    "16 × 1, no pair": Variant(16, 1, show_pair=False),
    "1 × 16, no pair": Variant(1, 16, show_pair=False),
}


class World(NamedTuple):
    """What all runs have in common."""

    base: FluxBase
    embed: Embed
    encode: Callable[[Tensor], Tensor]
    """Pictures or grids (n, 3, h, w) in 0–1 → latents."""
    seen: Pool
    new_pairs: Pool
    new_edits: Pool


def open_world(pairs: tuple[int, int, int] = (64, 8, 48)) -> World:
    """pairs: how many of each seen edit, new pair and new edit."""
    autoencoder, vision = models.load_autoencoder(), models.load_vision()

    @torch.no_grad()
    def embed(pictures: Tensor) -> Tensor:
        if pictures.shape[-1] != SIDE:
            pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        return vision(pixel_values=encoder.squares(pictures)).image_embeds

    pools = [
        make_pool(chosen, k, seed, autoencoder, vision)
        for seed, (chosen, k) in enumerate(zip(edits.split(), pairs, strict=True), 10)
    ]
    return World(models.load_base(autoencoder), embed, autoencoder.encode, *pools)


def shipped(pairs: tuple[int, int, int]) -> tuple[World, TrainableBasis]:
    """The world and the basis that is kept in `models/`, on its base."""
    world = open_world(pairs)
    basis = untrained(world, SHIPPED)
    basis.load(load_basis(models.BASIS).layers)
    basis.attach(world.base.model, world.base.linears)
    return world, basis


def untrained(world: World, variant: Variant) -> TrainableBasis:
    return TrainableBasis(world.base.shapes, variant.config, QUERY_MODES[variant.mode].width(encoder.SPEC))


def _source(world: World, pool: Pool, variant: Variant, seed: int) -> PoolSource:
    return PoolSource(pool, variant.mode, SETTINGS.batch_size, seed, variant.show_pair, world.embed)


def train(basis: TrainableBasis, world: World, source: Source, settings: TrainSettings, what: str) -> Training:
    """Its hooks stay on the base: `Training.detach` takes them off."""
    training = Training(basis, world.base, source, settings)
    progress = Steps(what, settings.steps)

    def show(step: Step) -> None:
        progress.step = step.number - 1
        progress.show(loss=step.loss)

    training.run(show)
    return training


def measure(world: World, variant: Variant, seed: int, settings: TrainSettings = SETTINGS) -> dict:
    """Train one, and solve analogies of seen edits, of new pairs of them, and of new edits."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    basis, source = untrained(world, variant), _source(world, world.seen, variant, seed)
    training = train(basis, world, source, settings, f"{variant}, seed {seed}")
    trained = time.perf_counter() - began
    told = {"n": variant.n, "rank": variant.rank, "mode": variant.mode, "pair": variant.show_pair, "seed": seed}
    told |= {"parameters": sum(p.numel() for p in basis.parameters()), "seconds": round(trained)}
    for name, count in COUNTS.items():
        source = _source(world, getattr(world, name), variant, seed)
        told[name] = summary(solve(source, basis, world.base, count))
    training.detach()
    return told


def summary(solved: Solved) -> dict[str, float]:
    return {name: round(getattr(solved, name).mean().item(), 5) for name in ("error", "copying", "follows")}


def run(only: Iterable[str] = (), worker: int = 0, workers: int = 1, results: Path = RESULTS) -> None:
    """All that is not in `results` yet; of several workers each does its share, on one core."""
    torch.set_num_threads(1)
    done = {(row["variant"], row["seed"]) for row in read(results)}
    jobs = [(name, seed) for seed in SEEDS for name in (only or VARIANTS)]
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
