"""From numbers to places along a chart's side, and round numbers to mark there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from .heat_map import number


class Axis(NamedTuple):
    """From `low` to `high`, which are round."""

    low: float
    high: float
    marks: tuple[float, ...]
    """The numbers to write, in order."""
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """0–1 along the axis; what is beyond an end is at the end. A logarithmic axis has 0 and less at its low end."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return min(1.0, max(0.0, (value - low) / (high - low)))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """As `Canvas.plot` takes them."""
        return [(self.place(mark), _written(mark)) for mark in self.marks]


def linear_axis(values: Iterable[float], marks: int = 5, zero: bool = True) -> Axis:
    """Holds all values, and 0 if `zero`. marks: about so many."""
    values = [*values] or [0.0]
    values += [0.0] * zero
    low, high = min(values), max(values)
    step = _round_step((high - low or abs(high) or 1.0) / marks)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    steps = tuple(step * i for i in range(first, last + 1))
    return Axis(steps[0], steps[-1], steps)


def whole_axis(last: int, marks: int = 5) -> Axis:
    """From 0 to exactly `last`, marked at whole numbers; for steps."""
    step = max(1, round(_round_step(last / marks)))
    return Axis(0, last, tuple(range(0, last + 1, step)))


def log_axis(values: Iterable[float]) -> Axis:
    """A logarithmic one that holds all values above 0; it ends at 1, 2 or 5 times a power of ten."""
    values = [value for value in values if value > 0] or [1.0]
    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 2)
    rounds = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    low = max(value for value in rounds if value <= min(values))
    high = min(value for value in rounds if value >= max(values) and value > low)
    inside = [value for value in rounds if low <= value <= high]
    if high / low > 100:
        tens = [value for value in inside if f"{value:e}".startswith("1.")]
        inside = tens[:: -(-len(tens) // 6)]
    return Axis(low, high, tuple(inside), True)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, … (of any power) that is at least this."""
    power = 10 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def _written(value: float) -> str:
    return f"{round(value):,}" if value == round(value) and abs(value) < 1e7 else number(value)
