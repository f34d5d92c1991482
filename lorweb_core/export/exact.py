"""The factors of an exact LoRA: each A_n and B_n of a mixture that has a coefficient, and what rounding them costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..checkpoint import BasisLayer
from ..errors import LoRWebError, named
from ..low_rank import Factors, mixed_factors, squared_rounding, squared_rounding_of_many

# An exact file's rounding is measured on about so many rows and columns of each layer, evenly spread.
_SAMPLE = 256

# Values copied at a time, and their columns. Few enough that torch copies them in this thread: more threads would only
# wait for one another, and for the one that writes.
_TILE, _WIDTH = 2**15, 1024


def exact_tensors(
    layers: Mapping[str, BasisLayer], weights: Mapping[str, Tensor], kind: torch.dtype
) -> Iterator[Tensor]:
    """Give down (k·r, in) and up (out, k·r) of each layer in turn, of the k LoRAs with a weight; weights: layer → (N,).

    In two buffers that are used again and again, as fresh memory costs more than what is computed here: the writer must
    be done with a tensor when it asks for the next but one.
    """
    sizes = [max(getattr(layer, factor).numel() for layer in layers.values()) for factor in "AB"]
    workspace = torch.empty(max(_TILE, _WIDTH * max(layer.A.shape[2] for layer in layers.values())))
    downs, ups = (torch.empty(size, dtype=kind) for size in sizes)
    for name, layer in layers.items():
        weight = weights[name]
        heard = weight.nonzero()[:, 0]
        if not len(heard):
            yield torch.zeros(1, layer.A.shape[1], dtype=kind)
            yield torch.zeros(layer.B.shape[2], 1, dtype=kind)
            continue
        A, B = (layer.A, layer.B) if len(heard) == len(weight) else (layer.A[heard], layer.B[heard])
        n, fan_in, r = A.shape
        rows, scale = B.flatten(0, 1), weight[heard, None, None].float()
        down = downs[: A.numel()].view(n, r, fan_in)
        up = ups[: B.numel()].view(B.shape[2], n * r)
        # In tiles of a few LoRAs that stay in the processor's cache.
        few = max(1, _TILE // (_WIDTH * r))
        tiles = [(i, slice(i, i + few)) for i in range(0, n, few)]
        for _, loras in tiles:
            for start in range(0, fan_in, _WIDTH):
                columns = A[loras, start : start + _WIDTH]
                scaled = workspace[: columns.numel()].view(columns.shape).copy_(columns).mul_(scale[loras])
                down[loras, :, start : start + _WIDTH].copy_(scaled.mT)
        down = down.flatten(0, 1)
        if _may_overflow(layer.A, weight, kind):
            check_finite(down, name)
        yield down
        for i, _ in tiles:
            of_tile = slice(i * r, (i + few) * r)
            for start in range(0, len(up), _WIDTH):
                up[start : start + _WIDTH, of_tile].copy_(rows[of_tile, start : start + _WIDTH].T)
        if _may_overflow(layer.B, None, kind):
            check_finite(up, name)
        yield up


def exact_rounding(layer: BasisLayer, weights: Tensor, kind: torch.dtype) -> float:
    """Measure ‖what an exact file of this dtype holds of ΔW − ΔW‖²; of long layers on a part of them."""
    across, down = layer.A.shape[1] // _SAMPLE, layer.B.shape[2] // _SAMPLE
    if min(across, down) < 2:
        return squared_rounding(*_rounded(layer, weights, kind))
    # Of so many values the roundings are independent, and a part tells for all.
    part = layer._replace(A=layer.A[:, ::across].contiguous(), B=layer.B[..., ::down].contiguous())
    share = part.A.numel() / layer.A.numel() * part.B.numel() / layer.B.numel()
    return squared_rounding_of_many(*_rounded(part, weights, kind)) / share


def _rounded(layer: BasisLayer, weights: Tensor, kind: torch.dtype) -> tuple[Factors, Factors]:
    """Make a layer's exact factors, and those that an exact file holds of them, by the same steps; both float64."""
    exact = mixed_factors(layer, weights)
    heard = weights.nonzero()[:, 0]
    down = (layer.A[heard].float() * weights[heard, None, None].float()).mT.flatten(0, 1)
    return exact, Factors(exact.up.to(kind).double(), down.to(kind).double())


def _may_overflow(factor: Tensor, weights: Tensor | None, kind: torch.dtype) -> bool:
    """Tell whether finite values of a basis's factor can become infinite in another dtype."""
    largest = torch.finfo(factor.dtype).max * (1.0 if weights is None else float(weights.abs().max()))
    return largest > torch.finfo(kind).max


def check_finite(stored: Tensor, layer: str) -> None:
    """Raise LoRWebError if a factor has become infinite in its dtype."""
    if not stored.isfinite().all():
        kind = str(stored.dtype).removeprefix("torch.")
        raise LoRWebError(f"Layer {named(layer)} has values too large for {kind}. Export as bfloat16 or float32.")
