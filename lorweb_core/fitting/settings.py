"""Hold the settings of a fit."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..errors import LoRWebError, shown
from .coefficients import FITTED


class Range(NamedTuple):
    """Hold the least and the most that a number may be."""

    least: float
    most: float

    def holds(self, value: float) -> bool:
        return self.least <= value <= self.most


_RANGES = {
    "steps": Range(1, 10_000),
    "noises": Range(1, 1000),
    "rate": Range(1e-6, 10),
    "seed": Range(0, 2**64 - 1),
    "pull": Range(0, 1e6),
    "views": Range(1, 1000),
    "together": Range(1, 1000),
    "megapixels": Range(0.001, 16),
    "preview_every": Range(0, 10_000),
    "preview_steps": Range(1, 1000),
    "preview_guidance": Range(0, 100),
}


@dataclass(frozen=True)
class FitSettings:
    """Choose how a mixture is fitted; the defaults are those that were measured."""

    fitted: str = "coefficients"
    """One of FITTED: what is changed."""
    steps: int = 20
    """Steps of Adam, at most: it stops early where nothing is gained."""
    noises: int = 4
    """Noise levels, each with a noise of its own, in each step."""
    rate: float = 0.03
    """Adam's learning rate."""
    seed: int = 50
    """Seed of noises, views and their order."""
    pull: float = 2.0
    """Weight of the mean squared distance of the coefficients from the start, beside the loss."""
    views: int = 4
    """Views of each pair that are encoded: as it is, and changed by the following in turn; 1 with none of them."""
    crops: bool = False
    """True to cut views out; not for edits that depend on where something is, or on its size."""
    shifts: bool = False
    """True to shift views; not for edits that depend on where something is."""
    flips: bool = False
    """True to mirror views; not for edits of left and right, or of writing."""
    megapixels: float = 1.0
    """Size of the grid whose last cell is sampled, in 1024² pixels."""
    prompt: str = ""
    """Words that the base is told."""
    together: int = 1
    """Noises that go through the base in one pass: more take more memory."""
    checkpointing: bool = True
    """True to let blocks compute again in the backward pass what they do not keep: less memory, more time."""
    preview_every: int = 0
    """Steps from one preview to the next; 0 for none."""
    preview_steps: int = 8
    """Denoising steps of a preview."""
    preview_guidance: float = 2.5
    """Guidance of a preview."""

    def check(self) -> None:
        """Raise LoRWebError for a value that is none of these."""
        if self.fitted not in FITTED:
            raise LoRWebError(f"fitted is {shown(self.fitted)}; expected one of: {', '.join(FITTED)}.")
        for field in fields(self):
            if field.name in _RANGES:
                _check(field.name, getattr(self, field.name), _RANGES[field.name])


def _check(name: str, value: Any, allowed: Range) -> None:
    if not allowed.holds(value):
        raise LoRWebError(f"{name} is {shown(value)}; expected a number from {allowed.least} to {allowed.most}.")
