"""As many analogies in a row as the seed says, each of another picture and seed, by turns merged and at run time."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch

from . import good
from .case import Case
from .host_world import GIVEN, world

WARM_UP = 60
GROWTH = 0.01
"""Share of the process's memory that may be more after all of them than after the warm-up."""


def make(seed: int, folder: Path) -> Case:
    """See Case. seed: how many."""
    return Case(f"{seed} analogies", ("",), lambda: _run(seed), _check, writes=True)


def _run(count: int) -> list[float]:
    around, held = world(), []
    for number in range(WARM_UP + count):
        GIVEN["another b"] = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(number))
        around.run(good.prompt(("merge", "runtime")[number % 2], seed=number, b="another b"))
        if number >= WARM_UP - 1:
            held.append(_megabytes())
    return held


def _megabytes() -> float:
    """What the process has taken, in MB; elsewhere than on Linux the most that it has had.

    Pages of files are not counted: the system drops them when others need room.
    """
    gc.collect()
    if sys.platform.startswith("linux"):
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _check(held: list[float]) -> str:
    growth = held[-1] / held[0] - 1
    result = (
        f"{len(held) - 1} analogies: {held[0]:.1f} MB after the warm-up, {held[-1]:.1f} MB after all, {growth:+.2%}"
    )
    assert growth <= GROWTH, result
    left = world().left_behind()
    assert not left, left
    return result
