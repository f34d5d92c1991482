from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorweb_core import LoRWebError, load_basis
from lorweb_core.checkpoint import BasisLayer
from lorweb_core.config import BasisConfig
from lorweb_core.space.usage import basis_usage, measure_usage
from lorweb_core.training.trainable_basis import TrainableBasis

NAMES = ("transformer.transformer_blocks.0.attn.to_q", "transformer.single_transformer_blocks.0.proj_mlp")


def layer(n: int, rank: int = 2, scale: float = 1.0, seed: int = 0) -> BasisLayer:
    chance = torch.Generator().manual_seed(seed)
    A, B = torch.randn(n, 6, rank, generator=chance), torch.randn(n, rank, 5, generator=chance)
    return BasisLayer(A, B, torch.zeros(n, 3), None, scale)


def even_layer(n: int) -> BasisLayer:
    """All of its LoRAs change as much."""
    return BasisLayer(torch.ones(n, 6, 1), torch.ones(n, 1, 5), torch.zeros(n, 3), None)


def dense_sizes(coefficients: torch.Tensor, layer: BasisLayer) -> torch.Tensor:
    """‖c_n A_n B_n‖ of (n, N) coefficients, from whole matrices."""
    changes = layer.scale * layer.A.double() @ layer.B.double()
    return (coefficients.double()[..., None, None] * changes).flatten(-2).norm(dim=-1)


@pytest.mark.parametrize("softmax", [True, False])
def test_shares_are_those_of_the_dense_changes(weights, save, softmax):
    weights["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(6.0)
    basis = load_basis(save(weights, linear=2, lora_softmax=softmax, query_mode="cat-aa'b"))
    queries = torch.linspace(-3, 3, 60).sin().view(5, 3, 4)
    found = basis_usage(basis, queries)
    coefficients = basis.route(queries).coefficients
    sizes = {name: dense_sizes(coefficients[name], basis.layers[name]) for name in basis.layers}
    shares = torch.stack([each / each.sum(1, keepdim=True) for each in sizes.values()])
    assert (found.layers, found.analogies) == (tuple(basis.layers), 5)
    torch.testing.assert_close(found.layer_shares, shares.mean(1), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.largest, shares.amax(1), rtol=1e-5, atol=1e-9)
    whole = torch.stack(list(sizes.values())).norm(dim=0)
    torch.testing.assert_close(found.shares, (whole / whole.sum(1, keepdim=True)).mean(0), rtol=1e-5, atol=1e-9)
    for place, name in enumerate(basis.layers):
        rows = (coefficients[name].abs() / coefficients[name].abs().sum(1, keepdim=True)).tolist()
        expected = sum(-sum(p * math.log(p) for p in row) / math.log(4) for row in rows) / 5
        assert float(found.entropy[place]) == pytest.approx(expected, abs=1e-6)


@given(st.integers(2, 16), st.integers(1, 16), st.floats(0.01, 3))
def test_entropy_is_log_of_how_many_are_alike_by_log_n(n, alike, c):
    table = torch.zeros(3, n)
    table[:, : min(alike, n)] = c
    found = measure_usage({"x": table}, {"x": layer(n)})
    assert float(found.entropy) == pytest.approx(math.log(min(alike, n)) / math.log(n), abs=1e-6)


def test_one_analogy_may_come_without_its_dimension():
    row = torch.tensor([0.5, 0.2, 0.3])
    alone, batch = (measure_usage({"x": table}, {"x": layer(3)}) for table in (row, row[None]))
    assert alone.analogies == 1
    assert torch.equal(alone.layer_shares, batch.layer_shares)


def test_a_single_lora_has_all_of_the_change_and_no_entropy():
    found = measure_usage({"x": torch.ones(2, 1)}, {"x": layer(1)})
    assert (found.shares.tolist(), found.entropy.tolist(), found.dead) == ([1.0], [0.0], [])


def test_a_lora_is_dead_if_no_analogy_reaches_a_hundredth_of_an_even_share_in_any_layer():
    least = 0.01 / 4
    tables = {name: torch.full((3, 4), 1.0) for name in NAMES}
    for table in tables.values():
        table[:, 1:3] = 0.5 * least
    layers = {name: even_layer(4) for name in NAMES}
    assert measure_usage(tables, layers).dead == [1, 2]
    # One analogy in one layer is enough.
    tables[NAMES[1]][2, 1] = 3 * least
    assert measure_usage(tables, layers).dead == [2]


def test_a_lora_of_no_size_is_dead_however_large_its_coefficient():
    one = layer(3)
    one.B[1] = 0
    assert measure_usage({"x": torch.tensor([[0.1, 0.8, 0.1]])}, {"x": one}).dead == [1]


def test_an_untrained_basis_has_entropy_but_no_shares_and_nothing_dead():
    torch.manual_seed(0)
    config = BasisConfig(loras_num=4, linear=2, lora_keys_dim=8)
    basis = TrainableBasis(dict.fromkeys(NAMES, (6, 5)), config, query=12)
    found = measure_usage(basis.route(torch.randn(7, 1, 12)), basis.published())
    assert (found.layers, found.analogies, found.dead) == (NAMES, 7, [])
    assert not found.layer_shares.any()
    assert not found.shares.any()
    assert (found.entropy > 0).all()
    assert (found.entropy <= 1).all()


def test_coefficients_that_are_being_trained_can_be_looked_at():
    table = torch.tensor([[0.2, 0.8]], requires_grad=True)
    assert not measure_usage({"x": table}, {"x": layer(2)}).shares.requires_grad


def test_what_it_says_is_strict_json():
    found = measure_usage({name: torch.tensor([[0.0, 1.0]]) for name in NAMES}, dict.fromkeys(NAMES, even_layer(2)))
    said = json.loads(json.dumps(found.described(), allow_nan=False))
    assert said == {"analogies": 1, "layers": 2, "entropy": 0.0, "shares": [0.0, 1.0], "dead": [0]}


def test_no_coefficients_are_refused():
    with pytest.raises(LoRWebError, match="external_query: false"):
        measure_usage({}, {})


def test_values_that_are_not_finite_are_named_by_their_layer():
    tables = {name: torch.ones(2, 3) for name in NAMES}
    tables[NAMES[1]][0, 0] = math.nan
    with pytest.raises(LoRWebError, match=r"single_transformer_blocks\.0\.proj_mlp"):
        measure_usage(tables, dict.fromkeys(NAMES, layer(3)))
