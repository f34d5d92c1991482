"""The host's progress bar, for work of the core."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils

from .notes import show


def progress_bar(total: int):
    """Make a callback (done, total) that moves the host's bar, and raises where the user pressed Cancel."""
    bar = comfy.utils.ProgressBar(total)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return progress


def progress_in_words(doing: str, total: int) -> Callable[[int, int], None]:
    """Make a callback as `progress_bar` does, which also says in the node what is done."""
    move = progress_bar(total)

    def progress(done: int, total: int) -> None:
        show(f"{doing}: {done:,} of {total:,}")
        move(done, total)

    return progress
