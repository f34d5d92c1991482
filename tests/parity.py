"""fixtures/parity.safetensors: what the method's published implementation computes in float32, and how to compare."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = Path(__file__).parent / "fixtures" / "parity.safetensors"

CASES = ("softmax_mean_1", "softmax_mean_4", "softmax_sum_4", "tanh_mean_2", "tanh_sum_4")
"""<activation>_<reduction>_<heads>; the expected output of each is `velocity.<case>`."""


@lru_cache(maxsize=1)
def load_parity() -> dict[str, Tensor]:
    """Load every tensor of the file by name; do not change them."""
    return load_file(FILE)


def write_checkpoint(folder: Path, case: str) -> Path:
    """Save the file's basis with the training YAML of one of CASES beside it; returns the checkpoint's path."""
    activation, reduction, heads = case.split("_")
    return _write(
        Path(folder, f"{case}.safetensors"),
        {name.removeprefix("ckpt."): t for name, t in load_parity().items() if name.startswith("ckpt.")},
        lora_heads=int(heads),
        lora_softmax=activation == "softmax",
        mixing_coeffs_type=reduction,
        external_query=True,
        query_mode="cat-aa'b",
    )


ACTIVATION_CASES = [(mode, pooling) for mode in ("aa'bb'", "caa'bb'", "caa'b", "caa'") for pooling in ("avg", "max")]
"""Query mode and pooling of an activation-routed basis; the expected output, with `txt512`, is
`velocity.activation.<mode>.<pooling>`."""


def write_activation_checkpoint(folder: Path, mode: str, pooling: str) -> Path:
    """Save the file's basis with the projections for queries of the layers' own input."""
    tensors = {name.removeprefix("ckpt."): t for name, t in load_parity().items() if name.startswith("ckpt.")}
    tensors |= {name.removeprefix("act."): t for name, t in load_parity().items() if name.startswith("act.")}
    path = Path(folder, f"{mode}.{pooling}.safetensors")
    return _write(path, tensors, external_query=False, query_mode=mode, pooling_type=pooling)


def _write(path: Path, tensors: dict[str, Tensor], **kwargs: object) -> Path:
    save_file(tensors, path)
    sizes = {"loras_num": 4, "lora_keys_dim": 12, "query_projection_type": "linear"}
    network = {"type": "lorweb", "linear": 2, "network_kwargs": {**sizes, **kwargs}}
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"config": {"process": [{"network": network}]}}))
    return path


def fixture_frequencies() -> Tensor:
    """Compute exp(-ln(10000) · i/128) in float32 as the machine that made the fixtures rounded it, (128,).

    Seven are not the nearest float32. At guidance 2.5 the embedding's angle is 2500 times these, so one such
    rounding is 1.5e-4 rad, and together they move the *base* model's output by 5e-6. The seven were found on
    `velocity.base` alone.
    """
    exponents = -torch.log(torch.tensor(10000.0)) * torch.arange(128, dtype=torch.float32) / 128
    nearest = exponents.double().exp().float()
    frequencies = nearest.clone()
    frequencies[[12, 75]] = nearest[[12, 75]].nextafter(torch.tensor(2.0))
    down = [53, 69, 71, 80, 82]
    frequencies[down] = nearest[down].nextafter(torch.tensor(0.0))
    return frequencies


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Compute ‖actual − expected‖ / ‖expected‖."""
    return ((actual - expected).norm() / expected.norm()).item()
