"""The loop that trains the autoencoder, the image encoder and the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorweb_core.errors import LoRWebError, shown
from lorweb_core.training.run_state import read_state, write_state
from small_world.printed_progress import PrintedProgress

CACHE = Path(__file__).parent.parent.parent / ".cache" / "small_world"
"""The folder of trainings that go on and of what studies train, which git ignores."""

_EACH = 250
"""Steps after which a training's state is written: where it goes on when it is interrupted."""


class Kept(NamedTuple):
    """Say where the state of a training is kept, and what it is of."""

    path: Path
    settings: str
    """All that its numbers depend on; a state of other settings is not gone on from."""

    def write(self, state: Mapping[str, Any]) -> None:
        """Keep a state in the place of the last one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_state(self.path, self.settings, state)

    def read(self) -> dict[str, Any] | None:
        """Read what is kept, None if nothing is. Raises LoRWebError if it is of other settings, or damaged."""
        if not self.path.exists():
            return None
        settings, state = read_state(self.path)
        if settings != self.settings:
            raise LoRWebError(
                f"{shown(self.path)} is a training that was interrupted with other settings ({shown(settings)}, now "
                f"{shown(self.settings)}). Delete it to start over, or go on with its settings."
            )
        return state

    def remove(self) -> None:
        """Remove what is kept, of a training that is done."""
        self.path.unlink(missing_ok=True)


class OneCycle:
    """Run AdamW through one rise and fall of the learning rate, with clipped gradients; iterate over its steps."""

    def __init__(
        self,
        what: str,
        model: nn.Module,
        steps: int,
        generator: torch.Generator,
        kept: Kept | None = None,
        rate: float = 2e-3,
        rise: float = 0.05,
        decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        """Begin a training of so many steps, called `what` on the terminal, or go on with one that was interrupted.

        generator: what the steps draw their numbers from. rate: the highest learning rate, reached after the share
        `rise` of the steps. decay: of weights. Raises LoRWebError if what is kept is a training with other settings.
        """
        self.model, self.generator, self.kept = model, generator, kept
        self._optimizer = torch.optim.AdamW(model.parameters(), rate, betas=betas, weight_decay=decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, rate, steps, pct_start=rise)
        self._progress = PrintedProgress(what, steps)
        self._done = 0
        if kept and (state := kept.read()):
            self._restore(state)

    def __iter__(self) -> Iterator[int]:
        for step in self._progress.begin(self._done):
            yield step
            self._done = step + 1
            if self.kept and self._done % _EACH == 0 and self._done < self._progress.count:
                self.kept.write(self._state())
        if self.kept:
            self.kept.remove()

    def step(self, loss: Tensor, **shown: float) -> None:
        """Make a step down the loss; shown: values to print beside it."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._progress.show(loss=loss.item(), **shown)

    def _state(self) -> dict[str, Any]:
        return {
            "done": self._done,
            "basis": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "averaged": None,
            "schedule": self._schedule.state_dict(),
            "generator": self.generator.get_state(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["basis"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self._done = state["done"]
