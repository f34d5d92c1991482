"""What the benchmarks have in common: times in turn, memory, rows of the documents' tables, a basis of full size."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROWS: list[tuple[str, str, str, str]] = []


def save_full_basis(path: Path) -> int:
    """Write a basis of the published geometry with random values; returns how many."""
    import standins
    from safetensors.torch import save_file

    weights = standins.basis(standins.block_linears(3072, 19, 38), n=32, rank=4, keys=128, query=2304)
    save_file(weights, path)
    return sum(t.numel() for t in weights.values())


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], label: str, runs: int = 15) -> None:
    """Time two things in turn."""
    ours(), theirs()
    ratio_row(name, *zip(*[(timed(ours), timed(theirs)) for _ in range(runs)], strict=True), label)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    kept = work()  # freed outside the time
    took = time.perf_counter() - start
    del kept
    return took


def ratio_row(name: str, ours: Sequence[float], theirs: Sequence[float], label: str) -> None:
    """Add a row of times measured in turn; the ratio is the median of the pairs' ratios, with its quartiles."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    mine, other = statistics.median(ours), statistics.median(theirs)
    row(name, seconds(mine), f"{seconds(other)} {label}", f"{middle:.2f} × ({low:.2f}–{high:.2f})")


def row(*cells: str) -> None:
    """Add and print a row: name, time or size, what it is compared with, ratio; what is left out stays empty."""
    ROWS.append((*cells, "", "", "")[:4])
    print("  ".join(cells), flush=True)


def own_memory() -> int:
    """Count the bytes that belong to this process alone: not those of mapped files. Linux only, else 0."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return names[0] if names else platform.processor()


def seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def megabytes(value: float) -> str:
    return f"{value / 2**20:.1f} MB"


def print_table(values: int) -> None:
    """Print all rows, after a line that says where they were measured; values: of the basis."""
    import comfyui_version
    import torch

    cores = torch.get_num_threads()
    print(f"\nBasis of {values:,} values. {cores} threads of {cpu_name()}, torch {torch.__version__}, ", end="")
    print(f"ComfyUI {comfyui_version.__version__}.\n")
    print("| | this pack | compared with | ratio |\n| --- | --- | --- | --- |")
    for cells in ROWS:
        print("| " + " | ".join(cells) + " |")
