"""What a training shows in a terminal: its messages, and bars with rate and time left."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..basis import Progress
from ..training.settings.document import read_training_config
from ..training.trainer import Step
from .train_command import run_training


def train(config: Path | str, overrides: Sequence[str]) -> None:
    """Train as a config says, and show how it goes."""
    package, _, _ = __package__.rpartition(".")
    bars = Bars()
    with logging_redirect_tqdm([logging.getLogger(package)]):
        try:
            run_training(read_training_config(config, overrides), bars.encoding, bars.step)
        except KeyboardInterrupt:
            print("Interrupted. The same command goes on from what is saved.")
            raise
        finally:
            bars.close()


class _Lines(tqdm):
    """Show progress in a file or a pipe: a line that stays, at every twentieth of the way."""

    printed = -1

    def display(self, *_, **__) -> None:
        reached = 20 * self.n // max(1, self.total)
        if reached > self.printed:
            self.printed = reached
            print(self, file=sys.stderr, flush=True)


class Bars:
    """Show one bar at a time."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._shown = ""

    def encoding(self, what: str, total: int) -> Progress:
        self._shown = ""  # another bar, though of the same name

        def progress(done: int, total: int) -> None:
            if total:  # else all of it was kept from an earlier run
                self.advance(what, done, total)

        return progress

    def step(self, step: Step, steps: int) -> None:
        self.advance("Training", step.number, steps, loss=f"{step.loss:.4f}", lr=f"{step.learning_rate:.1e}")

    def advance(self, what: str, done: int, total: int, **told: str) -> None:
        """Bring the bar of that name to where it is, or begin it there; what is told stands beside it."""
        bar = self._bar
        if bar is None or self._shown != what:
            # What an earlier run did, and the slow first step, are not to count in the rate.
            bar, self._shown = self._begin(what, total, done), what
        if told:
            bar.set_postfix(told, refresh=False)
        bar.update(done - bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _begin(self, what: str, total: int, done: int = 0) -> tqdm:
        self.close()
        if sys.stderr.isatty():
            self._bar = tqdm(desc=what, total=total, initial=done, dynamic_ncols=True)
        else:
            # What tqdm itself writes, to move within a line, goes nowhere.
            self._bar = _Lines(desc=what, total=total, initial=done, mininterval=0, miniters=1, file=io.StringIO())
        return self._bar
