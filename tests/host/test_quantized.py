"""FLUX in every format that this host loads, through its own loading code: tools/quantized.py makes the models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import quantized
import torch
from host_process import FLUX_1

SMALL = {**FLUX_1, "hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "context_in_dim": 64}

# Format → relative error of a layer's output, as it is and with a mixture of 2.5 % merged. Measured, rounded up. GGUF's
# weights stay as they are when merged: ComfyUI-GGUF adds the patches to what it unpacks in each forward pass.
ERRORS = {
    "bfloat16": (0.003, 0.004),
    "float16": (0.003, 0.003),
    "fp8_e4m3fn": (0.03, 0.045),
    "fp8_e5m2": (0.06, 0.08),
    "fp8 scaled": (0.03, 0.045),
    "fp8 scaled, newer files": (0.03, 0.045),
    "mxfp8": (0.03, 0.045),
    "nvfp4": (0.1, 0.2),
    "int8": (0.015, 0.025),
    "int8 convrot": (0.013, 0.018),
    "convrot_w4a4": (0.21, 0.23),
    "asym_w4a8_int8": (0.08, 0.11),
    "GGUF Q8_0": (0.007, 0.007),
    "GGUF Q5_0": (0.05, 0.05),
    "GGUF Q4_0": (0.095, 0.095),
}
ROUNDED_WHEN_MERGED = [name for name in ERRORS if name not in ("bfloat16", "float16") and "GGUF" not in name]

METHODS = ["merge", "runtime"]


@pytest.fixture
def mixture(host, tmp_path):
    return quantized.random_mixture(host, 256, tmp_path / "basis.safetensors")


@pytest.fixture
def load(host) -> Callable:
    """A small FLUX as a MODEL in the format asked for, all Linears of its blocks; and the weights it was made of."""

    def load(name: str):
        weights = {
            key: t.float() if "blocks." in key and t.ndim == 2 else t for key, t in quantized.random_flux(SMALL).items()
        }
        try:
            return quantized.FORMATS[name](weights, host.models), weights
        except quantized.NotHere as missing:
            pytest.skip(str(missing))

    return load


def velocity(model) -> torch.Tensor:
    """What the whole MODEL predicts, loaded and patched by the host."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    generator = torch.Generator().manual_seed(0)
    latent, text, pooled = (torch.randn(size, generator=generator) for size in ((1, 16, 8, 8), (1, 7, 64), (1, 768)))
    return model.model.diffusion_model(
        latent, torch.tensor([0.6]), text, pooled, torch.tensor([2.5]), [latent], None, {"wrappers": model.wrappers}
    )


def stored(model) -> dict[str, torch.Tensor]:
    """A copy of all that the weights are stored as, bit for bit: packed values and scales."""
    parts = {}
    for name, weight in model.model.named_parameters():
        # The host's QuantizedTensor tells its parts; ComfyUI-GGUF's tensor shows a shape that its bytes do not have.
        for part, t in weight.state_dict(name).items() if hasattr(weight, "_qdata") else [(name, weight)]:
            parts[part] = t.as_subclass(torch.Tensor).contiguous().flatten().view(torch.uint8).clone()
    return parts


def differing(model, weights: dict[str, torch.Tensor]) -> list[str]:
    """What is stored otherwise than in `weights`."""
    now = stored(model)
    assert now.keys() == weights.keys()
    return [name for name, t in now.items() if not torch.equal(t, weights[name])]


def test_every_format_is_tested():
    assert list(ERRORS) == list(quantized.FORMATS)


@pytest.mark.parametrize("name", ERRORS)
def test_the_error_of_a_layer_is_that_of_its_format(host, load, mixture, name):
    model, weights = load(name)
    errors = quantized.measure(host, model, quantized.expect(weights, mixture), mixture, METHODS)
    base, merged = ERRORS[name]
    assert errors.base < base
    assert errors.output["merge"] < merged
    # At run time nothing is lost but bfloat16's rounding of the output, 6.5 % of so small a change.
    assert errors.output["runtime"] < errors.base + 0.001
    assert errors.change["runtime"] < 0.07
    if name in ROUNDED_WHEN_MERGED:
        assert errors.change["merge"] > 5 * errors.change["runtime"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ERRORS)
def test_the_weights_and_the_base_output_are_there_again_afterwards(host, load, mixture, name, method):
    import comfy.model_management

    model, _ = load(name)
    weights, base = stored(model), velocity(model)
    patched = velocity(host.apply.apply_mixture(model, mixture, method=method))
    assert patched.isfinite().all()
    assert not torch.equal(patched, base)
    if method == "runtime":
        assert not differing(model, weights)
    comfy.model_management.unload_all_models()
    assert not differing(model, weights)
    assert torch.equal(velocity(model), base)


@pytest.mark.parametrize("name", ERRORS)
def test_auto_merges_into_16_bits_only(host, load, mixture, name):
    model, _ = load(name)
    patched = host.apply.apply_mixture(model, mixture)
    assert bool(patched.patches) == (name in ("bfloat16", "float16"))
