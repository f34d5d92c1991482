"""A training inside the host: its progress bar with a preview, its cancel button, and what is left when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...lorweb_core import LoRABasis
from ...lorweb_core.files.image_file import write_png
from ...lorweb_core.space.usage import Usage
from ...lorweb_core.training.data.analogies import Analogy
from ...lorweb_core.training.data.examples import Examples
from ...lorweb_core.training.report import write_summary
from ...lorweb_core.training.run_folder import RunFolder
from ...lorweb_core.training.samples import sample_strips
from ...lorweb_core.training.trainable_basis import TrainableBasis, query_width
from ...lorweb_core.training.trainer import Diverged, Step, Training
from .differentiable import differentiable
from .training_model import HostBase

log = logging.getLogger(__name__)

PREVIEW = 1024
"""Pixels, the longer side of a preview in the browser."""


class Run:
    """Trains a basis. Make it, and call it, outside of inference mode.

    folder: locked. source: prepared, see `Examples.prepare`. shown: the analogies that samples are made of.
    preview_guidance: what the guidance embedding is told for them.
    """

    def __init__(
        self,
        folder: RunFolder,
        base: HostBase,
        source: Examples,
        shown: Sequence[Analogy],
        preview_guidance: float,
    ):
        self.folder, self.config = folder, folder.config
        self.base, self.source, self.shown = base, source, shown
        self.preview_guidance = preview_guidance
        self.strips: list[Tensor] = []
        """The last samples, one strip for each analogy shown."""
        self._bar = comfy.utils.ProgressBar(self.config.train.steps)

    def __call__(self) -> LoRABasis:
        """The basis, saved and loaded. Where the user cancels, the state is kept, and the same run goes on from it."""
        with self._training() as training:
            try:
                training.run(lambda step: self._after(step, training))
            except (comfy.model_management.InterruptProcessingException, Diverged):
                self.folder.save_state(training)
                self.summarize()
                log.info("%s: stopped after step %d; the same settings go on from there.", self.name, training.done)
                raise
            basis = self.folder.save(training, final=True)
            self._sample(training)
        return basis

    def summarize(self, usage: Usage | None = None) -> None:
        """A page in the run's folder."""
        write_summary(self.folder.path, self.config, self.folder.losses(), usage, self.folder.samples())

    @property
    def name(self) -> str:
        return self.config.name

    @contextmanager
    def _training(self) -> Iterator[Training]:
        """On the model within, and off it afterwards, whatever happened."""
        train = self.config.train
        self.base.load()
        first = self.source.draw(0)
        basis = self._new_basis(first.query)
        # Each with its gradient and AdamW's two moments, in float32.
        values = sum(p.numel() for p in basis.parameters())
        log.info("%s: %d values to learn, which take %.1f GB beside the model.", self.name, values, 16 * values / 1e9)
        training = Training(basis, self.base, self.source, train)
        try:
            with differentiable(self.base.model, train.gradient_checkpointing):
                if self.folder.resume(training):
                    log.info("%s: goes on after step %d.", self.name, training.done)
                yield training
        finally:
            training.detach()

    def _new_basis(self, query: Tensor | None) -> TrainableBasis:
        config = self.config.network.basis
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.train.seed)
            return TrainableBasis(self.base.shapes, config, query_width(config, query))

    def _after(self, step: Step, training: Training) -> None:
        self.folder.log(step)
        left, sampling = step.number < self.config.train.steps, self.config.sample.sample_every
        if left and step.number % self.config.save.save_every == 0:
            self.folder.save(training)
        preview = None
        if left and sampling and step.number % sampling == 0:
            preview = self._sample(training)
        self._bar.update_absolute(step.number, preview=preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def _sample(self, training: Training) -> tuple:
        """Make the strips anew, and keep them as pictures in the run's folder; returns what the host's bar shows."""
        settings, base = self.config.sample, self.base
        guidance, base.guidance = base.guidance, self.preview_guidance
        try:
            with training.averaged() as basis:
                batch = self.source.batch(self.shown)
                self.strips = sample_strips(basis, base, batch, settings.sample_steps, settings.seed)
        finally:
            base.guidance = guidance
            base.load()  # decoding may have taken its place
        image = write_png(torch.cat(self.strips), self.folder.sample_file(f"{training.done:09d}.png"))
        return "JPEG", image, PREVIEW
