"""Hold where a fit stands between two steps: all that the next one depends on beside its inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class FitState(NamedTuple):
    """Hold a fit after a whole step, or before the first; kilobytes, on the CPU, and nothing of it changes any more."""

    done: int
    """Steps."""
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: Tensor
    """Coefficients of the best point so far, (layers, N), as `Mixture.table` has them."""
    lowest: float
    """Loss of the best point on what is kept apart."""
    since: int
    """Comparisons since it was found."""
