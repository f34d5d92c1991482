"""A mixture → an ordinary LoRA file, exact or compressed, in the layout that every FLUX tool loads.

Keys are diffusers' (`transformer.<layer>.lora_A.weight`, `.lora_B.weight`). Without an alpha each of ComfyUI, Forge,
diffusers and Nunchaku adds lora_B · lora_A as it is; where ranks differ between layers, older diffusers take the first
layer's for all, so that such a file has an alpha per layer, equal to its rank.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..basis import Progress
from ..checkpoint import BasisLayer
from ..errors import LoRWebError
from ..mixture import Mixture
from .compression import Decomposed, Factors, decompose, mixed_factors, squared_rounding, squared_rounding_of_many
from .fingerprint import fingerprint
from .gram import basis_gram, inner
from .saved_file import Entry, write_tensors

MODES = ("exact", "rank", "error")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

# Layers that Nunchaku, and hosts with fused weights, take together or not at all.
_TOGETHER = (
    ("attn.to_q", "attn.to_k", "attn.to_v"),
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    ("ff.net.0.proj", "ff.net.2"),
    ("ff_context.net.0.proj", "ff_context.net.2"),
    ("proj_mlp", "proj_out"),
)

# An exact file's rounding is measured on about so many rows and columns of each layer, evenly spread.
_SAMPLE = 256

# Values copied at a time, and their columns. Few enough that torch copies them in this thread: more threads would only
# wait for one another, and for the one that writes.
_TILE, _WIDTH = 2**15, 1024


@dataclass(frozen=True)
class LayerReport:
    rank: int
    error: float
    """‖ΔW − what the file holds‖ / ‖ΔW‖, the rounding to the file's dtype included."""
    size: float
    """‖ΔW‖"""


@dataclass(frozen=True)
class Report:
    """What an export wrote."""

    file: str
    mode: str
    dtype: str
    strength: float
    bytes: int
    error: float
    """As that of a layer, over all of them together."""
    layers: dict[str, LayerReport] = field(repr=False)
    left_out: int = 0
    """Layers that the mixture does not change."""
    error_by_rank: list[float] = field(default_factory=list, repr=False)
    """The error over all layers if each had at most rank 0, 1, …; exact exports leave it to `error_by_rank`."""

    @property
    def ranks(self) -> tuple[int, int]:
        """The lowest and the highest of a layer."""
        ranks = [layer.rank for layer in self.layers.values()]
        return min(ranks), max(ranks)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"ranks": self.ranks}, indent=1)


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
    path, kind = Path(path), DTYPES[dtype]
    _check_target(mixture, path)
    weights = _weights(mixture, strength)
    kept = _kept(mixture.basis.layers, weights)
    settings = {"mode": mode, "strength": strength, "dtype": dtype}
    about = {"file": path.name, "mode": mode, "dtype": dtype, "strength": strength}
    about["left_out"] = len(weights) - len(kept)
    layers = {name: mixture.basis.layers[name] for name in kept}
    weights = {name: weights[name] for name in kept}
    if mode == "exact":
        return _export_exact(mixture, path, layers, weights, kind, title, settings, about, progress)
    settings |= {"rank": rank} if mode == "rank" else {"error": error}
    return _export_compressed(mixture, path, layers, weights, kind, title, settings, about, progress)


def error_by_rank(mixture: Mixture, progress: Progress | None = None) -> list[float]:
    """‖ΔW − ΔW_k‖ / ‖ΔW‖ over all layers, each of at most rank k, for k = 0, 1, … up to the full rank."""
    weights = _weights(mixture, 1.0)
    tails = []
    for done, (name, layer) in enumerate(mixture.basis.layers.items()):
        if progress:
            progress(done, len(weights))
        if weights[name].any():
            tails.append(decompose(mixed_factors(layer, weights[name])).tails)
    if progress:
        progress(len(weights), len(weights))
    return _curve(tails)


def _export_exact(mixture, path, layers, weights, kind, title, settings, about, progress) -> Report:
    ranks = {name: max(1, int(weights[name].count_nonzero()) * layer.A.shape[2]) for name, layer in layers.items()}
    metadata = _metadata(mixture, title or path.stem, ranks, settings)
    measured: list[Future] = []
    with ThreadPoolExecutor(1) as pool:

        def tensors() -> Iterator[Tensor]:
            yield from _exact_tensors(layers, weights, kind)
            # Errors are measured while the disk takes what was written.
            measured.append(pool.submit(_exact_reports, mixture, layers, weights, kind, ranks, settings["strength"]))

        size = _write(path, layers, ranks, kind, tensors(), metadata, progress)
        reports = measured[0].result()
    return Report(bytes=size, error=_total(reports), layers=reports, **about)


def _exact_tensors(layers: dict[str, BasisLayer], weights: dict[str, Tensor], kind: torch.dtype) -> Iterator[Tensor]:
    """Down and up of each layer in turn, in two buffers that are used again and again: fresh memory costs more than
    what is computed here. The writer is done with a tensor when it asks for the next but one."""
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
        _check_finite(down, name, layer.A, weight)
        yield down
        for i, _ in tiles:
            of_tile = slice(i * r, (i + few) * r)
            for start in range(0, len(up), _WIDTH):
                up[start : start + _WIDTH, of_tile].copy_(rows[of_tile, start : start + _WIDTH].T)
        _check_finite(up, name, layer.B)
        yield up


def _exact_reports(mixture, layers, weights, kind, ranks, strength) -> dict[str, LayerReport]:
    """Of the rounding to the file's dtype, measured on a part of each layer's rows and columns."""
    table = mixture.table.flatten(1) * strength
    sizes = inner(basis_gram(mixture.basis), table, table).clamp(min=0).sqrt().tolist()
    sizes = dict(zip(mixture.basis.layers, sizes, strict=True))
    reports = {}
    for name, layer in layers.items():
        across, down = layer.A.shape[1] // _SAMPLE, layer.B.shape[2] // _SAMPLE
        if min(across, down) > 1:
            # Of so many values the roundings are independent, and a part tells for all.
            part = layer._replace(A=layer.A[:, ::across].contiguous(), B=layer.B[..., ::down].contiguous())
            share = part.A.numel() / layer.A.numel() * part.B.numel() / layer.B.numel()
            rounding = squared_rounding_of_many(*_rounded(part, weights[name], kind)) / share
        else:
            rounding = squared_rounding(*_rounded(layer, weights[name], kind))
        error = rounding**0.5 / sizes[name] if sizes[name] else 0.0
        reports[name] = LayerReport(ranks[name], error, sizes[name])
    return reports


def _rounded(layer: BasisLayer, weights: Tensor, kind: torch.dtype) -> tuple[Factors, Factors]:
    """A layer's exact factors, and those that an exact file holds of them, by the same steps; both float64."""
    exact = mixed_factors(layer, weights)
    heard = weights.nonzero()[:, 0]
    down = (layer.A[heard].float() * weights[heard, None, None].float()).mT.flatten(0, 1)
    return exact, Factors(exact.up.to(kind).double(), down.to(kind).double())


def _export_compressed(mixture, path, layers, weights, kind, title, settings, about, progress) -> Report:
    tensors: list[Tensor] = []
    tails, reports = [], {}
    for done, (name, layer) in enumerate(layers.items()):
        if progress:
            progress(done, len(layers))
        if not weights[name].any():
            reports[name] = LayerReport(1, 0.0, 0.0)
            tensors += [torch.zeros(1, layer.A.shape[1], dtype=kind), torch.zeros(layer.B.shape[2], 1, dtype=kind)]
            continue
        found = decompose(mixed_factors(layer, weights[name]))
        rank = settings["rank"] if "rank" in settings else found.least_rank(settings["error"])
        stored, reports[name] = _compressed(found, min(rank, len(found.values)), kind)
        _check_finite(stored.down, name)
        _check_finite(stored.up, name)
        tensors += [stored.down.contiguous(), stored.up.contiguous()]
        tails.append(found.tails)
    ranks = {name: report.rank for name, report in reports.items()}
    total = _total(reports)
    metadata = _metadata(mixture, title or path.stem, ranks, settings | {"measured_error": total})
    size = _write(path, layers, ranks, kind, iter(tensors), metadata, None)
    if progress:
        progress(len(layers), len(layers))
    return Report(bytes=size, error=total, layers=reports, error_by_rank=_curve(tails), **about)


def _compressed(found: Decomposed, rank: int, kind: torch.dtype) -> tuple[Factors, LayerReport]:
    exact = found.factors(rank)
    stored = Factors(*(factor.to(kind) for factor in exact))
    tails = found.tails
    # Rounding stays in the space of the singular vectors kept, on one side at least: what was cut off is orthogonal.
    rounding = squared_rounding(exact, Factors(*(factor.double() for factor in stored)))
    size = float(tails[0].sqrt())
    error = (float(tails[rank]) + rounding) ** 0.5
    return stored, LayerReport(rank, error / size if size else 0.0, size)


def _write(
    path: Path,
    layers: dict[str, BasisLayer],
    ranks: dict[str, int],
    kind: torch.dtype,
    tensors: Iterator[Tensor],
    metadata: Mapping[str, str],
    progress: Progress | None,
) -> int:
    """tensors: down and up of each layer in turn; alphas go first, for these must not come between them."""
    names = {name: f"transformer.{name.removeprefix('transformer.')}" for name in layers}
    entries, alphas = {}, []
    if len(set(ranks.values())) > 1:
        entries = {f"{names[name]}.alpha": Entry(torch.float32, ()) for name in layers}
        alphas = [torch.tensor(float(ranks[name])) for name in layers]
    for name, layer in layers.items():
        entries[f"{names[name]}.lora_A.weight"] = Entry(kind, (ranks[name], layer.A.shape[1]))
        entries[f"{names[name]}.lora_B.weight"] = Entry(kind, (layer.B.shape[2], ranks[name]))

    def all_tensors() -> Iterator[Tensor]:
        yield from alphas
        yield from tensors

    return write_tensors(path, entries, all_tensors(), metadata, progress)


def _metadata(mixture: Mixture, title: str, ranks: dict[str, int], settings: dict) -> dict[str, str]:
    lowest, highest = min(ranks.values()), max(ranks.values())
    dim = str(highest) if lowest == highest else "Dynamic"
    metadata = {
        "format": "pt",
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "ss_base_model_version": "flux1",
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": title,
        "modelspec.resolution": "1024x1024",
        "modelspec.date": datetime.now().isoformat(timespec="seconds"),
        "lorweb.basis": mixture.basis.name,
        "lorweb.fingerprint": fingerprint(mixture.basis),
        "lorweb.export": json.dumps(settings),
    }
    if mixture.thumbnails:
        metadata["modelspec.thumbnail"] = _data_url(mixture.thumbnails[0].a_prime)
    return metadata


def _data_url(picture: Tensor) -> str:
    """(h, w, 3), uint8."""
    encoded = io.BytesIO()
    Image.fromarray(picture.numpy()).save(encoded, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _weights(mixture: Mixture, strength: float) -> dict[str, Tensor]:
    """Layer → (N,), float64: what each A_n B_n is multiplied by."""
    table = mixture.table.double().flatten(1)
    layers = mixture.basis.layers
    return {name: row * (layer.scale * strength) for (name, layer), row in zip(layers.items(), table, strict=True)}


def _kept(layers: Mapping[str, BasisLayer], weights: dict[str, Tensor]) -> list[str]:
    """The layers that the mixture changes, and those that loaders take only together with one of these."""
    changed = {name for name, weight in weights.items() if weight.any()}
    if not changed:
        raise LoRWebError(
            "The mixture changes nothing: all its coefficients, or the strength, are 0. There is no LoRA to export."
        )
    for name in list(changed):
        for group in _TOGETHER:
            for end in group:
                if name.endswith(f".{end}"):
                    changed |= {name.removesuffix(end) + other for other in group} & layers.keys()
    return [name for name in layers if name in changed]


def _curve(tails: list[Tensor]) -> list[float]:
    """Errors over all layers by rank, from each layer's ‖ΔW − ΔW_k‖²."""
    total = torch.zeros(max(map(len, tails), default=1), dtype=torch.float64)
    for tail in tails:
        total[: len(tail)] += tail
    return (total / total[0].clamp(min=torch.finfo(torch.float64).tiny)).sqrt().tolist()


def _total(reports: dict[str, LayerReport]) -> float:
    size = math.fsum(report.size**2 for report in reports.values())
    return (math.fsum((report.error * report.size) ** 2 for report in reports.values()) / size) ** 0.5 if size else 0.0


def _check_finite(stored: Tensor, name: str, basis: Tensor | None = None, weights: Tensor | None = None) -> None:
    """basis, weights: what it was made of, where that may tell without a look at its values that it is finite."""
    if basis is not None:
        largest = torch.finfo(basis.dtype).max * (1.0 if weights is None else float(weights.abs().max()))
        if largest <= torch.finfo(stored.dtype).max:
            return
    if not stored.isfinite().all():
        kind = str(stored.dtype).removeprefix("torch.")
        raise LoRWebError(f"Layer {name} has values too large for {kind}. Export as bfloat16 or float32.")


def _check(mixture: Mixture, mode: str, rank: int, error: float, strength: float, dtype: str) -> None:
    for what, value, known in (("mode", mode, MODES), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise LoRWebError(f"{what} is {value!r}; expected one of: {', '.join(known)}.")
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
        raise LoRWebError(f"{path.name} is the basis itself. Choose another name for the LoRA.")
