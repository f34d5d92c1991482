from __future__ import annotations

import math

import parity
import pytest
import torch
from host_process import FLUX_1, build_model

LAYER = "transformer.transformer_blocks.0.attn.to_k"  # which the host fuses with q and v
KEY = "diffusion_model.double_blocks.0.img_attn.qkv.weight"


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.model.state_dict().items()}


def patched_weight(model, key: str = KEY) -> torch.Tensor:
    """The weight as the host computes it from the patches on it."""
    return model.patch_weight_to_device(key, torch.device("cpu"), return_weight=True).float()


def dense_delta(coefficients: torch.Tensor, layer: str = LAYER) -> torch.Tensor:
    A, B = (parity.load_parity()[f"ckpt.{layer}.lora_{name}"].double() for name in "AB")
    return sum(c * (a @ b).T for c, a, b in zip(coefficients.double(), A, B)).float()


def test_the_base_model_agrees_with_the_fixture(velocity, load_flux):
    assert parity.relative_error(velocity(load_flux()), parity.load_parity()["velocity.base"]) < 1e-5


@pytest.mark.parametrize("case", parity.CASES)
def test_the_published_output_for_every_routing(host, velocity, load_flux, tmp_path, case):
    basis = host.core.load_basis(parity.write_checkpoint(tmp_path, case))
    patched = host.apply.apply_mixture(load_flux(), basis.route(parity.load_parity()["query"]))
    assert parity.relative_error(velocity(patched), parity.load_parity()[f"velocity.{case}"]) < 1e-5


def test_the_published_output_with_weights_patched_as_they_are_used(host, velocity, load_flux, mixture):
    """The host's low-VRAM path: nothing is resident, each layer patches its weight in the forward pass."""
    patched = host.apply.apply_mixture(load_flux(), mixture)
    patched.load(torch.device("cpu"), lowvram_model_memory=1)
    assert patched.model.diffusion_model.double_blocks[0].img_attn.qkv.weight_function
    assert parity.relative_error(velocity(patched, load=False), parity.load_parity()["velocity.tanh_sum_4"]) < 1e-5
    patched.detach()


def test_patches_survive_the_hosts_prefetch(host, load_flux, mixture):
    """Dynamic VRAM gathers a patch's tensors in one buffer and rebuilds the adapter from it."""
    from comfy.model_patcher import LowVramPatch

    patch = LowVramPatch(KEY, host.apply.apply_mixture(load_flux(), mixture, 0.5).patches)
    if not hasattr(patch, "prepare"):
        pytest.skip("this ComfyUI has no prefetch of patches")
    weight = torch.randn(384, 128)
    plain = patch(weight.clone())
    patch.prepare(torch.empty(patch.memory_required(), dtype=torch.uint8), None)
    assert patch.prepared_patches[0][1] is not patch.patches[KEY][0][1]
    assert torch.equal(patch(weight.clone()), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_the_patch_is_exact_to_the_weights_own_rounding_and_goes_without_a_trace(host, load_flux, mixture, dtype):
    import comfy.model_management

    model = load_flux(dtype)
    before = weights_of(model)
    assert before[KEY].dtype == dtype
    expected = before[KEY].float().clone()
    expected[128:256] += 0.7 * dense_delta(mixture.coefficients[LAYER])
    for name, rows in (("q", slice(0, 128)), ("v", slice(256, 384))):
        layer = LAYER.replace("to_k", f"to_{name}")
        expected[rows] += 0.7 * dense_delta(mixture.coefficients[layer], layer)
    patched = host.apply.apply_mixture(model, mixture, 0.7, "merge")
    comfy.model_management.load_models_gpu([patched])
    loaded = patched.model.state_dict()[KEY]
    assert loaded.dtype == dtype
    # One step of the dtype, which the host rounds to at random, over an arithmetic in float32.
    step = torch.finfo(dtype).eps * expected.abs() + torch.finfo(dtype).eps * torch.finfo(dtype).smallest_normal
    assert ((loaded.float() - expected).abs() <= step + 1e-6).all()
    comfy.model_management.unload_all_models()
    assert not [name for name, t in model.model.state_dict().items() if not torch.equal(t, before[name])]


def test_scaled_fp8_weights_are_patched_through_the_hosts_own_requantization(host, load_flux, mixture, velocity):
    """The layout of flux1-dev-kontext_fp8_scaled: float8 weights, each with a scale."""
    import comfy.sd

    weights = {}
    for name, t in load_flux().model.diffusion_model.state_dict().items():
        if "blocks" in name and name.endswith(".weight") and t.ndim == 2:
            scale = t.abs().max() / 448
            weights[name.replace(".weight", ".scale_weight")] = scale
            t = (t / scale).to(torch.float8_e4m3fn)
        weights[name] = t
    weights["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    before = velocity(model)
    assert parity.relative_error(before, parity.load_parity()["velocity.base"]) < 0.05
    patched = velocity(host.apply.apply_mixture(model, mixture, method="merge"))
    # 0.10 measured, by the host's random rounding to 3 bits of mantissa; the base is 1.14 away.
    assert parity.relative_error(patched, parity.load_parity()["velocity.tanh_sum_4"]) < 0.2
    assert torch.equal(velocity(model), before)


def test_bfloat16_arithmetic_of_the_low_vram_path(host, load_flux, mixture):
    from comfy.model_patcher import LowVramPatch

    weight = torch.randn(384, 128, dtype=torch.bfloat16)
    patch = LowVramPatch(KEY, host.apply.apply_mixture(load_flux(), mixture).patches)
    exact = patch(weight.float())
    assert parity.relative_error(patch(weight.clone()).float(), exact) < 2**-8


def test_the_incoming_model_is_untouched_and_the_basis_shared(host, load_flux, mixture):
    model = load_flux()
    before = weights_of(model)
    patched = host.apply.apply_mixture(model, mixture)
    assert not model.patches
    assert not [name for name, t in model.model.state_dict().items() if not torch.equal(t, before[name])]
    adapters = [patch[1] for patches in patched.patches.values() for patch in patches]
    assert len(adapters) == len(mixture.basis.layers)
    shared = {id(layer.A) for layer in mixture.basis.layers.values()}
    assert all(id(adapter.weights[0]) in shared for adapter in adapters)


@pytest.mark.parametrize("strength", [1.0, 0.3, -1.5])
def test_strength_scales_the_delta(host, load_flux, mixture, strength):
    model = load_flux()
    expected = model.model.state_dict()[KEY][128:256] + strength * dense_delta(mixture.coefficients[LAYER])
    torch.testing.assert_close(patched_weight(host.apply.apply_mixture(model, mixture, strength))[128:256], expected)


def test_strength_0_patches_nothing(host, load_flux, mixture):
    assert not host.apply.apply_mixture(load_flux(), mixture, 0.0).patches


@pytest.mark.parametrize("order", ["lora first", "lora last"])
def test_it_chains_with_itself_and_with_load_lora(host, load_flux, tmp_path, order):
    """Two analogies and an ordinary LoRA add up, in any order."""
    import comfy.sd

    basis = host.core.load_basis(parity.write_checkpoint(tmp_path, "softmax_mean_1"))
    first, second = basis.route(torch.randn(48)), basis.route(torch.randn(48))
    down, up = torch.randn(3, 128), torch.randn(128, 3)
    lora = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
    model = load_flux()

    def load_lora(model):
        return comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0.0)[0]

    def analogies(model):
        return host.apply.apply_mixture(host.apply.apply_mixture(model, first), second, -0.5)

    patched = analogies(load_lora(model)) if order == "lora first" else load_lora(analogies(model))
    expected = model.model.state_dict()[KEY][128:256] + 0.5 * up @ down
    expected += dense_delta(first.coefficients[LAYER]) - 0.5 * dense_delta(second.coefficients[LAYER])
    torch.testing.assert_close(patched_weight(patched)[128:256], expected, rtol=1e-5, atol=1e-5)


def test_a_model_with_fewer_blocks_is_refused_whole(host, load_flux, tmp_path):
    import standins
    from safetensors.torch import save_file

    save_file(standins.basis(standins.block_linears(128, 1, 2), 2, 1, 4, 6), tmp_path / "deeper.safetensors")
    deeper = host.core.load_basis(tmp_path / "deeper.safetensors").route(torch.zeros(6))
    model = load_flux()
    with pytest.raises(host.core.LoRWebError, match=r"deeper\.safetensors.*single_transformer_blocks\.1"):
        host.apply.apply_mixture(model, deeper)
    assert not model.patches


def test_a_model_of_another_width_is_refused(host, load_flux, tmp_path):
    import standins
    from safetensors.torch import save_file

    save_file(standins.basis(standins.block_linears(256, 1, 1), 2, 1, 4, 6), tmp_path / "wider.safetensors")
    wider = host.core.load_basis(tmp_path / "wider.safetensors").route(torch.zeros(6))
    with pytest.raises(host.core.LoRWebError, match=r"maps 256 to 256 values in wider\.safetensors, but 128 to 128"):
        host.apply.apply_mixture(load_flux(), wider)


SDXL = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("SDXL", SDXL),
        (
            "Flux2",
            {
                **FLUX_1,
                "image_model": "flux2",
                "in_channels": 128,
                "out_channels": 128,
                "patch_size": 1,
                "axes_dim": [32, 32, 32, 32],
                "vec_in_dim": None,
                "global_modulation": True,
                "mlp_silu_act": True,
                "ops_bias": False,
                "theta": 2000,
                "txt_ids_dims": [3],
                "depth": 8,
                "depth_single_blocks": 8,
            },
        ),
    ],
)
def test_a_model_that_is_no_flux_1_is_named(host, mixture, name, config):
    with pytest.raises(host.core.LoRWebError, match=rf"is {name}, but tanh_sum_4.safetensors is a basis for FLUX\.1"):
        host.apply.apply_mixture(build_model(name, config), mixture)


@pytest.mark.parametrize("strength", [math.nan, math.inf])
def test_a_strength_that_is_no_number(host, load_flux, mixture, strength):
    with pytest.raises(host.core.LoRWebError, match="strength"):
        host.apply.apply_mixture(load_flux(), mixture, strength)


def test_an_unknown_method(host, load_flux, mixture):
    with pytest.raises(host.core.LoRWebError, match="'melt'.*auto, merge, runtime"):
        host.apply.apply_mixture(load_flux(), mixture, method="melt")


def test_a_basis_of_the_published_geometry_goes_onto_flux_1(host, tmp_path):
    """494 layers and 835,051,520 random values: loaded, routed, handed over, one layer of it computed."""
    import standins
    from safetensors.torch import save_file

    weights = standins.basis(standins.block_linears(3072, 19, 38), n=32, rank=4, keys=128, query=2304)
    assert sum(t.numel() for t in weights.values()) == 835_051_520
    save_file(weights, tmp_path / "full.safetensors")
    mixture = host.core.load_basis(tmp_path / "full.safetensors").route(torch.randn(1, 3, 768))
    patched = host.apply.apply_mixture(build_model("Flux", FLUX_1), mixture)
    assert sum(len(patches) for patches in patched.patches.values()) == 494
    layer = "transformer.single_transformer_blocks.37.attn.to_v"
    (patch,) = [
        p for p in patched.patches["diffusion_model.single_blocks.37.linear1.weight"] if p[3] == (0, 6144, 3072)
    ]
    delta = patch[1].calculate_weight(torch.zeros(3072, 3072), "", 1.0, 1.0, None, lambda d: d)
    A, B = (weights[f"{layer}.lora_{name}"].double() for name in "AB")
    expected = sum(c * (a @ b).T for c, a, b in zip(mixture.coefficients[layer].double(), A, B))
    assert parity.relative_error(delta.double(), expected) < 1e-5
    (tmp_path / "full.safetensors").unlink()
