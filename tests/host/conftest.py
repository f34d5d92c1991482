"""A real ComfyUI in this process, on the CPU, with the pack loaded as the host loads it: from its path."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import parity
import pytest
import torch
from environment import HOW_TO_GIVE_A_COMFYUI, ROOT, find_comfyui


@pytest.fixture(autouse=True)
def inference_mode():
    """As the host executes nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def comfyui() -> Path:
    found = find_comfyui()
    if found is None or os.environ.get("LORWEB_HOST_PYTHON") != sys.executable:
        pytest.skip(f"needs a ComfyUI and its Python: {HOW_TO_GIVE_A_COMFYUI}, then run tools/test.py")
    return found


@pytest.fixture(scope="session")
def host(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`host.node(id)` is a node's class, `host.core` the pack's own lorweb_core, `host.models` the models folder."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    base = tmp_path_factory.mktemp("comfyui")
    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.base_directory = str(base)
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(ROOT)))
    pack = nodes.NODE_CLASS_MAPPINGS["LoRWeBBasisLoader"].__module__.removesuffix(".nodes.basis_loader")

    def module(name: str) -> ModuleType:
        return sys.modules[f"{pack}.{name}"]

    (base / "models" / "lorweb").mkdir(parents=True)
    return SimpleNamespace(
        node=nodes.NODE_CLASS_MAPPINGS.__getitem__,
        core=module("lorweb_core"),
        apply_mixture=module("nodes.mixed_lora_apply").apply_mixture,
        encoder_from_clip_vision=module("nodes.analogy_encoder").encoder_from_clip_vision,
        models=base / "models",
    )


@pytest.fixture
def load_flux(host) -> Callable:
    """The fixture's small FLUX as a MODEL, its weights in the dtype asked for."""

    def load_flux(dtype: torch.dtype = torch.float32):
        import comfy.sd

        weights = {name[5:]: t.float() for name, t in parity.load_parity().items() if name.startswith("base.")}
        if dtype.itemsize == 1:
            weights = {name: t.to(dtype) for name, t in weights.items()}
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})

    return load_flux


@pytest.fixture
def mixture(host, tmp_path):
    """The fixture's basis, routed by its query; tanh gives coefficients of both signs."""
    return host.core.load_basis(parity.write_checkpoint(tmp_path, "tanh_sum_4")).route(parity.load_parity()["query"])
