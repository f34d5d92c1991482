"""The host's progress bar, for work of the core."""

from __future__ import annotations

import comfy.model_management
import comfy.utils


def progress_bar(total: int):
    """Make a callback (done, total) that moves the host's bar, and raises where the user pressed Cancel."""
    bar = comfy.utils.ProgressBar(total)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return progress
