"""A training inside the host: its progress bar with a preview, and its cancel button."""

from __future__ import annotations

import logging

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...lorweb_core.files.image_file import as_image
from ...lorweb_core.training.session import Callbacks
from ...lorweb_core.training.trainer import Step

log = logging.getLogger(__name__)

PREVIEW = 1024
"""Pixels, the longer side of a preview in the browser."""


class HostCallbacks(Callbacks):
    """Show a training in the host's bar and log, and end it where the user cancels."""

    cancels = (comfy.model_management.InterruptProcessingException,)

    def __init__(self, name: str, steps: int):
        self._name = name
        self._bar = comfy.utils.ProgressBar(steps)
        self._preview: tuple | None = None

    def on_begin(self, values: int, done: int) -> None:
        # Each with its gradient and AdamW's two moments, in float32.
        log.info("%s: %d values to learn, which take %.1f GB beside the model.", self._name, values, 16 * values / 1e9)
        if done:
            log.info("%s: goes on after step %d.", self._name, done)

    def on_preview(self, strips: list[Tensor]) -> None:
        self._preview = "JPEG", as_image(torch.cat(strips)), PREVIEW

    def on_step(self, step: Step, steps: int) -> None:
        self._bar.update_absolute(step.number, preview=self._preview)
        self._preview = None

    def on_stop(self, done: int) -> None:
        log.info("%s: stopped after step %d; the same settings go on from there.", self._name, done)

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
