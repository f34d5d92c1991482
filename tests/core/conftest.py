from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import standins
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file

from lorweb_core import VisionEncoder

# The same examples every time, and nothing that depends on how fast a machine is.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("same")

BLOCKS = standins.block_linears(hidden=16, doubles=1, singles=1)


@pytest.fixture
def weights() -> dict:
    """Make a small basis in the published layout: N = 4, r = 2, D = 8, Q = 12."""
    return standins.basis(BLOCKS, n=4, rank=2, keys=8, query=12)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint, and beside it a training YAML if settings for one are given."""

    def save(weights: dict, linear: int | None = None, name: str = "basis", **network_kwargs) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(weights, path)
        if linear or network_kwargs:
            network = {"linear": linear, "network_kwargs": network_kwargs}
            path.with_suffix(".yaml").write_text(json.dumps({"config": {"process": [{"network": network}]}}))
        return path

    return save


@pytest.fixture
def encoder() -> VisionEncoder:
    """Make an image encoder of a few pixels' values, which counts the pictures of its passes in `passes`."""
    passes = []

    def tower(squares: torch.Tensor) -> torch.Tensor:
        passes.append(len(squares))
        return squares[:, :, :2, :2].flatten(1)[:, :4] * 3

    encoder = VisionEncoder(tower, 8)
    encoder.passes = passes
    return encoder
