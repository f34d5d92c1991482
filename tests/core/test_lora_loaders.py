"""What diffusers makes of an exported LoRA, against the mixture merged by the pack's own command line."""

from __future__ import annotations

import copy

import parity
import pytest
import torch

from lorweb_core import load_basis
from lorweb_core.export.lora_export import export_lora

pytest.importorskip("diffusers", reason="needs diffusers: pip install .[cli]")
pytest.importorskip("peft", reason="needs peft, by which diffusers loads LoRAs")

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file

from lorweb_core.diffusers_backend.pipeline import merge


@pytest.fixture
def mixture(tmp_path):
    return load_basis(parity.write_checkpoint(tmp_path, "tanh_sum_4")).route(parity.load_parity()["query"])


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    import json

    from safetensors import safe_open

    with safe_open(parity.FILE, "pt") as file:
        model = FluxTransformer2DModel(**json.loads(file.metadata()["cfg"]))
    model.load_state_dict({name[5:]: t for name, t in parity.load_parity().items() if name.startswith("base.")})
    return model.eval()


def velocity(transformer: FluxTransformer2DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(1, 16, 64, generator=generator),
            timestep=torch.tensor([0.6]),
            guidance=torch.tensor([2.5]),
            pooled_projections=parity.load_parity()["pooled"],
            encoder_hidden_states=parity.load_parity()["txt"].float(),
            txt_ids=torch.zeros(parity.load_parity()["txt"].shape[1], 3),
            img_ids=torch.zeros(16, 3),
        ).sample


def loaded(transformer: FluxTransformer2DModel, path) -> FluxTransformer2DModel:
    """A copy with the LoRA on it, as a pipeline loads it."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=copy.deepcopy(transformer),
    )
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    return pipeline.transformer


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("float16", 1e-3)])
def test_an_exact_export_gives_the_merged_models_output(transformer, mixture, tmp_path, dtype, limit):
    path = tmp_path / "lora.safetensors"
    export_lora(mixture, path, strength=0.8, dtype=dtype)
    merged = copy.deepcopy(transformer)
    merge(merged, mixture, strength=0.8)
    found = velocity(loaded(transformer, path))
    assert parity.relative_error(found, velocity(merged)) < limit
    assert parity.relative_error(found, velocity(transformer)) > 0.1


def test_a_file_of_many_ranks_adds_its_own_product(transformer, mixture, tmp_path):
    path = tmp_path / "lora.safetensors"
    report = export_lora(mixture, path, "error", error=0.3, dtype="float32")
    assert report.ranks[0] < report.ranks[1]
    tensors, expected = load_file(path), copy.deepcopy(transformer)
    for layer in report.layers:
        down, up = (tensors[f"{layer}.lora_{factor}.weight"] for factor in "AB")
        expected.get_submodule(layer.removeprefix("transformer.")).weight.data += up @ down
    assert parity.relative_error(velocity(loaded(transformer, path)), velocity(expected)) < 1e-5
