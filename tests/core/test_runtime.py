"""A mixture added in the forward pass, against the dense sum it stands for."""

from __future__ import annotations

from contextlib import nullcontext

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from lorweb_core import LoRABasis, LoRWebError, Mixture
from lorweb_core.checkpoint import BasisLayer
from lorweb_core.config import BasisConfig
from lorweb_core.routing import Tokens, token_query
from lorweb_core.runtime import LayerSlice, PackedBasis, RuntimeMixture

QKV = [f"transformer.transformer_blocks.0.attn.to_{name}" for name in "qkv"]


def a_basis(names: list[str], fan_in: int, fan_out: int, n: int, rank: int, **config: object) -> LoRABasis:
    layers = {
        name: BasisLayer(
            torch.randn(n, fan_in, rank), torch.randn(n, rank, fan_out), torch.randn(n, 4), torch.randn(4, fan_in), 0.5
        )
        for name in names
    }
    return LoRABasis(layers, BasisConfig(**config), ())


def attached(model: nn.Module, mixture: Mixture, pictures: int, strength: float = 1.0, references: int = 0):
    """Hook a mixture onto a Linear that computes all its layers, one after the other, as hosts fuse q, k and v."""
    sizes = [layer.B.shape[2] for layer in mixture.basis.layers.values()]
    parts = [LayerSlice(name, sum(sizes[:i])) for i, name in enumerate(mixture.basis.layers)]
    packed = PackedBasis(mixture.basis, {"0": parts}, model[0].weight.dtype)
    return RuntimeMixture(mixture, strength).attached(model, packed, pictures, Tokens(0, references))


def dense_delta(layer: BasisLayer, coefficients: torch.Tensor) -> torch.Tensor:
    factors = zip(coefficients.double(), layer.A.double(), layer.B.double())
    return layer.scale * sum(c * (a @ b).T for c, a, b in factors)


@settings(max_examples=30)
@given(
    n=st.integers(1, 5),
    rank=st.integers(1, 3),
    analogies=st.integers(1, 3),
    repeats=st.integers(1, 2),
    tokens=st.integers(0, 4),
    strength=st.sampled_from([1.0, -0.5, 3.0]),
)
def test_every_picture_gets_the_delta_of_its_own_analogy(n, rank, analogies, repeats, tokens, strength):
    """`repeats`: samplers lay the unconditional batch after the conditional one. 0 tokens: a modulation layer."""
    basis = a_basis(QKV, fan_in=6, fan_out=5, n=n, rank=rank)
    coefficients = {name: torch.randn(analogies, n) for name in QKV}
    mixture = Mixture(basis, coefficients if analogies > 1 else {name: c[0] for name, c in coefficients.items()})
    linear = nn.Linear(6, 15)
    model = nn.Sequential(linear)
    shape = (repeats * analogies, tokens, 6) if tokens else (repeats * analogies, 6)
    x = torch.randn(shape)
    expected = model(x).double()
    for row in range(len(x)):
        delta = torch.cat([dense_delta(basis.layers[name], coefficients[name][row % analogies]) for name in QKV])
        expected[row] += strength * x[row].double() @ delta.T
    with torch.no_grad(), attached(model, mixture, len(x), strength):
        torch.testing.assert_close(model(x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ended_by", [None, RuntimeError, KeyboardInterrupt])
def test_however_a_pass_ends_no_hook_is_left_and_the_output_is_as_it_was(ended_by):
    model, x = nn.Sequential(nn.Linear(6, 15)), torch.randn(2, 3, 6)
    mixture = Mixture(a_basis(QKV, 6, 5, 2, 1), {name: torch.randn(2) for name in QKV})
    with torch.no_grad():
        before = model(x)
        with pytest.raises(ended_by) if ended_by else nullcontext(), attached(model, mixture, 2):
            assert not torch.allclose(model(x), before)
            if ended_by:
                raise ended_by
        assert torch.equal(model(x), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_batch_that_is_no_multiple_of_the_analogies_is_refused_before_a_hook_is_on():
    model = nn.Sequential(nn.Linear(6, 15))
    mixture = Mixture(a_basis(QKV, 6, 5, 2, 1), {name: torch.randn(2, 2) for name in QKV})
    with pytest.raises(LoRWebError, match="2 analogies, but 3 pictures"), attached(model, mixture, 3):
        pytest.fail("no pass may begin")
    assert not model[0]._forward_hooks


def test_half_precision_models_are_added_to_in_their_own_dtype():
    basis = a_basis(QKV, 6, 5, 2, 1)
    mixture = Mixture(basis, {name: torch.randn(2) for name in QKV})
    linear = nn.Linear(6, 15).bfloat16()
    model, x = nn.Sequential(linear), torch.randn(1, 40, 6).bfloat16()
    with torch.no_grad():
        expected = model(x).double() + x.double() @ torch.cat([mixture.delta(name) for name in QKV]).T.double()
        with attached(model, mixture, 1):
            out = model(x)
    assert out.dtype == torch.bfloat16
    assert (out.double() - expected).norm() / expected.norm() < 2**-7


@pytest.mark.parametrize("projection", ["linear", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_an_activation_routed_layer_makes_its_coefficients_of_its_own_input(projection, pooling):
    basis = a_basis(QKV[:1], 4, 5, 3, 2, external_query=False, query_mode="caa'", pooling_type=pooling)
    layer = basis.layers[QKV[0]]
    if projection == "none":
        basis = LoRABasis({QKV[0]: layer._replace(projection=None)}, basis.config, ())
    linear = nn.Linear(4, 5)
    model, x = nn.Sequential(linear), torch.randn(2, 10, 4)
    expected = model(x).double()
    for row in range(2):
        seen = x[row, 4:7]  # the first half of six reference tokens
        query = seen.mean(0) if pooling == "avg" else seen.max(0).values
        query = query if projection == "none" else layer.projection @ query
        coefficients = (layer.keys @ query / 4**0.5).softmax(0)
        expected[row] += x[row].double() @ dense_delta(layer, coefficients).T
    with torch.no_grad(), attached(model, Mixture(basis, {}), 2, references=6):
        torch.testing.assert_close(model(x).double(), expected, rtol=1e-4, atol=1e-4)


SINGLE, IMAGE, TEXT, MODULATION = (
    "transformer.single_transformer_blocks.3.proj_mlp",
    "transformer.transformer_blocks.3.ff.net.2",
    "transformer.transformer_blocks.3.attn.add_q_proj",
    "transformer.single_transformer_blocks.3.norm.linear",
)


@pytest.mark.parametrize(
    ("layer", "mode", "seen"),
    [  # text 3, noise 8, references 8, where the layer has them
        (SINGLE, "aa'bb'", range(19)),
        (SINGLE, "caa'bb'", range(11, 19)),
        (SINGLE, "caa'b", range(11, 17)),
        (SINGLE, "caa'", range(11, 15)),
        (IMAGE, "aa'bb'", range(16)),
        (IMAGE, "caa'bb'", range(8, 16)),
        (IMAGE, "caa'b", range(8, 14)),
        (IMAGE, "caa'", range(8, 12)),
        (TEXT, "aa'bb'", range(3)),
        (TEXT, "caa'bb'", range(1, 3)),
        (TEXT, "caa'", range(1, 2)),
        (MODULATION, "caa'b", range(1)),
    ],
)
def test_each_stream_looks_at_its_tokens(layer, mode, seen):
    length = {SINGLE: 19, IMAGE: 16, TEXT: 3, MODULATION: 1}[layer]
    x = torch.randn(2, length, 5)
    query = token_query(layer, x, Tokens(3, 8), mode, "avg")
    torch.testing.assert_close(query, x[:, list(seen)].mean(1))


def test_a_vector_is_its_own_query():
    x = torch.randn(2, 5)
    assert token_query(MODULATION, x, Tokens(3, 8), "caa'", "max") is x


def test_parts_of_a_grid_are_not_looked_for_in_several_pictures():
    x, tokens = torch.randn(1, 16, 4), Tokens(3, 8, pictures=3)
    with pytest.raises(LoRWebError, match=r"query mode caa'.*3 reference pictures.*layout to grid"):
        token_query(IMAGE, x, tokens, "caa'", "avg")
    torch.testing.assert_close(token_query(IMAGE, x, tokens, "caa'bb'", "avg"), x[:, 8:].mean(1))


def test_without_reference_tokens_the_missing_node_is_named():
    with pytest.raises(LoRWebError, match=r"query mode caa'.*Extended-Attention Conditioning"):
        token_query(IMAGE, torch.randn(1, 8, 4), Tokens(3, 0), "caa'", "avg")
