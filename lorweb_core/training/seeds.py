"""Random numbers that depend on a seed and a place in the run, and on nothing that happened before."""

from __future__ import annotations

import numpy
import torch


def generator(*numbers: int) -> torch.Generator:
    """Seed a generator, on the CPU, so that it draws the same for every device.

    numbers: at least 0, a seed and a step, say.
    """
    mixed = numpy.random.SeedSequence(numbers).generate_state(1, numpy.uint64)
    return torch.Generator().manual_seed(int(mixed[0] >> 1))
