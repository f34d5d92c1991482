"""A mixture brought to a lower rank for run time, against the dense sum cut by torch's own decomposition."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from lorweb_core import LoRABasis, LoRWebError, Mixture
from lorweb_core.checkpoint import BasisLayer
from lorweb_core.config import BasisConfig
from lorweb_core.light_mixture import lighten
from lorweb_core.low_rank import gram_root
from lorweb_core.routing import Tokens
from lorweb_core.runtime import LayerSlice, PackedBasis, RuntimeMixture

QKV = [f"transformer.transformer_blocks.0.attn.to_{name}" for name in "qkv"]


def a_mixture(analogies: int, n: int = 8, rank: int = 2, fan_in: int = 40, fan_out: int = 30, decay: float = 0.5):
    """A mixture whose n-th LoRA has decay**n of the first one's size."""
    sizes = (decay ** torch.arange(n))[:, None, None]
    layers = {
        name: BasisLayer(
            torch.randn(n, fan_in, rank) * sizes, torch.randn(n, rank, fan_out), torch.randn(n, 4), None, 0.5
        )
        for name in QKV
    }
    coefficients = {name: torch.randn(analogies, n) for name in QKV}
    held = coefficients if analogies > 1 else {name: c[0] for name, c in coefficients.items()}
    return Mixture(LoRABasis(layers, BasisConfig(), ()), held), coefficients


def dense(mixture: Mixture, coefficients: torch.Tensor, name: str) -> torch.Tensor:
    layer = mixture.basis.layers[name]
    return layer.scale * sum(
        c * (a @ b).T for c, a, b in zip(coefficients.double(), layer.A.double(), layer.B.double())
    )


def cut(whole: torch.Tensor, rank: int) -> torch.Tensor:
    U, S, Vh = torch.linalg.svd(whole)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def left_out(whole: torch.Tensor, rank: int) -> float:
    S = torch.linalg.svdvals(whole)
    return float(S[rank:].norm() / S.norm())


@settings(max_examples=20, deadline=None)
@given(
    rank=st.integers(1, 4),
    analogies=st.integers(1, 3),
    repeats=st.integers(1, 2),
    tokens=st.integers(0, 4),
    strength=st.sampled_from([1.0, -0.5]),
)
def test_a_pass_adds_what_torch_cuts_of_the_dense_sum_for_every_picture(rank, analogies, repeats, tokens, strength):
    mixture, coefficients = a_mixture(analogies)
    light = lighten(mixture, rank)
    model = nn.Sequential(nn.Linear(40, 90))
    parts = [LayerSlice(name, 30 * i) for i, name in enumerate(QKV)]
    packed = PackedBasis(mixture.basis, {"0": parts}, torch.float32, None, light.layer)
    assert packed.items()[0][1].down[0].shape == (3 * analogies * rank, 40)
    x = torch.randn((repeats * analogies, tokens, 40) if tokens else (repeats * analogies, 40))
    with torch.no_grad():
        expected = model(x).double()
        for row in range(len(x)):
            delta = [cut(dense(mixture, coefficients[name][row % analogies], name), rank) for name in QKV]
            expected[row] += strength * x[row].double() @ torch.cat(delta).T
        runtime = RuntimeMixture(mixture, strength, light.coefficients)
        with runtime.attached(model, packed, len(x), Tokens(0, 0)):
            torch.testing.assert_close(model(x).double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("analogies", [1, 3])
@pytest.mark.parametrize("error", [0.3, 0.05, 0.01])
def test_by_error_each_layer_has_the_least_rank_that_is_enough_for_every_analogy(analogies, error):
    mixture, coefficients = a_mixture(analogies)
    light = lighten(mixture, error=error, below=100)
    for name in QKV:
        wholes = [dense(mixture, c, name) for c in coefficients[name]]
        rank = light.layers[name].rank
        worst = max(left_out(whole, rank) for whole in wholes)
        assert worst <= error < max(left_out(whole, rank - 1) for whole in wholes)
        assert light.layers[name].error == pytest.approx(worst, rel=1e-3)
    assert light.error == max(layer.error for layer in light.layers.values()) <= error
    ranks = [layer.rank for layer in light.layers.values()]
    assert light.ranks == (min(ranks), max(ranks))
    assert light.share == pytest.approx(sum(ranks) * analogies / (3 * 16))


def test_the_error_of_a_rank_is_that_of_the_worst_layer():
    mixture, coefficients = a_mixture(1)
    worst = max(left_out(dense(mixture, coefficients[name][0], name), 3) for name in QKV)
    assert lighten(mixture, 3).error == pytest.approx(worst, rel=1e-4)


@pytest.mark.parametrize(("rank", "analogies"), [(16, 1), (40, 1), (8, 2), (6, 3)])
def test_what_holds_no_less_than_all_of_the_basis_is_none(rank, analogies):
    mixture, _ = a_mixture(analogies)
    assert lighten(mixture, rank) is None
    assert lighten(mixture, 4).share == pytest.approx(4 * analogies / 16)


def test_by_error_what_saves_too_little_is_none():
    mixture, _ = a_mixture(1, decay=1.0)
    assert lighten(mixture, error=0.01, below=0.75) is None
    assert lighten(a_mixture(1, decay=0.2)[0], error=0.01, below=0.75).share < 0.75


def test_a_layer_without_a_change_and_ranks_beyond_a_side_are_held_too():
    mixture, _ = a_mixture(1, fan_in=5)
    mixture.coefficients[QKV[1]].zero_()
    light = lighten(mixture, 7)
    for name, row in mixture.coefficients.items():
        made = light.layer(name)
        delta = (made.A[0] @ made.B[0]).T.double()
        torch.testing.assert_close(delta, dense(mixture, row, name), rtol=1e-3, atol=1e-4)


def test_work_can_be_stopped_and_torch_keeps_its_threads():
    mixture, _ = a_mixture(1)
    threads, seen = torch.get_num_threads(), []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lighten(mixture, 2, progress=stop)
    assert seen == [(1, 3)]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("settings", "told"), [({"rank": -1}, "rank is -1"), ({"error": 1.0}, "error is 1.0")])
def test_numbers_out_of_range_are_refused(settings, told):
    with pytest.raises(LoRWebError, match=told):
        lighten(a_mixture(1)[0], **settings)


def test_bases_that_route_by_activation_have_no_lower_rank():
    basis = LoRABasis({}, BasisConfig(external_query=False), (("basis.safetensors", 0, 0),))
    with pytest.raises(LoRWebError, match="routes by each layer's own input"):
        lighten(Mixture(basis, {}), 2)


@pytest.mark.parametrize("columns", [3, 20])
def test_a_gram_root_has_the_products_of_the_rows(columns):
    rows = torch.randn(8, columns, dtype=torch.float64)
    root = gram_root(rows)
    torch.testing.assert_close(root.mT @ root, rows @ rows.mT)
