"""Show a fit in a terminal, and end it on Ctrl-C."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.contrib.logging import logging_redirect_tqdm

from ..fitting.fit import Callbacks, FitStep
from ..mixture import Mixture
from .terminal import Bars

log = logging.getLogger(__name__)


class FitBars(Callbacks):
    """Show one bar while the example is encoded, and one for the steps.

    keeps: whether Ctrl-C ends the fit with the best point so far; else it ends the command.
    """

    def __init__(self, keeps: bool):
        self.cancels = (KeyboardInterrupt,) if keeps else ()
        self.stopped = 0
        """Steps that were done when Ctrl-C came; 0 if it did not."""
        self._bars = Bars()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show bars, with messages above them, within."""
        package, _, _ = __package__.rpartition(".")
        with logging_redirect_tqdm([logging.getLogger(package)]):
            try:
                yield
            finally:
                self._bars.close()

    def on_encode(self, done: int, total: int) -> None:
        self._bars.advance("Encoding", done, total)

    def on_begin(self, values: int) -> None:
        log.info("Fitting %s values", f"{values:,}")

    def on_step(self, step: FitStep, steps: int) -> None:
        told = {"loss": f"{step.loss:.4f}"} | ({} if step.apart is None else {"apart": f"{step.apart:.4f}"})
        self._bars.advance("Fitting", step.number, steps, **told)

    def on_stop(self, best: Mixture, done: int) -> None:
        self.stopped = done
