from __future__ import annotations

import pytest
import torch

from lorweb_core import LoRWebError, encode_query, load_basis
from lorweb_core.demonstrations import DEMONSTRATIONS, mix
from lorweb_core.query import QUERY_MODES
from lorweb_core.triplet import triplets


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 20, 20, 3)


def test_one_triplet_is_mixed_alike_in_both_ways(weights, save, encoder):
    basis, (a, a_prime, b) = load_basis(save(weights)), [images(1) for _ in range(3)]
    expected = basis.route(encode_query(encoder, a[0], a_prime[0], b[0], "cat-aa'b"))
    for demonstrations in DEMONSTRATIONS:
        mixture = mix(basis, encoder, triplets(a, a_prime, b), demonstrations)
        for layer, coefficients in mixture.coefficients.items():
            assert coefficients.shape == (4,)
            torch.testing.assert_close(coefficients, expected.coefficients[layer])


def test_several_pairs_are_averaged_before_or_after_the_basis(weights, save, encoder):
    basis, a, a_prime, b = load_basis(save(weights)), images(3), images(3), images(1)
    queries = [encode_query(encoder, *pair, b[0], "cat-aa'b") for pair in zip(a, a_prime)]
    expected = {
        "mean of queries": basis.route(torch.stack(queries).mean(0)).coefficients,
        "mean of coefficients": {
            layer: torch.stack([basis.route(query).coefficients[layer] for query in queries]).mean(0)
            for layer in basis.layers
        },
    }
    encoder.passes.clear()
    for demonstrations in DEMONSTRATIONS:
        mixture = mix(basis, encoder, triplets(a, a_prime, b), demonstrations)
        for layer, coefficients in mixture.coefficients.items():
            torch.testing.assert_close(coefficients, expected[demonstrations][layer])
    assert encoder.passes == [7, 7]
    assert not torch.allclose(*(expected[way][layer] for way in DEMONSTRATIONS))


@pytest.mark.parametrize("demonstrations", DEMONSTRATIONS)
def test_every_b_of_a_batch_gets_its_own_mixture(weights, save, encoder, demonstrations):
    basis, a, a_prime, b = load_basis(save(weights)), images(1), images(1), images(4)
    mixture = mix(basis, encoder, triplets(a, a_prime, b), demonstrations)
    assert encoder.passes == [6]
    for i in range(4):
        alone = mix(basis, encoder, triplets(a, a_prime, b[i : i + 1]), demonstrations)
        for layer, coefficients in mixture.coefficients.items():
            assert coefficients.shape == (4, 4)
            torch.testing.assert_close(coefficients[i], alone.coefficients[layer])


@pytest.mark.parametrize("demonstrations", DEMONSTRATIONS)
def test_the_origin_is_the_mixture_of_the_pair_a_a(weights, save, encoder, demonstrations):
    basis, a, a_prime, b = load_basis(save(weights)), images(2), images(2), images(2)
    mixture = mix(basis, encoder, triplets(a, a_prime, b), demonstrations)
    assert encoder.passes == [6]
    for i, one in enumerate(mixture.split()):
        expected = basis.route(encode_query(encoder, a[i], a[i], b[i], "cat-aa'b"))
        assert torch.equal(one.table, mixture.table[:, i])
        torch.testing.assert_close(one.origin.table, expected.table)


@pytest.mark.parametrize("demonstrations", DEMONSTRATIONS)
def test_the_origin_of_several_pairs_is_averaged_as_they_are(weights, save, encoder, demonstrations):
    basis, a, a_prime, b = load_basis(save(weights)), images(3), images(3), images(1)
    origin = mix(basis, encoder, triplets(a, a_prime, b), demonstrations).origin
    assert encoder.passes == [7]
    expected = mix(basis, encoder, triplets(a, a, b), demonstrations)
    torch.testing.assert_close(origin.table, expected.table)


@pytest.mark.parametrize("mode", [mode for mode, how in QUERY_MODES.items() if not how.states])
def test_every_mode_knows_whether_its_origin_is_of_a_query_of_zeros(encoder, mode):
    a, b = images(2)
    zeros = not encode_query(encoder, a, a, b, mode).any()
    assert zeros == QUERY_MODES[mode].difference


def test_another_way_is_refused(weights, save, encoder):
    with pytest.raises(LoRWebError, match="'median'.*mean of queries, mean of coefficients"):
        mix(load_basis(save(weights)), encoder, triplets(images(1), images(1), images(1)), "median")
