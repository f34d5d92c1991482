"""Lines on the terminal that say how far a training is."""

from __future__ import annotations

import time
from collections.abc import Iterator


class PrintedProgress:
    """Count to `count`, and print now and then how far it is and what was shown last."""

    def __init__(self, what: str, count: int):
        self.what = what
        self.count = count
        self.step = self._first = 0
        self._began = time.monotonic()

    def __iter__(self) -> Iterator[int]:
        return self.begin(0)

    def begin(self, first: int) -> Iterator[int]:
        """Count from `first` on; what is left is told from the steps since then."""
        self._first, self._began = first, time.monotonic()
        for step in range(first, self.count):
            self.step = step
            yield step

    def show(self, **values: float) -> None:
        """Print values beside the progress, at every twentieth of the steps."""
        done = self.step + 1
        if done % max(1, self.count // 20) and done != self.count:
            return
        taken = time.monotonic() - self._began
        left = taken / (done - self._first) * (self.count - done)
        described = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{self.what}: {done} of {self.count}, {described}, {taken:.0f} s, {left:.0f} s left", flush=True)
