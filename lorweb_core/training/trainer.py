"""The loop: one step after the other, each a function of the basis, the optimizer's state and the step's number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import LoRWebError
from .data.batch import Source
from .objective import Base, Objective
from .optimizer import MOMENTS, learning_rate, make_optimizer
from .run_state import Damaged, check_moments, check_tensors
from .seeds import generator
from .settings.config import TrainSettings
from .trainable_basis import TrainableBasis


class Step(NamedTuple):
    """Hold what a step came to."""

    number: int
    """How many steps are done."""
    loss: float
    learning_rate: float
    gradient: float
    """Norm over all parameters, before it is clipped."""
    seconds: float


class OneProcess:
    """Do for one process what a training uses of accelerate.Accelerator: a ComfyUI has no accelerate."""

    process_index = 0
    num_processes = 1
    is_main_process = True

    def prepare(self, module: nn.Module) -> nn.Module:
        return module

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_sync(self, module: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def gather(self, values: Tensor) -> Tensor:
        return values

    def main_process_first(self) -> AbstractContextManager:
        return nullcontext()

    def wait_for_everyone(self) -> None:
        pass


class Diverged(LoRWebError):
    """Tell that the loss or its gradient is no number any more; the basis is as it was before that step."""


class Training:
    """Train a basis: its parameters, optimizer, average and how many steps are done.

    The base is attached to until `detach`. processes: an accelerate.Accelerator, or one like OneProcess.
    """

    def __init__(
        self, basis: TrainableBasis, base: Base, source: Source, settings: TrainSettings, processes: Any = None
    ):
        self.basis = basis.to(base.device)
        self.base = base
        self.source = source
        self.settings = settings
        self.processes = processes or OneProcess()
        self.done = 0
        base.model.requires_grad_(False)
        self._objective = self.processes.prepare(Objective(self.basis, base, settings))
        self._optimizer = make_optimizer(self.basis.parameters(), settings)
        average = get_ema_multi_avg_fn(settings.ema_decay)
        self._averaged = AveragedModel(self.basis, multi_avg_fn=average) if settings.ema_decay else None
        # Last: what cannot be made leaves nothing on the base.
        self._handles = basis.attach(base.model, base.linears)

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()

    def run(self, on_step: Callable[[Step], None]) -> None:
        """Do all steps that are left. on_step may raise to end the run: nothing of a step is half done then."""
        while self.done < self.settings.steps:
            on_step(self.step())

    def step(self) -> Step:
        """Do one step. Raises Diverged, which names it and the analogies, before anything is changed by it."""
        began = time.perf_counter()
        rate = learning_rate(self.settings, self.done)
        loss = self._gradients()
        norm = nn.utils.clip_grad_norm_(self.basis.parameters(), self.settings.max_grad_norm)
        if not norm.isfinite():
            draws = self.settings.gradient_accumulation_steps * self.processes.num_processes
            raise self._diverged("The gradient", self._names(self.done * draws, draws))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.done += 1
        if self._averaged:
            self._averaged.update_parameters(self.basis)
        return Step(self.done, loss, rate, norm.item(), time.perf_counter() - began)

    def _gradients(self) -> float:
        """Leave the gradients of one step in the parameters; returns its loss."""
        parts = self._parts()
        losses = []
        for place, index in enumerate(parts):
            batch = self.source.draw(index)
            last = place == len(parts) - 1
            with nullcontext() if last else self.processes.no_sync(self._objective):
                each = self._objective(batch, generator(self.settings.seed, 1, index))
                everywhere = self.processes.gather(each.detach())
                if not everywhere.isfinite().all():
                    drawn = self._names(index - self.processes.process_index, self.processes.num_processes)
                    fine = everywhere.isfinite().tolist()
                    raise self._diverged("The loss", [name for name, ok in zip(drawn, fine, strict=True) if not ok])
                self.processes.backward(each.mean() / len(parts))
            losses.append(everywhere.mean().item())
        return sum(losses) / len(losses)

    def _parts(self) -> list[int]:
        """List which draws of the source this process makes in this step."""
        parts, processes = self.settings.gradient_accumulation_steps, self.processes.num_processes
        first = self.done * parts * processes + self.processes.process_index
        return [first + part * processes for part in range(parts)]

    def _names(self, first: int, draws: int) -> list[str]:
        """Name the analogies of so many draws, also of those that other processes make."""
        return [name for index in range(first, first + draws) for name in self.source.draw(index).names]

    def _diverged(self, what: str, names: list[str]) -> Diverged:
        self._optimizer.zero_grad()
        shown = ", ".join(names[:6]) + (" and more" if len(names) > 6 else "")
        return Diverged(
            f"{what} of step {self.done + 1} is not a finite number, on: {shown}. The basis is kept as it was before. "
            "Look at these pictures; else train with a lower lr, or with dtype fp32."
        )

    @contextmanager
    def averaged(self) -> Iterator[TrainableBasis]:
        """Give the basis its averaged values within, if there is an average: these are what is saved and shown."""
        self._swap()
        try:
            yield self.basis
        finally:
            self._swap()

    def _swap(self) -> None:
        if self._averaged:
            for now, mean in zip(self.basis.parameters(), self._averaged.module.parameters(), strict=True):
                now.data, mean.data = mean.data, now.data

    def state(self) -> dict[str, Any]:
        """Gather all that is needed to go on as if nothing had been in between."""
        return {
            "done": self.done,
            "basis": self.basis.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "averaged": self._averaged.state_dict() if self._averaged else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises OtherLayers or Damaged, and changes nothing, if it is none of this training."""
        moments = state["optimizer"]["state"]
        check_tensors(state["basis"], self.basis.state_dict())
        check_moments(moments, list(self.basis.parameters()), MOMENTS[self.settings.optimizer])
        if self._averaged:
            if state["averaged"] is None:
                raise Damaged("no average")
            check_tensors(state["averaged"], self._averaged.state_dict())
            self._averaged.load_state_dict(state["averaged"])
        self.basis.load_state_dict(state["basis"])
        # How it is set follows from the config, which is the same.
        settings = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": settings})
        self.done = state["done"]
