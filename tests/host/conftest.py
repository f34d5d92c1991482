"""Host tests run inside a real ComfyUI, by its Python; tools/test.py starts them so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import parity
import pytest
import quantized
import standins
import torch
from environment import HOW_TO_GIVE_A_COMFYUI, find_comfyui
from host_process import FLUX_1
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SMALL_FLUX = {**FLUX_1, "hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "context_in_dim": 64}


@pytest.fixture(autouse=True)
def inference_mode():
    """Run tests in inference mode, as the host executes nodes."""
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
    """Load the host into this process with the pack in it: see host_process.load_pack."""
    from host_process import load_pack

    return load_pack(comfyui, tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="module")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory):
    """Run a ComfyUI of its own, with the stand-ins' models and pictures."""
    from comfy_server import ComfyServer

    base = tmp_path_factory.mktemp("server")
    standins.comfy_models(base / "models")
    standins.save_pictures(base / "input")
    with ComfyServer(comfyui, sys.executable, base) as server:
        yield server


@pytest.fixture
def basis(host, tmp_path: Path) -> Callable:
    """Load a small basis for queries of this width, None for the layers' own inputs, with these settings."""

    def basis(query: int | None = 72, **settings):
        path = tmp_path / f"basis{query}.safetensors"
        blocks = standins.block_linears(hidden=16, doubles=1, singles=1)
        save_file(standins.basis(blocks, n=4, rank=2, keys=8, query=query), path)
        config = {"config": {"process": [{"network": {"network_kwargs": settings}}]}}
        path.with_suffix(".yaml").write_text(json.dumps(config))
        return host.core.load_basis(path)

    return basis


@pytest.fixture
def load_flux(host) -> Callable:
    """Load the fixture's small FLUX as a MODEL, its weights in the dtype asked for."""

    def load_flux(dtype: torch.dtype = torch.float32):
        import comfy.sd

        weights = {name[5:]: t.float() for name, t in parity.load_parity().items() if name.startswith("base.")}
        if dtype.itemsize == 1:
            weights = {name: t.to(dtype) for name, t in weights.items()}
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})

    return load_flux


@pytest.fixture
def in_format(host) -> Callable:
    """A small FLUX as a MODEL in the format asked for, all Linears of its blocks; always of the same weights."""

    def load(name: str):
        weights = {
            key: t.float() if "blocks." in key and t.ndim == 2 else t
            for key, t in quantized.random_flux(SMALL_FLUX).items()
        }
        try:
            return quantized.FORMATS[name](weights, host.models)
        except quantized.NotHere as missing:
            pytest.skip(str(missing))

    return load


@pytest.fixture
def clip_vision(host, tmp_path):
    """The query fixture's CLIP tower as the host's CLIP_VISION; `width` widens its embedding."""
    import comfy.clip_vision

    query = Path(parity.FILE).with_name("query.safetensors")

    def clip_vision(width: int = 24):
        with safe_open(query, "pt") as file:
            config = json.loads(file.metadata()["clip_config"]) | {"projection_dim": width}
        (tmp_path / "clip.json").write_text(json.dumps(config))
        model = comfy.clip_vision.ClipVisionModel(str(tmp_path / "clip.json"))
        weights = {name[5:]: t for name, t in load_file(query).items() if name.startswith("clip.")}
        weights["visual_projection.weight"] = weights["visual_projection.weight"].repeat(width // 24 + 1, 1)[:width]
        missing, _ = model.load_sd(weights)
        assert not missing
        return model

    return clip_vision


@pytest.fixture
def vae(host):
    import comfy.sd

    return comfy.sd.VAE(sd=standins.autoencoder())


@pytest.fixture
def mixture(host, tmp_path):
    """Route the fixture's basis by its query; tanh gives coefficients of both signs."""
    return host.core.load_basis(parity.write_checkpoint(tmp_path, "tanh_sum_4")).route(parity.load_parity()["query"])


@pytest.fixture
def velocity(host, monkeypatch):
    """Predict the velocity for the fixture's inputs with a MODEL, loaded and patched by the host."""
    import comfy.ldm.flux.model
    import comfy.model_management

    def timestep_embedding(t, dim, max_period=10000, time_factor=1000.0):
        angles = (time_factor * t)[:, None].float() * parity.fixture_frequencies()
        return torch.cat([angles.cos(), angles.sin()], -1)

    # The fixtures' machine rounded seven of these 128 frequencies otherwise: see parity.fixture_frequencies.
    monkeypatch.setattr(comfy.ldm.flux.model, "timestep_embedding", timestep_embedding)
    inputs = parity.load_parity()

    def velocity(model, text: str = "txt", load: bool = True) -> torch.Tensor:
        if load:
            comfy.model_management.load_models_gpu([model])
        with torch.no_grad():
            return model.model.diffusion_model(
                inputs["latent"],
                torch.tensor([0.6]),
                inputs[text].float(),
                inputs["pooled"],
                torch.tensor([2.5]),
                ref_latents=[inputs["reference"]],
                transformer_options={"wrappers": model.wrappers},  # as the host's sampler passes them on
            )

    return velocity


@pytest.fixture
def low_vram(host, monkeypatch):
    """Until the test ends, the host takes the CPU for a GPU without free memory: weights are cast as they are used."""
    import comfy.model_management

    def low_vram() -> None:
        comfy.model_management.unload_all_models()
        monkeypatch.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
        monkeypatch.setattr(comfy.model_management, "vram_state", comfy.model_management.VRAMState.NO_VRAM)

    return low_vram
