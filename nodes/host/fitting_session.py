"""A fit inside the host: its progress bar with losses and a preview, and its cancel button."""

from __future__ import annotations

import logging

import comfy.model_management
import comfy.utils
from torch import Tensor

from ...lorweb_core import LoRWebError, Mixture
from ...lorweb_core.files.image_file import as_image
from ...lorweb_core.fitting.fit import Callbacks, FitStep
from ...lorweb_core.fitting.state import FitState
from .kept_fits import KeptFit
from .notes import show
from .progress import progress_bar
from .training_session import PREVIEW

log = logging.getLogger(__name__)


class FitCallbacks(Callbacks):
    """Show a fit on its node and in the log, keep where it stands, and end it where the user cancels."""

    cancels = (comfy.model_management.InterruptProcessingException,)

    def __init__(self, kept: KeptFit, steps: int):
        self._kept, self._steps = kept, steps
        self._encoding = self._bar = None
        self.strip: Tensor | None = None
        """The last preview."""
        self.lowest: float | None = None
        """Loss of what the fit came to, on what is kept apart."""

    def on_encode(self, done: int, total: int) -> None:
        self._encoding = self._encoding or progress_bar(total)
        self._encoding(done, total)

    def on_begin(self, values: int) -> None:
        self._bar = comfy.utils.ProgressBar(self._steps)
        log.info("Fit Mixture: %d values to fit.", values)
        if self._kept.state and self._kept.state.done:
            log.info("Fit Mixture: goes on after step %d.", self._kept.state.done)

    def on_state(self, state: FitState) -> None:
        if self._kept.begin is None:
            self._kept.begin = state.lowest
        self._kept.state = state

    def on_preview(self, strip: Tensor) -> None:
        self.strip = strip
        self._bar.update_absolute(self._kept.state.done, preview=("JPEG", as_image(strip), PREVIEW))

    def on_step(self, step: FitStep, steps: int) -> None:
        self._kept.steps.append(step)
        self._bar.update_absolute(step.number)
        say(
            f"step {step.number} of {steps}: loss {step.loss:.4f}\n{self._apart(self._kept.state.lowest)}",
            logging.DEBUG,
        )

    def on_stop(self, best: Mixture, done: int) -> None:
        # A comparison may have been due, without which a step is not whole.
        whole = self._kept.state.done
        if whole:
            say(
                f"Stopped after step {whole}. The same settings go on from there; with steps at {whole} the best so "
                "far comes at once."
            )
        raise comfy.model_management.InterruptProcessingException

    def on_end(self, lowest: float) -> None:
        self.lowest = lowest
        say(f"{self._kept.state.done} steps\n{self._apart(lowest)}")

    def _apart(self, lowest: float) -> str:
        return f"kept apart: {self._kept.begin:.4f} at the start, {lowest:.4f} at best"

    def on_not_finite(self, error: LoRWebError) -> None:
        say(f"{error} The best point so far is kept.", logging.WARNING)

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()


def say(text: str, level: int = logging.INFO) -> None:
    """Log a text, and show it on the node that is running, where there is one and somebody to see it."""
    log.log(level, "Fit Mixture: %s", text.replace("\n", "; "))
    show(text)
