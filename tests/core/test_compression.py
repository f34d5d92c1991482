from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lorweb_core.checkpoint import BasisLayer
from lorweb_core.low_rank import (
    Factors,
    decompose,
    mixed_factors,
    squared_product,
    squared_rounding,
    squared_rounding_of_many,
)


def layer_of(n: int, fan_in: int, r: int, fan_out: int, seed: int) -> tuple[BasisLayer, torch.Tensor, torch.Tensor]:
    """A layer, weights for its LoRAs, and the dense ΔW of both, float64."""
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(n, fan_in, r, generator=generator), torch.randn(n, r, fan_out, generator=generator)
    weights = torch.randn(n, generator=generator, dtype=torch.float64)
    dense = sum(w * (a @ b).T for w, a, b in zip(weights, A.double(), B.double()))
    return BasisLayer(A, B, torch.zeros(n, 1), None), weights, dense


# Small enough for N·r to be above and below both sides of ΔW.
layers = st.builds(
    layer_of, st.integers(1, 5), st.integers(1, 12), st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**31)
)


@given(layers)
def test_the_factors_make_the_dense_change(case):
    layer, weights, dense = case
    factors = mixed_factors(layer, weights)
    torch.testing.assert_close(factors.up @ factors.down, dense)


def test_loras_of_weight_0_are_left_out():
    layer, weights, dense = layer_of(4, 9, 2, 7, seed=0)
    weights[[0, 2]] = 0
    factors = mixed_factors(layer, weights)
    assert factors.up.shape == (7, 4) and factors.down.shape == (4, 9)
    dense = sum(weights[n] * (layer.A[n].double() @ layer.B[n].double()).T for n in (1, 3))
    torch.testing.assert_close(factors.up @ factors.down, dense)


@given(layers)
def test_singular_values_are_those_of_the_full_matrix(case):
    layer, weights, dense = case
    found = decompose(mixed_factors(layer, weights)).values
    expected = torch.linalg.svdvals(dense)
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-10, rtol=1e-10)
    assert expected[len(found) :].abs().sum() < 1e-10


@given(layers, st.integers(1, 6))
def test_of_each_rank_it_is_the_nearest_there_is(case, rank):
    layer, weights, dense = case
    found = decompose(mixed_factors(layer, weights))
    rank = min(rank, len(found.values))
    factors = found.factors(rank)
    S = torch.linalg.svdvals(dense)
    # Nearest matrices may differ where singular values tie, but not in their distance.
    torch.testing.assert_close((dense - factors.up @ factors.down).norm(), S[rank:].norm(), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(found.tails[rank].sqrt(), S[rank:].norm(), atol=1e-10, rtol=1e-8)
    # Both factors carry the same share of each singular value.
    torch.testing.assert_close(factors.up.norm(dim=0), factors.down.norm(dim=1))


@given(layers, st.floats(0, 0.99))
def test_the_least_rank_keeps_to_the_error_and_one_less_does_not(case, error):
    layer, weights, dense = case
    found = decompose(mixed_factors(layer, weights))
    rank = found.least_rank(error)
    S = torch.linalg.svdvals(dense)
    assert rank >= 1
    assert S[rank:].norm() <= error * S.norm() + 1e-10
    if rank > 1:
        assert S[rank - 1 :].norm() >= error * S.norm() - 1e-10


def test_a_change_of_zero_has_rank_1():
    layer, weights, _ = layer_of(2, 5, 2, 6, seed=0)
    found = decompose(mixed_factors(layer._replace(A=torch.zeros_like(layer.A)), weights))
    assert found.least_rank(0.01) == 1
    assert not found.factors(1).up.any()


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_sizes_of_products_and_of_their_rounding(k, fan_in, fan_out, seed):
    generator = torch.Generator().manual_seed(seed)
    exact = Factors(*(torch.randn(shape, generator=generator).double() for shape in ((fan_out, k), (k, fan_in))))
    stored = Factors(*(factor.bfloat16().double() for factor in exact))
    dense = exact.up @ exact.down
    torch.testing.assert_close(squared_product(*exact), float(dense.square().sum()))
    rounding = float((stored.up @ stored.down - dense).square().sum())
    torch.testing.assert_close(squared_rounding(exact, stored), rounding, rtol=1e-8, atol=1e-14)
    only_down = Factors(exact.up, stored.down)
    rounding = float((only_down.up @ only_down.down - dense).square().sum())
    torch.testing.assert_close(squared_rounding(exact, only_down), rounding, rtol=1e-8, atol=1e-14)


def test_roundings_of_long_columns_are_independent():
    """Of columns that have much in common, as those of a trained basis may."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(512, 1, generator=generator), torch.randn(1, 700, generator=generator)
    exact = Factors(
        *(
            common.double() + torch.randn(shape, generator=generator) / 3
            for common, shape in zip(shared, ((512, 16), (16, 700)))
        )
    )
    stored = Factors(*(factor.half().double() for factor in exact))
    rounding = float((stored.up @ stored.down - exact.up @ exact.down).square().sum())
    assert abs(squared_rounding_of_many(exact, stored) / rounding - 1) < 0.06
