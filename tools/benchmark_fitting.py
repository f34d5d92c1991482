"""Measures what fitting a mixture costs: `python tools/benchmark_fitting.py`. Needs diffusers and peft.

A step of fitting the coefficients of a basis, N = 32 and r = 4, against a training step of one LoRA of rank 4 by peft
on the same layers and tokens: one double and one single block of FLUX.1's width, b' alone denoised beside its reference
grid, one noise, Adam for both. On a GPU the blocks are bfloat16, else float32. Times are taken in turn, in one process;
the peak of memory in a process for each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import standins
import torch
from benchmark_training import (
    DEVICE,
    DTYPE,
    QUERY,
    RANK,
    N,
    Step,
    add_lora,
    alternating,
    blocks,
    peak,
    peak_in_a_process,
    read_options,
    tell,
)
from measuring import megabytes, ratio_row, row
from safetensors.torch import save_file
from torch import nn

from lorweb_core import load_basis
from lorweb_core.diffusers_backend.base import FluxBase
from lorweb_core.fitting.attached import AttachedBasis
from lorweb_core.training.data.batch import Batch, Text
from lorweb_core.training.objective import denoising_loss, move_batch
from lorweb_core.training.seeds import generator

LABEL = f"one LoRA of rank {RANK}"


def main() -> None:
    options = read_options(__doc__, STEPS, cell=256)
    if options.peak_of:
        step = STEPS[options.peak_of](options)
        for _ in range(3):
            step()
        print(peak())
        return
    ours, theirs = (peak_in_a_process(kind) for kind in STEPS)
    row("Peak of memory", megabytes(ours), f"{megabytes(theirs)} {LABEL}", f"{ours / theirs:.2f} ×")
    pairs = alternating(*(make(options) for make in STEPS.values()), options.runs)
    ratio_row("A step of fitting", *zip(*pairs, strict=True), LABEL)
    tell(options, 5 * (options.cell // 16) ** 2 + options.text)


def _fit_step(options: argparse.Namespace) -> Step:
    base = blocks(options)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "basis.safetensors")
        save_file(standins.basis(standins.block_linears(3072, 1, 1), n=N, rank=RANK, keys=128, query=QUERY), path)
        attached = AttachedBasis(load_basis(path), base)
    table = nn.Parameter(torch.full((len(base.shapes), N), 1 / N))
    hooks = attached.attached()
    hooks.__enter__()  # for good: they go with this, which the step holds

    def mix(hooks: object = hooks) -> None:
        attached.mix(table.to(DEVICE))

    return _step(options, base, [table], mix, nullcontext)


def _lora_step(options: argparse.Namespace) -> Step:
    base = blocks(options)
    learned = add_lora(base, RANK)
    return _step(
        options, base, learned, lambda: None, partial(torch.autocast, DEVICE.type, DTYPE, torch.float32 != DTYPE)
    )


STEPS: dict[str, Callable[[argparse.Namespace], Step]] = {"fit": _fit_step, "lora": _lora_step}


def _step(
    options: argparse.Namespace,
    base: FluxBase,
    learned: Sequence[nn.Parameter],
    mix: Callable[[], None],
    context: Callable,
) -> Step:
    """Make one step with a batch that is always the same."""
    optimizer = torch.optim.Adam(learned, lr=1e-3)
    batch, random = move_batch(_analogy(options), base), generator(0)
    noise, t = torch.randn(batch.target.shape, generator=random), torch.rand(options.batch, generator=random)

    def step() -> None:
        with context():
            mix()
            loss = denoising_loss(base, batch, t, noise, torch.ones_like(t)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return step


def _analogy(options: argparse.Namespace) -> Batch:
    n, side, random = options.batch, options.cell // 8, generator(1)
    target = torch.randn(n, 16, side, side, generator=random)
    reference = torch.randn(n, 16, 2 * side, 2 * side, generator=random)
    text = Text(torch.randn(n, options.text, 4096, generator=random), torch.randn(n, 768, generator=random))
    return Batch(target, reference, None, text, ("",) * n)


if __name__ == "__main__":
    main()
