"""Coefficients against the published formula, written out in plain Python floats."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import standins
import torch
from hypothesis import given, settings

from lorweb_core import LoRWebError, load_basis
from lorweb_core.routing import mixing_coefficients

BLOCKS = standins.block_linears(hidden=16, doubles=1, singles=1)


def by_hand(queries: list, keys: list, heads: int, softmax: bool, reduction: str) -> list[float]:
    d = len(keys[0]) // heads
    totals = [0.0] * len(keys)
    for query in queries:
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            logits = [sum(x * y for x, y in zip(query[part], key[part])) / math.sqrt(d) for key in keys]
            if softmax:
                exps = [math.exp(logit - max(logits)) for logit in logits]
                scores = [e / sum(exps) for e in exps]
            else:
                scores = [math.tanh(logit) for logit in logits]
            totals = [total + score for total, score in zip(totals, scores)]
    if reduction == "mean":
        return [total / (heads * len(queries)) for total in totals]
    return [min(max(total, 0.0 if softmax else -1.0), 1.0) for total in totals]


@settings(max_examples=60)
@given(
    t=st.integers(1, 3),
    n=st.integers(1, 6),
    heads=st.integers(1, 4),
    d=st.integers(1, 5),
    softmax=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_coefficients_follow_the_formula(t, n, heads, d, softmax, reduction, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(t, heads * d, generator=generator) * scale
    keys = torch.randn(n, heads * d, generator=generator)
    expected = by_hand(query.tolist(), keys.tolist(), heads, softmax, reduction)
    got = mixing_coefficients(query, keys, heads, softmax, reduction)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_layers_routed_together_equal_layers_routed_alone():
    query, keys = torch.randn(5, 2, 12), torch.randn(5, 7, 12)
    together = mixing_coefficients(query, keys, 3, True, "sum")
    alone = [mixing_coefficients(q, k, 3, True, "sum") for q, k in zip(query, keys)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_basis_routes_every_layer_with_its_own_projection_and_keys(weights, save, heads, softmax, reduction):
    settings = {"lora_heads": heads, "lora_softmax": softmax, "mixing_coeffs_type": reduction}
    query = torch.randn(1, 3, 4)
    mixture = load_basis(save(weights, **settings)).route(query)
    assert set(mixture.coefficients) == {key.removesuffix(".lora_A") for key in weights if key.endswith(".lora_A")}
    for layer, coefficients in mixture.coefficients.items():
        projection = weights[f"{layer}.att_lora_to_q.weight"].double()
        projected = (projection @ query.double().flatten()).tolist()
        expected = by_hand([projected], weights[f"{layer}.lora_keys"].tolist(), heads, softmax, reduction)
        torch.testing.assert_close(coefficients, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_query_shapes_mean_the_same(weights, save):
    basis, query = load_basis(save(weights)), torch.randn(12)
    shaped = [basis.route(q).coefficients for q in (query, query.view(3, 4), query.view(1, 3, 4))]
    for layer in basis.layers:
        assert torch.equal(shaped[0][layer], shaped[1][layer])
        assert torch.equal(shaped[0][layer], shaped[2][layer])


@pytest.mark.parametrize("together", [4096, 5])
def test_several_analogies_are_routed_as_each_alone(weights, save, together, monkeypatch):
    monkeypatch.setattr("lorweb_core.basis._ROWS", together)
    basis, queries = load_basis(save(weights, lora_heads=2)), torch.randn(5, 3, 4)
    mixture = basis.route(queries)
    for i, query in enumerate(queries):
        for layer, coefficients in basis.route(query).coefficients.items():
            assert mixture.coefficients[layer].shape == (5, 4)
            torch.testing.assert_close(mixture.coefficients[layer][i], coefficients)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("projected", [True, False])
def test_every_token_of_a_patch_mode_is_a_query_of_its_own(save, projected, reduction):
    weights = standins.basis(BLOCKS, n=4, rank=2, keys=12, query=12)
    if not projected:
        weights = {name: t for name, t in weights.items() if "att_lora_to_q" not in name}
    basis = load_basis(save(weights, lora_softmax=False, mixing_coeffs_type=reduction, lora_heads=3))
    tokens = torch.randn(2, 7, 12)
    mixture = basis.route(tokens)
    for layer, coefficients in mixture.coefficients.items():
        projection = weights[f"{layer}.att_lora_to_q.weight"].double() if projected else torch.eye(12).double()
        keys = weights[f"{layer}.lora_keys"].tolist()
        expected = [by_hand((t.double() @ projection.T).tolist(), keys, 3, False, reduction) for t in tokens]
        torch.testing.assert_close(coefficients, torch.tensor(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(basis.route(tokens[0]).coefficients[layer], coefficients[0])


def test_an_activation_routed_basis_takes_no_query_and_others_need_one(weights, save):
    routed_inside = load_basis(save(standins.basis(BLOCKS, n=4, rank=2, keys=8, query=None), name="inside"))
    assert routed_inside.route(None).coefficients == {}
    with pytest.raises(LoRWebError, match=r"inside\.safetensors is routed by each layer's own input.*no query"):
        routed_inside.route(torch.randn(12))
    with pytest.raises(LoRWebError, match=r"basis\.safetensors is routed by images.*cat-aa'b"):
        load_basis(save(weights)).route(None)


def test_coefficients_that_are_not_finite_are_named_by_their_layer(weights, save):
    layer = "transformer.transformer_blocks.0.attn.to_v"
    weights = {name: t.float() for name, t in weights.items()}
    weights[f"{layer}.att_lora_to_q.weight"].fill_(1e30)
    with pytest.raises(LoRWebError, match=f"coefficients of layer {layer} have NaN"):
        load_basis(save(weights)).route(torch.full((12,), 1e30))


@pytest.mark.parametrize("shape", [(2, 3, 5), (0, 3, 4), (1, 1, 3, 4), (), (13,), (3, 0)])
def test_queries_of_no_known_shape(weights, save, shape):
    with pytest.raises(LoRWebError, match=r"basis\.safetensors takes 12"):
        load_basis(save(weights)).route(torch.randn(shape))
