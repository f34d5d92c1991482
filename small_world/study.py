"""The paper's comparisons on the small world: a basis against one LoRA of its size, and what routing looks at.

Every variant is trained on the same analogies, three times; the results are a line each in `docs/small_world.jsonl`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from lorweb_core.config import BasisConfig
from lorweb_core.encoder import ENCODERS
from lorweb_core.kept_references import EACH_STEP, Refresh
from lorweb_core.query import QUERY_MODES
from lorweb_core.training.settings.config import TrainSettings
from lorweb_core.training.trainable_basis import TrainableBasis
from lorweb_core.training.trainer import Step, Training
from small_world.models import stored
from small_world.models.one_cycle import Kept
from small_world.printed_progress import PrintedProgress
from small_world.world.benchmark import Benchmark, open_benchmark
from small_world.world.drawn_analogies import Analogies, AnalogySource, queries, solve
from small_world.worlds import FAMILIES, PLAIN, World

RESULTS = Path(__file__).parent.parent / "docs" / "small_world.jsonl"
KEYS = 32
EACH = 50
"""Steps after which the state of a basis's training is kept."""

SEEDS = (0, 1, 2)
SETTINGS = TrainSettings(
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
    """Choose a basis of n LoRAs of a rank, its query mode and its training.

    show_pair: whether grids show the pair. sampled: the whole grid or b' alone, in training and in what is measured.
    batch: analogies of a step. network, heads: the router's `query_network` and `lora_heads`. dropout, entropy: the
    training's `query_dropout` and `coefficient_entropy`.
    """

    n: int
    rank: int
    mode: str = "ca'-ca"
    show_pair: bool = True
    steps: int = 300
    sampled: str = "grid"
    batch: int = 24
    network: int = 0
    heads: int = 1
    dropout: float = 0.0
    entropy: float = 0.0

    def config(self, world: World) -> BasisConfig:
        """Make the config of such a basis of a world."""
        return BasisConfig(
            linear=self.rank,
            loras_num=self.n,
            lora_keys_dim=KEYS,
            query_mode=self.mode,
            external_query_model=world.encoder_id,
            sampled=self.sampled,
            query_network=self.network,
            lora_heads=self.heads,
        )

    @property
    def settings(self) -> TrainSettings:
        """Make the settings of its training."""
        return replace(
            SETTINGS,
            batch_size=self.batch,
            steps=self.steps,
            sampled=self.sampled,
            query_dropout=self.dropout,
            coefficient_entropy=self.entropy,
        )


LONG = 1200
SHIPPED = {
    PLAIN: Variant(16, 1, steps=LONG),
    FAMILIES: Variant(16, 1, steps=1600, sampled="result", batch=48),
}
"""World → the variant that is kept in `models/`."""

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
    "16 × 1, long": SHIPPED[PLAIN],
    "16 × 1, cat-aa'b, long": Variant(16, 1, "cat-aa'b", steps=LONG),
    "16 × 1, caa'b, long": Variant(16, 1, "caa'b", steps=LONG),
    "16 × 1, b' alone, long": Variant(16, 1, steps=LONG, sampled="result"),
}


def shipped(benchmark: Benchmark) -> TrainableBasis:
    """Attach the basis that is kept in `models/` to the world's base."""
    basis = untrained(benchmark, SHIPPED[benchmark.world])
    kept = stored.load_basis(benchmark.world)
    basis.load(kept.layers, kept.query_network)
    basis.attach(benchmark.base.model, benchmark.base.linears)
    return basis


def untrained(benchmark: Benchmark, variant: Variant) -> TrainableBasis:
    """Make a basis of a variant's shape, which changes nothing yet."""
    width = QUERY_MODES[variant.mode].width(ENCODERS[benchmark.world.encoder_id])
    return TrainableBasis(benchmark.base.shapes, variant.config(benchmark.world), width)


def train(
    basis: TrainableBasis, benchmark: Benchmark, variant: Variant, seed: int, kept: Kept | None = None
) -> Training:
    """Train a basis, or go on with what is kept; its hooks stay on the base, and `Training.detach` takes them off.

    Raises LoRWebError if what is kept is a training with other settings.
    """
    training = prepare(basis, benchmark, variant, seed)
    if kept and (state := kept.read()):
        training.restore(state)
    show = printed(f"{variant.n} × {variant.rank}, {variant.mode}, seed {seed}", variant.steps, training.done)

    def after(step: Step) -> None:
        show(step)
        if kept and step.number % EACH == 0 and step.number < variant.steps:
            kept.write(training.state())

    training.run(after)
    if kept:
        kept.remove()
    return training


def prepare(basis: TrainableBasis, benchmark: Benchmark, variant: Variant, seed: int) -> Training:
    """Make the training of a basis, at its first step, with its hooks on the base."""
    settings = variant.settings
    analogies = benchmark.analogies("trained", variant.show_pair, variant.sampled)
    source = AnalogySource(analogies, queries(analogies, variant.mode, benchmark.encoder), settings.batch_size, seed)
    return Training(basis, benchmark.base, source, settings)


def printed(what: str, steps: int, done: int = 0) -> Callable[[Step], None]:
    """Print a training's steps as they are done. done: those that were done before."""
    progress = PrintedProgress(what, steps)
    numbers = progress.begin(done)

    def show(step: Step) -> None:
        next(numbers)
        progress.show(loss=step.loss)

    return show


def measure(benchmark: Benchmark, variant: Variant, seed: int) -> dict:
    """Train a variant, and solve analogies of seen edits, of new pairs of them, and of new edits."""
    torch.manual_seed(seed)
    basis = untrained(benchmark, variant)
    began = time.perf_counter()
    training = train(basis, benchmark, variant, seed)
    row = {"n": variant.n, "rank": variant.rank, "mode": variant.mode, "pair": variant.show_pair, "seed": seed}
    row |= {"parameters": sum(p.numel() for p in basis.parameters()), "seconds": round(time.perf_counter() - began)}
    row |= evaluate_splits(benchmark, variant, basis)
    training.detach()
    return row


def evaluate_splits(benchmark: Benchmark, variant: Variant, basis: TrainableBasis) -> dict[str, dict[str, float]]:
    """Evaluate a basis on each split that is for measuring."""
    splits = benchmark.world.measured
    analogies = {name: benchmark.analogies(name, variant.show_pair, variant.sampled) for name in splits}
    return {name: evaluate(benchmark, variant, basis, drawn) for name, drawn in analogies.items()}


def evaluate(
    benchmark: Benchmark,
    variant: Variant,
    basis: TrainableBasis,
    analogies: Analogies,
    refresh: Refresh = EACH_STEP,
    seed: int = 0,
) -> dict[str, float]:
    """Solve analogies: the error of b', that of copying b, and how b' follows a', each the mean."""
    encoded = queries(analogies, variant.mode, benchmark.encoder)
    solved = solve(analogies, encoded, basis, benchmark.base, benchmark.encoder, refresh, seed)
    return {name: round(getattr(solved, name).mean().item(), 5) for name in ("error", "copying", "follows")}


def run(only: Iterable[str] = (), worker: int = 0, workers: int = 1, results: Path = RESULTS) -> None:
    """Train and measure what is not in `results` yet; of several workers each does its share, on one core."""
    torch.set_num_threads(1)
    done = {(row["variant"], row["seed"]) for row in read(results)}
    # The short ones first.
    jobs = sorted(product(only or VARIANTS, SEEDS), key=lambda job: (VARIANTS[job[0]].steps, job[1]))
    mine = [job for job in jobs[worker::workers] if job not in done]
    benchmark = open_benchmark(PLAIN)
    for name, seed in mine:
        row = {"variant": name, **measure(benchmark, VARIANTS[name], seed)}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read(results: Path = RESULTS) -> list[dict]:
    """Read the results, one dict for each variant and seed; none where there is no file."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
