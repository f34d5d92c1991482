"""One mixture fitted to example pairs by flow matching: b := a, b' := a', and only the coefficients learn."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from ..basis import LoRABasis
from ..errors import LoRWebError, named
from ..mixture import Mixture
from ..pictures.thumbnails import make_thumbnails
from ..query import QUERY_MODES
from ..space.fingerprint import fingerprint
from ..training.data.batch import Batch
from ..training.data.encoding import Encoders
from ..training.frozen import frozen
from ..training.objective import Base, denoising_loss, move_batch
from ..training.seeds import generator
from ..triplet import Triplet
from .attached import AttachedBasis
from .coefficients import FITTED
from .examples import Examples, Pair, draw, encode_examples, joined, read_pairs
from .preview import preview
from .settings import FitSettings
from .state import FitState

log = logging.getLogger(__name__)

APART = 8
"""Noise levels, each with a noise of its own, that nothing is fitted to and by which points are compared."""

JUDGE_EVERY = 5
"""Steps from one comparison to the next."""

PATIENCE = 4
"""Comparisons in a row without a better point that end a fit."""

_APART = 4


class FitStep(NamedTuple):
    """Hold what a step came to."""

    number: int
    """How many steps are done."""
    loss: float
    apart: float | None
    """Loss on what is kept apart, where it was measured after this step."""
    seconds: float


class Callbacks:
    """Hear of a fit while it runs, and end it: these do neither."""

    cancels: tuple[type[BaseException], ...] = ()
    """Exceptions that end a fit early; it comes to the best point so far."""

    def on_encode(self, done: int, total: int) -> None:
        """Hear of the analogies that are encoded."""

    def on_begin(self, values: int) -> None:
        """Hear, before the first step, how many values are fitted."""

    def on_preview(self, strip: Tensor) -> None:
        """Look at the example, (H, W, 3) in 0–1: a, a' as it is and as the best point so far makes it."""

    def on_state(self, state: FitState) -> None:
        """Hear where the fit stands before its first step and after each: given this, it goes on from there."""

    def on_step(self, step: FitStep, steps: int) -> None:
        """Hear of a step, and of how many there are at most."""

    def on_stop(self, best: Mixture, done: int) -> None:
        """Hear that the fit was cancelled after so many steps, and what it came to; it may raise."""

    def on_end(self, lowest: float) -> None:
        """Hear of the loss of what the fit comes to, on what is kept apart."""

    def on_not_finite(self, error: LoRWebError) -> None:
        """Hear that a loss was no number any more, which ends the fit, and that it comes to the best point before."""
        log.warning("%s The best point so far is kept.", error)

    def check_cancelled(self) -> None:
        """Raise one of `cancels` to end the fit after this step."""


def fit_mixture(
    base: Base,
    encoders: Encoders,
    basis: LoRABasis,
    start: Mixture | None,
    pairs: Sequence[tuple[Tensor, Tensor]],
    settings: FitSettings | None = None,
    callbacks: Callbacks | None = None,
    state: FitState | None = None,
) -> Mixture:
    """Fit a mixture of one analogy to pairs (a, a') of one edit, (H, W, 3) in 0–1, each of any size.

    start: None for the mixture of a query of zeros. The result is on what is kept apart, noises of their own or from
    three pairs on the last one, no worse than the start; where it stays best, it is the result. The same settings give
    the same bits. The base's weights and flags are afterwards what they were.

    state: where an earlier fit of the same inputs stood, of no more than `settings.steps` steps; it then comes to what
    one without a break does.

    Cancelled, or with a loss that is not finite, a fit comes to the best point so far. Raises LoRWebError for bad
    input, and if already the start gives a loss that is not finite.
    """
    settings, callbacks = settings or FitSettings(), callbacks or Callbacks()
    settings.check()
    start = checked_start(basis, start)
    read = read_pairs(pairs)
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as held:
        examples = encode_examples(read, encoders, settings, callbacks.on_encode)
        held.enter_context(base.training(settings.checkpointing))
        held.enter_context(frozen(base.model))
        attached = AttachedBasis(basis, base)
        held.enter_context(attached.attached())
        found = _run(Fit(base, attached, start, examples, settings, state), read[0], callbacks)
    return replace(found, thumbnails=make_thumbnails([Triplet(list(read), read[0].a)]), seen=())


def checked_start(basis: LoRABasis, start: Mixture | None) -> Mixture:
    """Check the mixture that a fit begins at; None gives that of a query of zeros. Raises LoRWebError."""
    if not basis.config.external_query:
        raise LoRWebError(
            f"{named(basis.name)} routes by each layer's own input (external_query: false): it has no mixture that "
            "could be fitted. Give a basis that is routed by images."
        )
    if start is None:
        start = basis.route(torch.zeros(basis.query_width))
        return replace(start, origin=start) if QUERY_MODES[basis.config.query_mode].difference else start
    if start.basis is not basis and fingerprint(start.basis) != fingerprint(basis):
        raise LoRWebError(
            f"The mixture is of another basis, {named(start.basis.name)}, than {named(basis.name)}, which is to be "
            "fitted. Give a mixture of this basis, or none."
        )
    if start.analogies != 1:
        raise LoRWebError(
            f"The mixture is of {start.analogies} analogies; a fit begins at one. Make it with one b, or give none."
        )
    (one,) = start.split()
    return replace(one, basis=basis, origin=one.origin and replace(one.origin, basis=basis))


class Fit:
    """Go step by step from a start, and keep the best point; each step is a function of the seed and its number."""

    def __init__(
        self,
        base: Base,
        attached: AttachedBasis,
        start: Mixture,
        examples: Examples,
        settings: FitSettings,
        state: FitState | None = None,
    ):
        self.base, self.attached, self.settings = base, attached, settings
        self.examples = examples
        self.start = start.table.float().clone()
        self.point = FITTED[settings.fitted](start)
        self.done = 0
        """Steps."""
        self.best = start
        self._optimizer = torch.optim.Adam(self.point.parameters(), lr=settings.rate)
        self.lowest = self.judge() if state is None else state.lowest
        """Loss of the best point on what is kept apart."""
        self.since = 0
        """Comparisons since the best point was found."""
        if state is not None:
            self._resume(state)
        if not math.isfinite(self.lowest):
            raise LoRWebError(
                "The loss of the start is not a finite number. Look at the pair and the mixture, or load the model in "
                "bf16 or fp32."
            )

    def step(self) -> FitStep:
        """Do one step. Raises NotFinite, before anything is changed by it, if the loss or its gradient is."""
        began = time.perf_counter()
        self._optimizer.zero_grad()
        loss = self._gradients()
        gradients = [p.grad for p in self.point.parameters() if p.grad is not None]
        if not all(g.isfinite().all() for g in gradients) or not math.isfinite(loss):
            raise NotFinite(f"The loss of step {self.done + 1} or its gradient is not a finite number.")
        self._optimizer.step()
        self.done += 1
        apart = self._compare() if self.done % JUDGE_EVERY == 0 else None
        return FitStep(self.done, loss, apart, time.perf_counter() - began)

    @property
    def ended(self) -> bool:
        return self.done >= self.settings.steps or self.since >= PATIENCE

    def finish(self) -> None:
        """Compare the last point too, where no comparison was due; only what is `best` depends on it."""
        if self.done % JUDGE_EVERY:
            self._compare()

    def state(self) -> FitState:
        """Copy where this stands."""
        parameters, optimizer = self.point.state_dict(), self._optimizer.state_dict()
        return FitState(self.done, *deepcopy((parameters, optimizer, self.best.table)), self.lowest, self.since)

    def _resume(self, state: FitState) -> None:
        self.done, self.since = state.done, state.since
        self.best = self.best.with_table(state.best)
        self.point.load_state_dict(state.parameters)
        self._optimizer.load_state_dict(deepcopy(state.optimizer))

    def _gradients(self) -> float:
        drawn, times, noises = draw(self.examples.fitted, self.settings, self.done)
        total = 0.0
        table = self.point()
        leaf = table.detach().to(self.base.device).requires_grad_()
        for first in range(0, len(drawn), self.settings.together):
            part = slice(first, first + self.settings.together)
            batch, t = move_batch(joined(drawn[part]), self.base), times[part]
            self.attached.mix(leaf)
            loss = denoising_loss(self.base, batch, t, noises[part], torch.ones_like(t)).sum() / len(drawn)
            loss.backward()
            total += loss.item()
        pull = self.settings.pull * (table - self.start).square().mean()
        torch.autograd.backward([table, pull], [leaf.grad.to(table), torch.ones_like(pull)])
        return total + pull.item()

    def _compare(self) -> float:
        apart = self.judge()
        self.since += 1
        if apart < self.lowest:
            self.lowest, self.since = apart, 0
            self.best = self.best.with_table(self.point().detach().clone())
        return apart

    @torch.no_grad()
    def judge(self) -> float:
        """Measure the loss on what is kept apart, whose noises are always the same."""
        self.attached.mix(self.point().to(self.base.device))
        total = 0.0
        for first in range(0, APART, self.settings.together):
            numbers = range(first, min(APART, first + self.settings.together))
            batch = joined([self.examples.judged[number % len(self.examples.judged)] for number in numbers])
            # The middles of eight equal parts of the levels' distribution, `sigmoid`.
            t = torch.tensor([NormalDist().inv_cdf((number + 0.5) / APART) for number in numbers]).sigmoid()
            noise = torch.cat([self._apart(number, batch) for number in numbers])
            total += denoising_loss(self.base, move_batch(batch, self.base), t, noise, torch.ones_like(t)).sum().item()
        return total / APART

    def _apart(self, number: int, like: Batch) -> Tensor:
        random = generator(self.settings.seed, _APART, number)
        return torch.randn((1, *like.target.shape[1:]), generator=random)


class NotFinite(LoRWebError):
    """Tell that a loss is no number any more."""


def _run(fit: Fit, pair: Pair, callbacks: Callbacks) -> Mixture:
    settings = fit.settings

    def show() -> None:
        callbacks.on_preview(preview(fit.base, fit.attached, fit.best, fit.examples.fitted[0], pair, settings))

    callbacks.on_begin(sum(p.numel() for p in fit.point.parameters()))
    callbacks.on_state(fit.state())
    try:
        try:
            _take_steps(fit, callbacks, show)
        except NotFinite as error:
            callbacks.on_not_finite(error)
        callbacks.on_end(fit.lowest)
        if settings.preview_every:
            show()
    except callbacks.cancels:
        callbacks.on_stop(fit.best, fit.done)
    return fit.best


def _take_steps(fit: Fit, callbacks: Callbacks, show: Callable[[], None]) -> None:
    settings = fit.settings
    while not fit.ended:
        step = fit.step()
        callbacks.on_state(fit.state())
        callbacks.on_step(step, settings.steps)
        if settings.preview_every and step.number % settings.preview_every == 0 and not fit.ended:
            show()
        callbacks.check_cancelled()
    fit.finish()
