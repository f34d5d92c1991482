"""A mixture → an ordinary LoRA file: exact, or compressed to a rank or an error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..basis import Progress
from ..checkpoint import BasisLayer
from ..errors import LoRWebError, named, shown
from ..low_rank import Decomposed, Factors, decompose, mixed_factors, squared_rounding
from ..mixture import Mixture
from ..space.gram import basis_gram, inner
from .exact import check_finite, exact_rounding, exact_tensors
from .lora_file import layers_to_write, lora_metadata, write_lora
from .report import LayerReport, Report, error_curve, total_error

MODES = ("exact", "rank", "error")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class _Plan(NamedTuple):
    """Hold what is to be written where, and write it."""

    mixture: Mixture
    path: Path
    title: str
    strength: float
    dtype: str
    layers: dict[str, BasisLayer]
    weights: dict[str, Tensor]
    """Layer → (N,), float64: what each A_n B_n is multiplied by."""

    def write(self, ranks: dict[str, int], tensors: Iterator[Tensor], settings: dict, progress: Progress | None) -> int:
        """Write the file; settings: what it tells of how it was made. Returns its bytes."""
        settings = {"strength": self.strength, "dtype": self.dtype, **settings}
        metadata = lora_metadata(self.mixture, self.title, ranks, settings)
        return write_lora(self.path, self.layers, ranks, DTYPES[self.dtype], tensors, metadata, progress)

    def report(self, mode: str, size: int, layers: dict[str, LayerReport], curve: list[float] | None = None) -> Report:
        return Report(
            file=self.path.name,
            mode=mode,
            dtype=self.dtype,
            strength=self.strength,
            bytes=size,
            error=total_error(layers),
            layers=layers,
            left_out=len(self.mixture.basis.layers) - len(layers),
            error_by_rank=curve or [],
        )


def export_lora(
    mixture: Mixture,
    path: str | Path,
    mode: str = "exact",
    rank: int = 16,
    error: float = 0.01,
    strength: float = 1.0,
    dtype: str = "float16",
    title: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write the LoRA that a mixture is to a .safetensors file; what was there before stays until it is whole.

    mode: 'exact', of rank N·r, or less where coefficients are 0; 'rank', every layer compressed to `rank`; 'error',
    each layer to the least rank that leaves a share of at most `error` of its change out. What rounding to `dtype` adds
    is in the report. `strength` is folded in. Raises LoRWebError for a mixture that is no single LoRA or changes
    nothing, for settings out of range, and if the file cannot be written.
    """
    _check(mixture, mode, rank, error, strength, dtype)
    path = Path(path)
    _check_target(mixture, path)
    weights = _weights(mixture, strength)
    written = layers_to_write(mixture.basis.layers, weights)
    plan = _Plan(
        mixture,
        path,
        title or path.stem,
        strength,
        dtype,
        {name: mixture.basis.layers[name] for name in written},
        {name: weights[name] for name in written},
    )
    if mode == "exact":
        return _export_exact(plan, progress)
    return _export_compressed(plan, {"rank": rank} if mode == "rank" else {"error": error}, progress)


def error_by_rank(mixture: Mixture, progress: Progress | None = None) -> list[float]:
    """Compute ‖ΔW − ΔW_k‖ / ‖ΔW‖ over all layers, each of at most rank k, for k = 0, 1, … up to the full rank."""
    weights = _weights(mixture, 1.0)
    tails = []
    for done, (name, layer) in enumerate(mixture.basis.layers.items()):
        if progress:
            progress(done, len(weights))
        if weights[name].any():
            tails.append(decompose(mixed_factors(layer, weights[name])).tails)
    if progress:
        progress(len(weights), len(weights))
    return error_curve(tails)


def _export_exact(plan: _Plan, progress: Progress | None) -> Report:
    ranks = {
        name: max(1, int(plan.weights[name].count_nonzero()) * layer.A.shape[2]) for name, layer in plan.layers.items()
    }
    measured: list[Future] = []
    with ThreadPoolExecutor(1) as pool:

        def tensors() -> Iterator[Tensor]:
            yield from exact_tensors(plan.layers, plan.weights, DTYPES[plan.dtype])
            # Errors are measured while the disk takes what was written.
            measured.append(pool.submit(_exact_reports, plan, ranks))

        size = plan.write(ranks, tensors(), {"mode": "exact"}, progress)
        return plan.report("exact", size, measured[0].result())


def _exact_reports(plan: _Plan, ranks: dict[str, int]) -> dict[str, LayerReport]:
    table = plan.mixture.table.flatten(1) * plan.strength
    sizes = inner(basis_gram(plan.mixture.basis), table, table).clamp(min=0).sqrt().tolist()
    reports = {}
    for name, size in zip(plan.mixture.basis.layers, sizes, strict=True):
        if name in plan.layers:
            rounding = exact_rounding(plan.layers[name], plan.weights[name], DTYPES[plan.dtype])
            reports[name] = LayerReport(ranks[name], rounding**0.5 / size if size else 0.0, size)
    return reports


def _export_compressed(plan: _Plan, settings: dict, progress: Progress | None) -> Report:
    """Write a LoRA of compressed layers; settings: the rank or the error that is asked for."""
    (mode,) = settings
    kind = DTYPES[plan.dtype]
    tensors: list[Tensor] = []
    tails, reports = [], {}
    for done, (name, layer) in enumerate(plan.layers.items()):
        if progress:
            progress(done, len(plan.layers))
        if not plan.weights[name].any():
            reports[name] = LayerReport(1, 0.0, 0.0)
            tensors += [torch.zeros(1, layer.A.shape[1], dtype=kind), torch.zeros(layer.B.shape[2], 1, dtype=kind)]
            continue
        found = decompose(mixed_factors(layer, plan.weights[name]))
        rank = settings["rank"] if mode == "rank" else found.least_rank(settings["error"])
        stored, reports[name] = _compressed(found, min(rank, len(found.values)), kind)
        check_finite(stored.down, name)
        check_finite(stored.up, name)
        tensors += [stored.down.contiguous(), stored.up.contiguous()]
        tails.append(found.tails)
    ranks = {name: report.rank for name, report in reports.items()}
    settings = {"mode": mode, **settings, "measured_error": total_error(reports)}
    size = plan.write(ranks, iter(tensors), settings, None)
    if progress:
        progress(len(plan.layers), len(plan.layers))
    return plan.report(mode, size, reports, error_curve(tails))


def _compressed(found: Decomposed, rank: int, kind: torch.dtype) -> tuple[Factors, LayerReport]:
    exact = found.factors(rank)
    stored = Factors(*(factor.to(kind) for factor in exact))
    tails = found.tails
    # Rounding stays in the space of the singular vectors kept, on one side at least: what was cut off is orthogonal.
    rounding = squared_rounding(exact, Factors(*(factor.double() for factor in stored)))
    size = float(tails[0].sqrt())
    error = (float(tails[rank]) + rounding) ** 0.5
    return stored, LayerReport(rank, error / size if size else 0.0, size)


def _weights(mixture: Mixture, strength: float) -> dict[str, Tensor]:
    """Compute layer → (N,), float64: what each A_n B_n is multiplied by."""
    table = mixture.table.double().flatten(1)
    layers = mixture.basis.layers
    return {name: row * (layer.scale * strength) for (name, layer), row in zip(layers.items(), table, strict=True)}


def _check(mixture: Mixture, mode: str, rank: int, error: float, strength: float, dtype: str) -> None:
    for what, value, known in (("mode", mode, MODES), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise LoRWebError(f"{what} is {shown(value)}; expected one of: {', '.join(known)}.")
    if mode == "rank" and rank < 1:
        raise LoRWebError(f"rank is {rank}; expected a number from 1.")
    if mode == "error" and not 0 <= error < 1:
        raise LoRWebError(f"error is {error}; expected a share from 0 to below 1, such as 0.01.")
    if not math.isfinite(strength):
        raise LoRWebError(f"strength is {strength}; expected a number, 1.0 as trained.")
    table = mixture.table
    if table.ndim == 3 and table.shape[1] > 1:
        raise LoRWebError(
            f"The mixture is of {table.shape[1]} analogies, and a LoRA can hold one. Encode one b, and export that."
        )
    mixture.check_values()


def _check_target(mixture: Mixture, path: Path) -> None:
    if path.resolve() in [Path(file[0]).resolve() for file in mixture.basis.identity]:
        raise LoRWebError(f"{named(path)} is the basis itself. Choose another name for the LoRA.")
