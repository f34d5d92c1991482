"""The loop that trains the autoencoder, the image encoder and the base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from small_world.printed_progress import PrintedProgress


class OneCycle:
    """Run AdamW through one rise and fall of the learning rate, with clipped gradients; iterate over its steps."""

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
        """Begin a training of so many steps, called `what` on the terminal.

        rate: the highest learning rate, reached after the share `rise` of the steps. decay: of weights.
        """
        self.parameters = list(parameters)
        self._optimizer = torch.optim.AdamW(self.parameters, rate, betas=betas, weight_decay=decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, rate, steps, pct_start=rise)
        self._progress = PrintedProgress(what, steps)

    def __iter__(self) -> Iterator[int]:
        return iter(self._progress)

    def step(self, loss: Tensor, **shown: float) -> None:
        """Make a step down the loss; shown: values to print beside it."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._progress.show(loss=loss.item(), **shown)
