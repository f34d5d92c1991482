"""What exporting a mixture as a LoRA leaves out, by layer, over all, and by rank."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerReport:
    rank: int
    error: float
    """‖ΔW − what the file holds‖ / ‖ΔW‖, the rounding to the file's dtype included."""
    size: float
    """‖ΔW‖"""


@dataclass(frozen=True)
class Report:
    """Report what an export wrote."""

    file: str
    mode: str
    dtype: str
    strength: float
    bytes: int
    error: float
    """‖ΔW − what the file holds‖ / ‖ΔW‖ over all layers together."""
    layers: dict[str, LayerReport] = field(repr=False)
    left_out: int = 0
    """Number of layers that the mixture does not change."""
    error_by_rank: list[float] = field(default_factory=list, repr=False)
    """Error over all layers if each had at most rank 0, 1, …; exact exports leave it to `error_by_rank`."""

    @property
    def ranks(self) -> tuple[int, int]:
        """Return the lowest and the highest rank of a layer."""
        ranks = [layer.rank for layer in self.layers.values()]
        return min(ranks), max(ranks)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"ranks": self.ranks}, indent=1)


def error_curve(tails: Sequence[Tensor]) -> list[float]:
    """Compute errors over all layers by rank, from each layer's ‖ΔW − ΔW_k‖²."""
    total = torch.zeros(max(map(len, tails), default=1), dtype=torch.float64)
    for tail in tails:
        total[: len(tail)] += tail
    return (total / total[0].clamp(min=torch.finfo(torch.float64).tiny)).sqrt().tolist()


def total_error(reports: Mapping[str, LayerReport]) -> float:
    """Compute the error over all layers together, Frobenius."""
    size = math.fsum(report.size**2 for report in reports.values())
    return (math.fsum((report.error * report.size) ** 2 for report in reports.values()) / size) ** 0.5 if size else 0.0
