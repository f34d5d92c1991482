"""The memory that a fit is told to take, by FLUX's real geometry."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lorweb_core import LoRWebError
from lorweb_core.fitting.memory import FitMemory, estimate_fit
from lorweb_core.fitting.settings import FitSettings
from lorweb_core.grid import Size
from lorweb_core.training.memory import describe_sizes

DOUBLE = {
    **dict.fromkeys(("norm1.linear", "norm1_context.linear"), (3072, 6 * 3072)),
    **dict.fromkeys((f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out")), (3072, 3072)),
    **dict.fromkeys((f"attn.add_{name}_proj" for name in "qkv"), (3072, 3072)),
    **dict.fromkeys(("ff.net.0.proj", "ff_context.net.0.proj"), (3072, 4 * 3072)),
    **dict.fromkeys(("ff.net.2", "ff_context.net.2"), (4 * 3072, 3072)),
}
SINGLE = {
    "norm.linear": (3072, 3 * 3072),
    "proj_mlp": (3072, 4 * 3072),
    "proj_out": (5 * 3072, 3072),
    **dict.fromkeys((f"attn.to_{name}" for name in "qkv"), (3072, 3072)),
}
FLUX = {f"transformer.transformer_blocks.{i}.{name}": size for i in range(19) for name, size in DOUBLE.items()} | {
    f"transformer.single_transformer_blocks.{i}.{name}": size for i in range(38) for name, size in SINGLE.items()
}
"""FLUX.1's Linears within its blocks, 494."""


def released() -> SimpleNamespace:
    """The released basis: N = 32, r = 4."""

    def layer(fan_in: int, fan_out: int) -> SimpleNamespace:
        return SimpleNamespace(
            A=torch.empty(32, fan_in, 4, device="meta"), B=torch.empty(32, 4, fan_out, device="meta")
        )

    return SimpleNamespace(layers={name: layer(*size) for name, size in FLUX.items()})


def of_kontext(stored: float, converted: bool = True, cell: int = 512, **settings) -> FitMemory:
    base = SimpleNamespace(shapes=FLUX, dtype=torch.bfloat16)
    settings = FitSettings(megapixels=(2 * cell / 1024) ** 2, **settings)
    return estimate_fit(released(), base, settings, Size(cell, cell), 512, int(stored), converted)


def test_kontext_in_fp8_is_fitted_on_a_gpu_of_24_gb():
    needed = of_kontext(11.9e9)
    assert needed.total < 20e9  # of 25.8e9 bytes, beside what the allocator and the desktop take
    assert needed.basis == sum(2 * 32 * 4 * (fan_in + fan_out) for fan_in, fan_out in FLUX.values())
    # One block's weights in 16 bits: 24 squares of the width in a double block, without modulation.
    assert needed.base == 11.9e9 + 2 * 24 * 3072**2
    assert of_kontext(6.8e9).total < 15e9  # a GGUF of 4 bits, on a GPU of 16 GB
    assert of_kontext(23.8e9, converted=False).base == 23.8e9


def test_less_is_needed_with_checkpoints_smaller_grids_and_one_noise_at_a_time():
    needed = of_kontext(11.9e9)
    assert of_kontext(11.9e9, checkpointing=False).total > 3 * needed.total
    # 1024 tokens of b', 4096 of the references and 512 of text; a quarter of the former two at 256 pixels.
    assert of_kontext(11.9e9, cell=256).activations / needed.activations == pytest.approx(1792 / 5632, rel=1e-6)
    assert of_kontext(11.9e9, together=4).activations == pytest.approx(4 * needed.activations, rel=1e-6)


def test_too_little_room_is_said_of_gpus_alone(monkeypatch):
    needed = of_kontext(11.9e9)
    needed.check_room(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000, 16_000_000_000))
    with pytest.raises(LoRWebError, match=r"needs about 1\d.\d GB .*activations\), and cuda has 16.0 GB.*fp8"):
        needed.check_room(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000, 25_000_000_000))
    needed.check_room(torch.device("cuda"))


def test_sizes_are_said_together_and_each():
    assert describe_sizes({"one": 1_500_000_000, "two": 200_000_000}) == "1.7 GB of memory (1.5 for one, 0.2 for two)"
