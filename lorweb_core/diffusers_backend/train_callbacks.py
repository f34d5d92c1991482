"""What the train command does while a training runs: bars, messages, and Ctrl-C."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..training.session import Callbacks
from ..training.trainer import Step

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

OnStep = Callable[[Step, int], None]
"""Called after each step, with how many there are."""


class Interrupted(KeyboardInterrupt):
    """Tell that Ctrl-C or SIGTERM came while a step ran, which was then done."""


class CommandCallbacks(Callbacks):
    """Tell of a training in a terminal, and end all of its processes together."""

    cancels = (Interrupted,)

    def __init__(self, on_step: OnStep, accelerator: Accelerator):
        self._on_step = on_step
        self._processes = accelerator
        self._noted = False

    def on_begin(self, values: int, done: int) -> None:
        if done:
            log.info("Going on after step %d", done)

    def on_step(self, step: Step, steps: int) -> None:
        self._on_step(step, steps)

    def check_cancelled(self) -> None:
        if self._anywhere(self._noted):
            raise Interrupted

    @contextmanager
    def noting_interrupts(self) -> Iterator[None]:
        """Note Ctrl-C and SIGTERM within, so that a step is finished and saved; a second Ctrl-C ends it at once."""
        # Of several processes each gets Ctrl-C twice, from the terminal and from what launched them.
        insisting = self._processes.num_processes == 1

        def note(number: int, frame: object) -> None:
            if self._noted and insisting and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._noted = True

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _anywhere(self, here: bool) -> bool:
        """Tell whether it is so in any process: one that ended alone would leave the others waiting for it."""
        if self._processes.num_processes == 1:
            return here
        return bool(self._processes.gather(torch.tensor([here], device=self._processes.device)).any())
