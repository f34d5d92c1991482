"""Optimizers and learning rates, by the names that a config gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from ..errors import LoRWebError
from .settings.config import TrainSettings


def _adamw8bit(parameters: Iterable[nn.Parameter], **options) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise LoRWebError(
            "train.optimizer is adamw8bit, which needs bitsandbytes: run `pip install bitsandbytes`, or train with "
            "--set train.optimizer=adamw, which holds 8 bytes for each value that is learned instead of 2."
        ) from error
    return AdamW8bit(parameters, **options)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adamw8bit": _adamw8bit}

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "adamw8bit": ("state1", "state2")}
"""What each keeps of a parameter, in the parameter's shape."""

# Share of the run that is done, 0 to 1 → share of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
    # Up within a twentieth of the run, and down to nothing: torch's OneCycleLR in its usual form.
    "onecycle": lambda done: (
        0.04 + 0.48 * (1 - math.cos(math.pi * done / 0.05))
        if done < 0.05
        else 0.5 + 0.5 * math.cos(math.pi * (done - 0.05) / 0.95)
    ),
}


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """Make the optimizer of a config. Raises LoRWebError if it is one that is not installed."""
    params = settings.optimizer_params
    return OPTIMIZERS[settings.optimizer](
        parameters, lr=settings.lr, betas=params.betas, eps=params.eps, weight_decay=params.weight_decay
    )


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Compute the learning rate of a step, the first being 0."""
    warm = min(1.0, (step + 1) / (settings.lr_warmup_steps + 1))
    return settings.lr * warm * SCHEDULES[settings.lr_scheduler](step / settings.steps)
