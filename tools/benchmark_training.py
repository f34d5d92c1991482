"""Measures what training a basis costs: `python tools/benchmark_training.py`. Needs diffusers and peft.

A training step of a basis against the same step of an ordinary LoRA of rank N·r on the same layers, by peft: one double
and one single block of FLUX.1's width, N = 32, r = 4, the same batch, AdamW for both. On a GPU the blocks are bfloat16,
else float32. Times are taken in turn, in one process; the peak of memory in a process for each.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import diffusers
import peft
import torch
from measuring import cpu_name, megabytes, ratio_row, row, timed
from torch import Tensor, nn

from lorweb_core.config import BasisConfig
from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.routing import Tokens
from lorweb_core.training.data.batch import Batch, Text
from lorweb_core.training.objective import Objective
from lorweb_core.training.optimizer import make_optimizer
from lorweb_core.training.seeds import generator
from lorweb_core.training.settings.config import TrainSettings
from lorweb_core.training.trainable_basis import TrainableBasis

N, RANK, KEYS, QUERY = 32, 4, 128, 3 * 768
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
SETTINGS = TrainSettings(optimizer="adamw", timestep_type="linear")

Step = Callable[[], None]


def main() -> None:
    options = read_options(__doc__, STEPS)
    if options.peak_of:
        step = STEPS[options.peak_of](options)
        for _ in range(3):
            step()
        print(peak())
        return
    label = f"an ordinary LoRA of rank {N * RANK}"
    ours, theirs, alone = (peak_in_a_process(kind) for kind in STEPS)
    row("Peak of memory", megabytes(ours), f"{megabytes(theirs)} {label}", f"{ours / theirs:.2f} ×")
    row("Peak with b' alone", megabytes(alone), f"{megabytes(ours)} the whole grid", f"{alone / ours:.2f} ×")
    # Each pair by itself: what is held of a third slows the others down.
    for name, (ours, theirs), what in (
        ("A training step", ("basis", "lora"), label),
        ("A training step with b' alone", ("alone", "basis"), "the whole grid"),
    ):
        pairs = alternating(STEPS[ours](options), STEPS[theirs](options), options.runs)
        ratio_row(name, *zip(*pairs, strict=True), what)
    tell(options, 2 * (2 * options.cell // 16) ** 2 + options.text)


def tell(options: argparse.Namespace, tokens: int) -> None:
    """Print of what and on what was measured."""
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{torch.get_num_threads()} × {cpu_name()}"
    checkpointing = "with" if options.checkpointing else "without"
    print(f"{options.batch} × {tokens:,} tokens, {checkpointing} gradient checkpointing, {DTYPE} on {where}, ", end="")
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, peft {peft.__version__}.")


def read_options(description: str, steps: Iterable[str], cell: int = 128) -> argparse.Namespace:
    """Read what a benchmark of steps is told. cell: pixels a side on a CPU."""
    on_gpu = DEVICE.type == "cuda"
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--cell", type=int, default=512 if on_gpu else cell, help="pixels a side (default: %(default)s)"
    )
    parser.add_argument("--text", type=int, default=512 if on_gpu else 128, help="tokens (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="analogies a step (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=20 if on_gpu else 9, help="pairs of steps (default: %(default)s)")
    parser.add_argument("--checkpointing", action="store_true", help="of gradients, in both")
    parser.add_argument("--peak-of", choices=steps, help="print the peak of one of them in bytes, and nothing else")
    return parser.parse_args()


def _basis_step(options: argparse.Namespace, sampled: str = "grid") -> Step:
    base = blocks(options)
    torch.manual_seed(0)
    basis = TrainableBasis(base.shapes, BasisConfig(loras_num=N, linear=RANK, lora_keys_dim=KEYS), QUERY).to(DEVICE)
    basis.attach(base.model, base.linears)
    return _step(options, base, basis, list(basis.parameters()), nullcontext, sampled)


class _Unrouted(nn.Module):
    """Answer what the objective asks of a basis, where there is none."""

    config = BasisConfig()

    def route(self, query: Tensor, tokens: Tokens) -> None:
        pass


def _lora_step(options: argparse.Namespace) -> Step:
    base = blocks(options)
    learned = add_lora(base, N * RANK)
    return _step(
        options, base, _Unrouted(), learned, partial(torch.autocast, DEVICE.type, DTYPE, torch.float32 != DTYPE)
    )


def add_lora(base: FluxBase, rank: int) -> list[nn.Parameter]:
    """Give all layers of a base that may have a basis one LoRA each, by peft; returns its parameters."""
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(base.linears))
    peft.inject_adapter_in_model(config, base.model)
    learned = [parameter for name, parameter in base.model.named_parameters() if ".lora_" in name]
    for parameter in base.model.parameters():
        parameter.requires_grad_(False)
    for parameter in learned:
        # Learned in float32 and computed with in the base's dtype, as trainers do and as the basis does.
        parameter.data = parameter.data.float().to(DEVICE)
        parameter.requires_grad_()
    return learned


STEPS: dict[str, Callable[[argparse.Namespace], Step]] = {
    "basis": _basis_step,
    "lora": _lora_step,
    "alone": partial(_basis_step, sampled="result"),
}


def blocks(options: argparse.Namespace) -> FluxBase:
    """Build one double and one single block between FLUX's first and last layers, with random values."""
    with torch.device("meta"):
        transformer = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    transformer = nn.Module.to(transformer, DTYPE).to_empty(device=DEVICE).requires_grad_(False)
    torch.manual_seed(0)
    for parameter in transformer.parameters():
        parameter.normal_(0, 0.02)
    if options.checkpointing:
        transformer.enable_gradient_checkpointing()
    return FluxBase(transformer, lambda latents: latents)


def _step(
    options: argparse.Namespace,
    base: FluxBase,
    basis: nn.Module,
    learned: Sequence[nn.Parameter],
    context: Callable,
    sampled: str = "grid",
) -> Step:
    """Make one step with a batch that is always the same."""
    objective = Objective(basis, base, replace(SETTINGS, sampled=sampled))
    optimizer = make_optimizer(learned, SETTINGS)
    batch = a_batch(options)
    if sampled == "result":
        half = batch.target.shape[-1] // 2
        batch = batch._replace(target=batch.target[..., half:, half:])

    def step() -> None:
        with context():
            loss = objective(batch, generator(0)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, SETTINGS.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return step


def a_batch(options: argparse.Namespace) -> Batch:
    n, side, random = options.batch, 2 * options.cell // 8, generator(1)
    target, reference = torch.randn(2, n, 16, side, side, generator=random)
    text = Text(torch.randn(n, options.text, 4096, generator=random), torch.randn(n, 768, generator=random))
    return Batch(target, reference, torch.randn(n, 3, QUERY // 3, generator=random), text, ("",) * n)


def alternating(ours: Step, theirs: Step, runs: int) -> list[tuple[float, float]]:
    """Time two things in pairs, each first in every other one."""
    pairs = []
    for number in range(-2, runs):
        if number % 2:
            second, first = timed(theirs), timed(ours)
            pair = first, second
        else:
            pair = timed(ours), timed(theirs)
        pairs += [pair] if number >= 0 else []  # the first two warm up
    return pairs


def peak_in_a_process(kind: str) -> int:
    """Measure the peak of one kind of step in a process of its own, which runs the same command."""
    command = [sys.executable, *sys.argv, "--peak-of", kind]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def peak() -> int:
    """Count the bytes that this process has held at most: on the GPU where there is one, else altogether."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
