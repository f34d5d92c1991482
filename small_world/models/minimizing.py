"""The loop that the autoencoder, the encoder and the base are learned in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from small_world.printed_progress import Steps


class Descent:
    """AdamW along one rise and fall of the learning rate, with clipped gradients; each of its items is a step to do."""

    def __init__(
        self,
        what: str,
        parameters: Iterable[nn.Parameter],
        steps: int,
        rate: float = 2e-3,
        rise: float = 0.05,
        decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        """rate: at its highest, after `rise` of the steps. decay: of weights."""
        self.parameters = list(parameters)
        self._optimizer = torch.optim.AdamW(self.parameters, rate, betas=betas, weight_decay=decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, rate, steps, pct_start=rise)
        self._progress = Steps(what, steps)

    def __iter__(self) -> Iterator[int]:
        return iter(self._progress)

    def step(self, loss: Tensor, **told: float) -> None:
        """told: what to show beside the loss."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._progress.show(loss=loss.item(), **told)
