"""A training that is looked after while it runs: losses, checkpoints, samples, the page, and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..diffusers_backend.base import FluxBase
from ..errors import LoRWebError
from ..files.image_file import write_png
from ..space.usage import measure_usage
from .data.batch import Batch
from .report import write_summary
from .run_folder import RunFolder
from .samples import sample_strips
from .settings.config import TrainingConfig
from .trainer import Step, Training

if TYPE_CHECKING:
    from accelerate import Accelerator

OnStep = Callable[[Step, int], None]
"""Called after each step, with how many there are."""


class Watch:
    """Of several processes the first one writes files and is heard of; all stop together."""

    def __init__(
        self,
        config: TrainingConfig,
        run: RunFolder,
        training: Training,
        base: FluxBase,
        shown: Batch,
        accelerator: Accelerator,
    ):
        """shown: the analogies to sample."""
        self.config, self.run_folder, self.training, self.base, self.shown = config, run, training, base, shown
        self._processes = accelerator
        self._main = accelerator.is_main_process
        self._strips = run.samples()

    def run(self, on_step: OnStep) -> None:
        """All steps that are left, and what is saved in the end.

        Ctrl-C, or SIGTERM, ends the run after the step it is at, and saves; a second Ctrl-C at once, and what was saved
        last stays. Raises KeyboardInterrupt then, and Diverged, after saving, for NaN.
        """
        # Of several processes each gets Ctrl-C twice, from the terminal and from what launched them.
        with _interrupts(insisting=self._processes.num_processes == 1) as noted:

            def watched(step: Step) -> None:
                if self._main:
                    self._step(step)
                    on_step(step, self.config.train.steps)
                if self._anywhere(bool(noted)):
                    raise KeyboardInterrupt

            try:
                self.training.run(watched)
            except (KeyboardInterrupt, LoRWebError):
                # These come between steps, but for a second Ctrl-C, after which a step may be half done.
                if self._main and not noted[1:]:
                    self.run_folder.save_state(self.training)
                    self._page()
                raise
            except torch.OutOfMemoryError as error:
                raise LoRWebError(
                    f"The GPU ran out of memory in step {self.training.done + 1}. Try a smaller train.batch_size (and "
                    "as many more train.gradient_accumulation_steps), train.gradient_checkpointing=true, "
                    "model.quantize=true, or model.offload=true."
                ) from error
            if self._main:
                self.run_folder.save(self.training, final=True)
                self._samples()
                self._page()

    def _anywhere(self, here: bool) -> bool:
        """Whether it is so in any of the processes: one that ended alone would leave the others waiting for it."""
        if self._processes.num_processes == 1:
            return here
        return bool(self._processes.gather(torch.tensor([here], device=self._processes.device)).any())

    def _step(self, step: Step) -> None:
        config, number = self.config, step.number
        if number % config.train.log_every == 0:
            self.run_folder.log(step)
        if number == config.train.steps:
            return
        if number % config.save.save_every == 0:
            self.run_folder.save(self.training)
        if config.sample.sample_every and number % config.sample.sample_every == 0:
            self._samples()
            self._page()

    def _samples(self) -> None:
        settings = self.config.sample
        with self.training.averaged() as basis, self.base.guided(settings.guidance_scale):
            strips = sample_strips(basis, self.base, self.shown, settings.sample_steps, settings.seed)
        for number, picture in enumerate(strips):
            path = self.run_folder.sample_file(f"{self.training.done:09d}_{number}.png")
            write_png(picture, path)
            if path not in self._strips:
                self._strips.append(path)

    def _page(self) -> None:
        usage = None
        if self.shown.query is not None:
            with self.training.averaged() as basis, torch.no_grad():
                usage = measure_usage(basis.route(self.shown.query.to(self.base.device)), basis.published())
        write_summary(self.run_folder.path, self.config, self.run_folder.losses(), usage, self._strips)


@contextmanager
def _interrupts(insisting: bool) -> Iterator[list[int]]:
    """What came of Ctrl-C and SIGTERM is noted, so that a step is finished; insisting: unless Ctrl-C comes again."""
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        if not noted:
            noted.append(number)
        elif insisting and number == signal.SIGINT:
            noted.append(number)
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
