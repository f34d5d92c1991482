"""One training from beginning to end: gone on with, logged, saved, sampled, shown, and kept where it is ended early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..basis import LoRABasis, load_basis
from ..errors import LoRWebError
from ..space.usage import Usage, measure_usage
from .data.batch import Batch, Source
from .objective import Base
from .run_folder import RunFolder
from .samples import sample_strips
from .trainable_basis import TrainableBasis, query_width
from .trainer import OneProcess, Step, Training


class Callbacks:
    """Hear of a training while it runs, and end it: these do neither.

    Of several processes only the first one hears of it.
    """

    cancels: tuple[type[BaseException], ...] = ()
    """What ends a training early and leaves it whole, so that it is saved; LoRWebError is such anyhow."""

    def on_begin(self, values: int, done: int) -> None:
        """Hear, before the first step, how many values are learned and how many steps were done by earlier runs."""

    def on_sampling(self) -> None:
        """Hear that samples are being made, which takes as long as many steps."""

    def on_preview(self, strips: list[Tensor]) -> None:
        """Look at samples, a strip (H, W, 3) in 0–1 for each analogy shown, before hearing of their step."""

    def on_step(self, step: Step, steps: int) -> None:
        """Hear of a step that is logged and saved, and of how many there are."""

    def on_stop(self, done: int) -> None:
        """Hear that the training ended early, after so many steps, and is saved."""

    def check_cancelled(self) -> None:
        """Raise one of `cancels` to end the training after this step. Asked in every process."""


class TrainingSession:
    """Train a basis into its run's folder.

    folder: locked. shown: the analogies to sample. processes: an accelerate.Accelerator, or one like OneProcess; the
    first one writes. samples_together: see `RunFolder.keep_samples`.
    """

    def __init__(
        self,
        folder: RunFolder,
        base: Base,
        source: Source,
        shown: Batch,
        callbacks: Callbacks,
        processes: Any = None,
        samples_together: bool = False,
    ):
        self.folder, self.config = folder, folder.config
        self.base, self.source, self.shown = base, source, shown
        self.callbacks = callbacks
        self.processes = processes or OneProcess()
        self.samples_together = samples_together
        self.done = 0
        """Steps."""
        self.strips: list[Tensor] = []
        """The last samples."""

    def run(self) -> LoRABasis:
        """Do all steps that are left; returns the basis, saved and loaded.

        Raises LoRWebError for what is wrong with the run's folder, Diverged for NaN, and what the callbacks do. After
        these the same run goes on from the last step that was whole; after others, from what was saved before.
        """
        ends_early: tuple[type[BaseException], ...] = (LoRWebError, *self.callbacks.cancels)
        with self._training() as training:
            try:
                training.run(lambda step: self._after(step, training))
            except ends_early:
                if self._writes:
                    self.folder.save_state(training)
                    self._write_page(training)
                    self.callbacks.on_stop(self.done)
                raise
            if self._writes:
                self.folder.save(training, final=True)
                self._sample(training)
                self._write_page(training)
        self.processes.wait_for_everyone()
        return load_basis(self.folder.basis_file)

    @property
    def _writes(self) -> bool:
        return self.processes.is_main_process

    @contextmanager
    def _training(self) -> Iterator[Training]:
        """Put the training onto the base, where it was; off it again afterwards, whatever happened."""
        train = self.config.train
        with self.base.training(train.gradient_checkpointing):
            training = Training(self._new_basis(), self.base, self.source, train, self.processes)
            try:
                with self.processes.main_process_first():
                    self.folder.resume(training)
                self.done = training.done
                if self._writes:
                    self.callbacks.on_begin(sum(p.numel() for p in training.basis.parameters()), training.done)
                yield training
            finally:
                training.detach()

    def _new_basis(self) -> TrainableBasis:
        config = self.config.network.basis
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.train.seed)
            return TrainableBasis(self.base.shapes, config, query_width(config, self.shown.query))

    def _after(self, step: Step, training: Training) -> None:
        self.done = step.number
        if self._writes:
            self._keep(step, training)
            self.callbacks.on_step(step, self.config.train.steps)
        self.callbacks.check_cancelled()

    def _keep(self, step: Step, training: Training) -> None:
        config, number = self.config, step.number
        if number % config.train.log_every == 0:
            self.folder.log(step)
        if number == config.train.steps:
            return
        if number % config.save.save_every == 0:
            self.folder.save(training)
        if config.sample.sample_every and number % config.sample.sample_every == 0:
            self._sample(training)
            self._write_page(training)
            self.callbacks.on_preview(self.strips)

    def _sample(self, training: Training) -> None:
        settings = self.config.sample
        self.callbacks.on_sampling()
        with training.averaged() as basis, self.base.guided(settings.guidance_scale):
            self.strips = sample_strips(basis, self.base, self.shown, settings.sample_steps, settings.seed)
        self.folder.keep_samples(training.done, self.strips, self.samples_together)

    def _write_page(self, training: Training) -> None:
        self.folder.write_page(self._usage(training))

    @torch.no_grad()
    def _usage(self, training: Training) -> Usage | None:
        """Measure the usage by the analogies shown; None where coefficients are known in the forward pass only."""
        if self.shown.query is None:
            return None
        with training.averaged() as basis:
            return measure_usage(basis.route(self.shown.query.to(self.base.device)), basis.published())
