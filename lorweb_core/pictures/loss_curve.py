"""What the losses of a training say, smoothed: single steps are of few analogies and of any noise."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Protocol


class LoggedStep(Protocol):
    """Tell what is drawn of a step of a training."""

    @property
    def number(self) -> int: ...

    @property
    def loss(self) -> float: ...

    @property
    def learning_rate(self) -> float: ...

    @property
    def seconds(self) -> float: ...


def mean_width(steps: int) -> int:
    """Choose how many steps the running mean is over: a fiftieth of them, at least 10."""
    return max(10, steps // 50)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Average each value with those before it, `width` in all or as many as there are."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means


def recent_loss(losses: Sequence[LoggedStep]) -> float:
    """Compute where the running mean ends."""
    recent = losses[-mean_width(len(losses)) :]
    return sum(step.loss for step in recent) / len(recent)


def seconds_per_step(losses: Sequence[LoggedStep]) -> float:
    """Take the median of the last hundred: the first step and those after a pause take longer."""
    return median(step.seconds for step in losses[-100:])
