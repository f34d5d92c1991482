"""Where a training stands, in words and as a picture, for people who wait for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..grid import Size, fit_inside
from ..pictures.loss_curve import recent_loss, seconds_per_step
from ..pictures.training_picture import training_picture
from .trainer import Step


def describe_progress(losses: Sequence[Step], steps: int) -> str:
    """Say which step of how many is done, the recent loss, and what is left of the time. losses: at least one."""
    done = losses[-1].number
    left = describe_time(seconds_per_step(losses) * (steps - done))
    return f"Training: step {done:,} of {steps:,}\nloss {recent_loss(losses):.4f}, about {left} left"


def describe_end(losses: Sequence[Step], file: str) -> str:
    """Say what a training came to. losses: at least one. file: the name of the basis."""
    return f"Trained: {losses[-1].number:,} steps, loss {recent_loss(losses):.4f}\nSaved as {file}"


def describe_time(seconds: float) -> str:
    """Say how long that is in its two largest units: 2 h 05 min, 3 min 20 s, 8 s."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def progress_picture(losses: Sequence[Step], strips: Sequence[Tensor], theme: str = "dark") -> Tensor:
    """Lay out the last samples above the loss curve → (H, W, 3), float in 0–1, as wide as the curve.

    strips: pictures (h, w, 3) in 0–1; none before the first samples.
    """
    curve = training_picture(losses, theme=theme)
    width = curve.shape[1]
    return torch.cat([*(_centred(fit_inside(strip, Size(strip.shape[0], width)), curve) for strip in strips), curve])


def _centred(picture: Tensor, above: Tensor) -> Tensor:
    """Lay a picture (h, w, 3) in the middle of what is as wide as another, and of its background's colour."""
    height, width = picture.shape[:2]
    laid = above[0, 0].repeat(height, above.shape[1], 1)
    left = (above.shape[1] - width) // 2
    laid[:, left : left + width] = picture
    return laid
