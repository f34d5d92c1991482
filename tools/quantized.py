"""What quantized FLUX weights do to a mixture: `python tools/quantized.py` prints the table of docs/quantized.md.

Needs a ComfyUI, 6 GB of memory and 4 GB of disk; takes about three minutes on two cores. One double and one single
block of FLUX.1's width with random weights go through the host's own loading code in each format, as in a user's file,
and single layers of them are compared with a float32 computation: as they are, with the mixture merged and with it
added at run time.

GGUF needs ComfyUI-GGUF, in the host's custom_nodes or at LORWEB_GGUF_PATH, and the Python package gguf that it needs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from uuid import uuid4

from environment import run_in_host

if TYPE_CHECKING:
    from torch import Tensor

Weights = dict[str, "Tensor"]


class NotHere(Exception):
    """Report that this host or environment lacks a format; the message says what is missing."""


@dataclass(frozen=True)
class Errors:
    """Hold the relative errors of one format, each the mean over LAYERS of ‖y − y*‖ / ‖y*‖."""

    base: float
    """Without a mixture, against W x: what the format itself costs."""
    output: dict[str, float]
    """Method → error of the whole output, against W x + ΔW x."""
    change: dict[str, float]
    """Method → error of what the mixture changed, output with it − output without it, against ΔW x."""


LAYERS = {
    "double_blocks.0.img_attn.qkv": tuple(f"transformer_blocks.0.attn.to_{name}" for name in "qkv"),
    "double_blocks.0.img_attn.proj": ("transformer_blocks.0.attn.to_out.0",),
    "double_blocks.0.img_mlp.2": ("transformer_blocks.0.ff.net.2",),
    "single_blocks.0.modulation.lin": ("single_transformer_blocks.0.norm.linear",),
}
"""What is measured: the host's Linear → the basis's layers that are its rows, in order."""


def run(comfyui: Path) -> None:
    import torch
    from host_process import FLUX_1, load_pack

    methods, rows = ["merge", "runtime"], []
    with tempfile.TemporaryDirectory() as base, torch.inference_mode():
        host = load_pack(comfyui, Path(base))
        weights = random_flux({**FLUX_1, "depth": 1, "depth_single_blocks": 1})
        mixture = random_mixture(host, 3072, Path(base, "basis.safetensors"))
        layers = expect(weights, mixture)
        for name, load in FORMATS.items():
            try:
                rows.append((name, measure(host, load(weights, host.models), layers, mixture, methods)))
                print(*rows[-1], flush=True)
            except NotHere as missing:
                print(f"{name}: not measured, {missing}", flush=True)
    import comfyui_version

    share = statistics.mean((layer.change.norm() / layer.output.norm()).item() for layer in layers.values())
    print(f"\nThe mixture is {share:.1%} of the output. ", end="")
    print(f"torch {torch.__version__}, ComfyUI {comfyui_version.__version__}.\n")
    print(table(rows, methods))


def table(rows: list[tuple[str, Errors]], methods: list[str]) -> str:
    """Format the errors as a table in Markdown."""
    heads = ["format", "base", *(f"{what}: {method}" for what in ("output", "change") for method in methods)]
    lines = [heads, ["---"] * len(heads)]
    for name, errors in rows:
        figures = [errors.base, *(errors.output[m] for m in methods), *(errors.change[m] for m in methods)]
        lines.append([name, *(f"{float(f'{100 * figure:.2g}'):g} %" for figure in figures)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def random_flux(config: dict, seed: int = 0) -> Weights:
    """Draw a FLUX in the host's layout: LAYERS in float32, to be quantized, the rest in bfloat16 as in files.

    Linears are normal and keep a vector's size, their standard deviation (fan in)^-½: 0.018 and 0.009. Norms are 1,
    biases 0.
    """
    import torch
    from host_process import build_model

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, like in build_model("Flux", config).model.diffusion_model.state_dict().items():
        dtype = torch.float32 if name.removesuffix(".weight") in LAYERS else torch.bfloat16
        if like.ndim == 2:
            weights[name] = torch.empty(like.shape, dtype=dtype).normal_(0, like.shape[1] ** -0.5, generator=generator)
        else:
            weights[name] = torch.full(like.shape, 1.0 if "norm" in name else 0.0, dtype=torch.bfloat16)
    return weights


def random_mixture(host: SimpleNamespace, hidden: int, path: Path, seed: int = 0):
    """Draw a mixture for LAYERS of a `random_flux`, from a basis saved to `path`; N = 32, r = 4, as published.

    ‖ΔW‖ is about 3 % of ‖W‖, usual for a LoRA that edits pictures. This decides what merging costs: what it loses is
    a share of W. With 32 coefficients from a softmax of normal logits Σ c² is about e / 32.
    """
    import standins
    import torch
    from safetensors.torch import save_file

    wanted = {name for names in LAYERS.values() for name in names}
    blocks = {
        block: {name: size for name, size in linears.items() if f"{block}.{name}" in wanted}
        for block, linears in standins.block_linears(hidden, 1, 1).items()
    }
    strength = 0.03 * (32 / (2.718 * 4)) ** 0.5
    save_file(standins.basis(blocks, n=32, rank=4, keys=128, query=2304, strength=strength, seed=seed), path)
    return host.core.load_basis(path).route(torch.randn(2304, generator=torch.Generator().manual_seed(seed)))


@dataclass(frozen=True)
class Expected:
    """Hold what is expected of one of LAYERS in float32: x (1, tokens, in), W x and ΔW x (1, tokens, out)."""

    input: Tensor
    output: Tensor
    change: Tensor


def expect(weights: Weights, mixture, tokens: int = 64) -> dict[str, Expected]:
    """Compute what LAYERS give for normal inputs in bfloat16, with ΔW summed up apart from the code that is measured.

    bfloat16 inputs make a layer compute as on a GPU. There the fast kernels of some hosts quantize the inputs of fp8
    and fp4 layers too; on the CPU only those of int8 and convrot layers are.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    layers = {}
    for layer, rows in LAYERS.items():
        delta = []
        for name in (f"transformer.{row}" for row in rows):
            part, coefficients = mixture.basis.layers[name], mixture.coefficients[name]
            scaled = part.B.float() * (part.scale * coefficients)[:, None, None]
            delta.append(torch.tensordot(scaled, part.A.float(), dims=([0, 1], [0, 2])))
        weight = weights[f"{layer}.weight"].float()
        x = torch.randn(1, tokens, weight.shape[1], generator=generator).bfloat16()
        layers[layer] = Expected(x, x.float() @ weight.T, x.float() @ torch.cat(delta).T)
    return layers


def measure(host: SimpleNamespace, model, layers: dict[str, Expected], mixture, methods: list[str]) -> Errors:
    """Measure the errors of `model`, which holds the weights that `layers` was made of in some format."""
    base = outputs(model, layers)
    found = {method: outputs(host.apply.apply_mixture(model, mixture, method=method), layers) for method in methods}
    return Errors(
        base=mean_error(base, {at: layer.output for at, layer in layers.items()}),
        output={
            method: mean_error(y, {at: layer.output + layer.change for at, layer in layers.items()})
            for method, y in found.items()
        },
        change={
            method: mean_error({at: y[at] - base[at] for at in y}, {at: layer.change for at, layer in layers.items()})
            for method, y in found.items()
        },
    )


def outputs(model, layers: dict[str, Expected]) -> dict[str, Tensor]:
    """Compute each of LAYERS by itself, float32, with the model loaded and patched by the host, and unloaded again.

    They run within the wrappers that the host has around the forward pass, in the place of that.
    """
    import comfy.model_management
    import torch
    from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

    flux = model.model.diffusion_model

    def run(*inputs, **options) -> dict[str, Tensor]:
        return {at: flux.get_submodule(at)(layer.input).float() for at, layer in layers.items()}

    comfy.model_management.load_models_gpu([model])
    wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, {"wrappers": model.wrappers})
    one = torch.zeros(1, 1, 1)
    found = WrapperExecutor.new_class_executor(run, flux, wrappers).execute(one, one, one, None, None, None, None, {})
    comfy.model_management.unload_all_models()
    return found


def mean_error(found: dict[str, Tensor], target: dict[str, Tensor]) -> float:
    return statistics.mean(((found[at] - y).norm() / y.norm()).item() for at, y in target.items())


def load_cast(weights: Weights, folder: Path, kind: str):
    """Load a file in this dtype, or for fp8 one in bfloat16 with it as Load Diffusion Model's `weight_dtype`."""
    import comfy.sd
    import torch

    dtype = getattr(torch, kind)
    file = {name: t.to(dtype if dtype.itemsize > 1 else torch.bfloat16) for name, t in weights.items()}
    return comfy.sd.load_diffusion_model_state_dict(file, model_options={"dtype": dtype})


def load_scaled_fp8(weights: Weights, folder: Path):
    """Load a file like flux1-dev-kontext_fp8_scaled: a scale_weight beside each weight, and a mark for the file."""
    import comfy.sd
    import torch

    file = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    for name, t in weights.items():
        if t.dtype == torch.float32:
            scale = t.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            file[name.removesuffix("weight") + "scale_weight"] = scale
            file[name] = (t / scale).to(torch.float8_e4m3fn)
        else:
            file[name] = t
    return comfy.sd.load_diffusion_model_state_dict(file)


def load_host_format(weights: Weights, folder: Path, algorithm: str, **options):
    """Load a file in a format of comfy/quant_ops.py: each weight in its layout, with a `comfy_quant` that names it."""
    import comfy.sd
    import torch
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    if algorithm not in QUANT_ALGOS:
        raise NotHere(f"this ComfyUI has no {algorithm}.")
    layout = QUANT_ALGOS[algorithm]["comfy_tensor_layout"]
    described = json.dumps({"format": algorithm, "convrot": options.get("convrot", False)})
    mark = torch.tensor(list(described.encode()), dtype=torch.uint8)
    file = {}
    for name, t in weights.items():
        if t.dtype == torch.float32:
            file.update(QuantizedTensor.from_float(t, layout, **options).state_dict(name))
            file[name.removesuffix("weight") + "comfy_quant"] = mark
        else:
            file[name] = t
    return comfy.sd.load_diffusion_model_state_dict(file)


def load_gguf(weights: Weights, folder: Path, kind: str):
    """Load a file of the package gguf, which cannot write the K formats, through Unet Loader (GGUF)."""
    loader = gguf_loader()
    import gguf
    import torch

    path = folder / "diffusion_models" / f"{kind}-{uuid4().hex}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "flux")
    for name, t in weights.items():
        type_ = gguf.GGMLQuantizationType[kind if t.dtype == torch.float32 else "F16" if t.ndim == 2 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(t.float().numpy(), type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (model,) = loader().load_unet(path.name)
    return model


def gguf_loader() -> type:
    """Load ComfyUI-GGUF's node as the host loads custom nodes. Raises NotHere where it cannot be."""
    import nodes

    if "UnetLoaderGGUF" not in nodes.NODE_CLASS_MAPPINGS:
        places = [Path(given)] if (given := os.environ.get("LORWEB_GGUF_PATH")) else _custom_nodes("comfyui-gguf")
        if not places:
            raise NotHere("ComfyUI-GGUF is neither in the host's custom_nodes nor at LORWEB_GGUF_PATH.")
        if importlib.util.find_spec("gguf") is None:
            raise NotHere("the Python package gguf is not installed.")
        if not asyncio.run(nodes.load_custom_node(str(places[0]))):
            raise NotHere(f"the host could not load {places[0]}.")
    return nodes.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]


def _custom_nodes(name: str) -> list[Path]:
    import nodes

    folder = Path(nodes.__file__).parent / "custom_nodes"
    return [place for place in folder.glob("*") if place.name.lower() == name]


FORMATS: dict[str, Callable[[Weights, Path], object]] = {
    "bfloat16": partial(load_cast, kind="bfloat16"),
    "float16": partial(load_cast, kind="float16"),
    "fp8_e4m3fn": partial(load_cast, kind="float8_e4m3fn"),
    "fp8_e5m2": partial(load_cast, kind="float8_e5m2"),
    "fp8 scaled": load_scaled_fp8,
    "fp8 scaled, newer files": partial(load_host_format, algorithm="float8_e4m3fn", scale="recalculate"),
    "mxfp8": partial(load_host_format, algorithm="mxfp8"),
    "nvfp4": partial(load_host_format, algorithm="nvfp4"),
    "int8": partial(load_host_format, algorithm="int8_tensorwise"),
    "int8 convrot": partial(load_host_format, algorithm="int8_tensorwise", per_channel=True, convrot=True),
    "convrot_w4a4": partial(load_host_format, algorithm="convrot_w4a4"),
    "asym_w4a8_int8": partial(load_host_format, algorithm="asym_w4a8_int8"),
    "GGUF Q8_0": partial(load_gguf, kind="Q8_0"),
    "GGUF Q5_0": partial(load_gguf, kind="Q5_0"),
    "GGUF Q4_0": partial(load_gguf, kind="Q4_0"),
}
"""Name → a MODEL whose float32 weights are in that format. The path is a models folder, for files; NotHere may come."""


if __name__ == "__main__":
    run_in_host(__file__, run, "The formats are ComfyUI's, and need one.")
