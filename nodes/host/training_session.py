"""A training inside the host: its progress bar with a preview, its words in the node, and its cancel button."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
from torch import Tensor

from ...lorweb_core.files.image_file import as_image
from ...lorweb_core.training.progress import describe_progress, progress_picture
from ...lorweb_core.training.run_folder import RunFolder
from ...lorweb_core.training.session import Callbacks
from ...lorweb_core.training.trainer import Step
from .notes import show

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

PREVIEW = 1024
"""Pixels, the longer side of a preview in the browser."""


PICTURE_SECONDS = 10.0
"""How long a picture of the loss curve stays before the next; new samples come at once."""


class HostCallbacks(Callbacks):
    """Show a training in the host's bar, in its node and in the log, and end it where the user cancels."""

    cancels = (comfy.model_management.InterruptProcessingException,)

    def __init__(self, run: RunFolder, theme: str):
        self._run, self._theme = run, theme
        self._name, self._steps = run.config.name, run.config.train.steps
        self._bar = comfy.utils.ProgressBar(self._steps)
        self._losses: list[Step] = []
        self._strips: list[Tensor] = []
        self._next_picture = 0.0
        """The time, of time.monotonic, from which on a new picture is due."""

    def on_begin(self, values: int, done: int) -> None:
        # Each with its gradient and AdamW's two moments, in float32.
        log.info("%s: %d values to learn, which take %.1f GB beside the model.", self._name, values, 16 * values / 1e9)
        self._losses = self._run.losses()
        if done:
            log.info("%s: goes on after step %d.", self._name, done)
        show(f"Training: goes on after step {done:,}" if done else "Training: the first step")

    def on_sampling(self) -> None:
        show("Making samples")

    def on_preview(self, strips: list[Tensor]) -> None:
        self._strips, self._next_picture = strips, 0.0

    def on_step(self, step: Step, steps: int) -> None:
        self._losses.append(step)
        show(describe_progress(self._losses, steps))
        self._bar.update_absolute(step.number, preview=self._picture())

    def _picture(self) -> tuple[str, Image, int] | None:
        """Draw the curve below the last samples, where a picture is due."""
        if time.monotonic() < self._next_picture:
            return None
        picture = as_image(progress_picture(self._losses, self._strips, self._theme))
        self._next_picture = time.monotonic() + PICTURE_SECONDS
        return "JPEG", picture, PREVIEW

    def on_stop(self, done: int) -> None:
        log.info("%s: stopped after step %d; the same settings go on from there.", self._name, done)
        show(f"Stopped after step {done:,}. The same settings go on from there.")

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
