"""A line on the terminal for each hundredth of a training."""

from __future__ import annotations

import time
from collections.abc import Iterator


class Steps:
    """Counts to `count`, and says now and then how far it is and what was shown last."""

    def __init__(self, what: str, count: int):
        self.what = what
        self.count = count
        self.step = 0
        self._began = time.monotonic()

    def __iter__(self) -> Iterator[int]:
        for step in range(self.count):
            self.step = step
            yield step

    def show(self, **values: float) -> None:
        done = self.step + 1
        if done % max(1, self.count // 20) and done != self.count:
            return
        taken = time.monotonic() - self._began
        left = taken / done * (self.count - done)
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{self.what}: {done} of {self.count}, {told}, {taken:.0f} s, {left:.0f} s left", flush=True)
