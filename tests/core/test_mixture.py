from __future__ import annotations

import torch
from safetensors.torch import save_file

from lorweb_core import load_basis
from lorweb_core.mixture import mixed_delta


def dense_delta(weights: dict, layer: str, coefficients: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    A, B = (weights[f"{layer}.lora_{name}"].double() for name in "AB")
    return scale * sum(c * (a @ b).T for c, a, b in zip(coefficients.double(), A, B))


def test_delta_is_the_weighted_sum_of_the_loras(weights, save):
    mixture = load_basis(save(weights)).route(torch.randn(12))
    for layer, coefficients in mixture.coefficients.items():
        delta = mixture.delta(layer)
        assert delta.dtype == torch.float32
        torch.testing.assert_close(delta.double(), dense_delta(weights, layer, coefficients), rtol=1e-5, atol=1e-6)


def test_alpha_scales_the_delta_and_a_missing_alpha_does_not(weights, save):
    layer = "transformer.transformer_blocks.0.attn.to_q"
    query = torch.randn(12)
    plain = load_basis(save(weights)).route(query)
    scaled = load_basis(save({**weights, f"{layer}.alpha": torch.tensor(6.0)})).route(query)
    torch.testing.assert_close(scaled.delta(layer), plain.delta(layer) * 6 / 2)
    other = "transformer.transformer_blocks.0.attn.to_k"
    assert torch.equal(scaled.delta(other), plain.delta(other))


def test_other_trainers_names_mean_the_same(weights, save):
    spelled = {k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): t for k, t in weights.items()}
    query = torch.randn(12)
    published, other = load_basis(save(weights)).route(query), load_basis(save(spelled, name="other")).route(query)
    for layer in published.coefficients:
        assert torch.equal(published.delta(layer), other.delta(layer))


def test_ranks_may_differ_between_layers(weights, save):
    layer = "transformer.transformer_blocks.0.ff.net.2"
    weights[f"{layer}.lora_A"], weights[f"{layer}.lora_B"] = torch.randn(4, 64, 5).half(), torch.randn(4, 5, 16).half()
    mixture = load_basis(save(weights)).route(torch.randn(12))
    expected = dense_delta(weights, layer, mixture.coefficients[layer])
    torch.testing.assert_close(mixture.delta(layer).double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_arithmetic_stays_at_its_own_rounding():
    A, B, c = torch.randn(32, 96, 4).half() / 10, torch.randn(32, 4, 80).half() / 10, torch.rand(32)
    exact = dense_delta({"x.lora_A": A, "x.lora_B": B}, "x", c)
    rough = mixed_delta(A, B, c, 1.0, torch.bfloat16).double()
    assert (rough - exact).norm() / exact.norm() < 4e-3  # three roundings of 2^-9 each, at random


def test_a_mixture_shares_the_basis(weights, save, tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        save_file({k: t.to(dtype) for k, t in weights.items()}, tmp_path / "typed.safetensors")
        basis = load_basis(tmp_path / "typed.safetensors")
        mixture = basis.route(torch.randn(12))
        assert mixture.basis is basis
        assert {mixture, basis.route(torch.randn(12))} - {mixture}  # hosts may keep mixtures as keys
        assert all(layer.A.dtype == dtype for layer in basis.layers.values())
        assert all(c.dtype == torch.float32 for c in mixture.coefficients.values())
