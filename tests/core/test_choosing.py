from __future__ import annotations

from dataclasses import replace
from math import erf, sqrt

import numpy
import pytest
import torch

from lorweb_core import LoRWebError, encode_query, load_basis
from lorweb_core.analogy import Analogy
from lorweb_core.choosing import choose_edit, choose_part, choose_part_of, route_apart, share_left, without
from lorweb_core.config import BasisConfig
from lorweb_core.query import QUERY_MODES
from lorweb_core.triplet import triplets

SINGLE = [mode for mode, how in QUERY_MODES.items() if not how.states]


@pytest.fixture
def basis(weights, save):
    return load_basis(save(weights))


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 20, 20, 3)


def plainly_without(table: numpy.ndarray, origin: numpy.ndarray, changes: list[numpy.ndarray]) -> numpy.ndarray:
    """Compute, in double precision and layer by layer, what the docstring of `without` says: (layers, N)."""
    made = numpy.empty_like(table)
    for layer in range(len(table)):
        left = table[layer] - origin[layer]
        for change in changes:
            part = left @ change[layer] / (change[layer] @ change[layer])
            left = left - min(max(part, 0.0), 1.0) * change[layer]
        made[layer] = origin[layer] + 1.2 * left
    return made


def test_unwanted_edits_are_taken_out_of_the_example_layer_by_layer(basis, encoder):
    (a, a_prime), unwanted, bs = images(2), images(4), images(3)
    pairs = [(unwanted[0], unwanted[1]), (unwanted[2], unwanted[3])]
    chosen = choose_edit(basis, encoder, triplets(a, a_prime, bs), pairs)

    for i, b in enumerate(bs):

        def route(one, other, b=b) -> numpy.ndarray:
            return basis.route(encode_query(encoder, one, other, b, "cat-aa'b")).table.double().numpy()

        changes = [route(c, d) - route(c, c) for c, d in pairs]
        expected = plainly_without(route(a, a_prime), route(a, a), changes)
        numpy.testing.assert_allclose(chosen.table[:, i].double().numpy(), expected, atol=1e-6)
        numpy.testing.assert_allclose(chosen.origin.table[:, i].double().numpy(), route(a, a), atol=1e-6)


@pytest.mark.parametrize("mode", SINGLE)
def test_all_pairs_go_through_the_encoder_in_one_pass_in_every_mode(weights, save, encoder, mode):
    width = 12 if mode == "cat-aa'b" else 4
    for name in weights:
        if name.endswith("att_lora_to_q.weight"):
            weights[name] = weights[name][:, :width].contiguous()
    basis = replace(load_basis(save(weights)), config=BasisConfig(query_mode=mode))
    a, a_prime, b, c, c_prime = images(5)
    encoder.passes.clear()
    mixture, (other,) = route_apart(basis, encoder, triplets(a, a_prime, b), [(c, c_prime)])
    assert len(encoder.passes) == 1
    for made, pair in ((mixture, (a, a_prime)), (other, (c, c_prime))):
        expected = basis.route(encode_query(encoder, *pair, b, mode)).table
        torch.testing.assert_close(made.table, expected, atol=1e-6, rtol=1e-5)


def test_nothing_unwanted_leaves_the_mixture_as_it_is(basis, encoder):
    mixture, others = route_apart(basis, encoder, triplets(*images(3)), [])
    assert without(mixture, others) is mixture


def test_an_edit_that_goes_the_other_way_takes_nothing_out(basis, encoder):
    """λ is not negative: taking away the opposite of a part of the edit would add to it."""
    mixture = choose_edit(basis, encoder, triplets(*images(3)))
    opposite = mixture.with_table(2 * mixture.origin.table - mixture.table)
    expected = mixture.origin.table + 1.2 * (mixture.table - mixture.origin.table)
    torch.testing.assert_close(without(mixture, [opposite]).table, expected)


def test_the_share_that_is_left_is_that_of_orthogonal_parts(basis):
    """3 of 5 by Pythagoras."""
    origin = basis.route(torch.zeros(12))
    wanted, unwanted = (torch.zeros_like(origin.table) for _ in range(2))
    wanted[..., 0], unwanted[..., 1] = 3, 4
    both = replace(origin.with_table(origin.table + wanted + unwanted), origin=origin)
    other = replace(origin.with_table(origin.table + unwanted), origin=origin)
    chosen = without(both, [other])
    torch.testing.assert_close(chosen.table, origin.table + 1.2 * wanted)
    assert share_left(chosen, both) == pytest.approx(0.6)


@pytest.mark.parametrize("times", [1, 3])
def test_an_unwanted_pair_of_the_same_edit_is_refused(basis, encoder, times):
    a, a_prime, b = images(3)
    mixture = choose_edit(basis, encoder, triplets(a, a_prime, b))
    same = mixture.with_table(mixture.origin.table + times * (mixture.table - mixture.origin.table))
    with pytest.raises(LoRWebError, match="is left: they show the same change"):
        without(mixture, [same])


def test_an_unwanted_pair_without_a_change_is_refused(basis, encoder):
    a, a_prime, b = images(3)
    with pytest.raises(LoRWebError, match="Unwanted pair 2 shows no change"):
        choose_edit(basis, encoder, triplets(a, a_prime, b), [tuple(images(2)), (a, a)])


def test_mixtures_without_an_origin_are_refused(basis, encoder):
    mixture, others = route_apart(basis, encoder, triplets(*images(3)), [tuple(images(2))])
    with pytest.raises(LoRWebError, match="no origin"):
        without(replace(mixture, origin=None), others)
    with pytest.raises(LoRWebError, match="no origin"):
        without(mixture, [replace(others[0], origin=None)])


# By a mask


def test_the_example_is_a_but_where_the_mask_is():
    a, a_prime = images(2)
    mask = torch.zeros(20, 20)
    mask[5:9, 3:12] = 1
    chosen = choose_part(a, a_prime, mask)
    assert torch.equal(chosen[5:9, 3:12], a_prime[5:9, 3:12])
    chosen[5:9, 3:12] = a[5:9, 3:12]
    assert torch.equal(chosen, a)


def test_the_edge_of_a_mask_is_soft_as_a_gaussian():
    mask = torch.zeros(64, 64)
    mask[16:40, 24:48] = 1
    black, white = torch.zeros(64, 64, 3), torch.ones(64, 64, 3)
    alpha = choose_part(black, white, mask, softness=2 / 64)[..., 0]

    def ramp(start: int, end: int, n: int) -> numpy.ndarray:
        at = numpy.arange(n) + 0.5
        return numpy.array([0.5 * (erf((x - start) / (2 * sqrt(2))) - erf((x - end) / (2 * sqrt(2)))) for x in at])

    whole = numpy.outer(ramp(16, 40, 64), ramp(24, 48, 64))
    assert numpy.abs(alpha.numpy() - whole).max() < 0.02


def test_a_mask_of_another_size_is_stretched_to_a():
    a, a_prime = images(2)
    mask = torch.zeros(40, 10)
    mask[:20] = 1
    chosen = choose_part(a, a_prime, mask)
    assert torch.equal(chosen[:9], a_prime[:9]) and torch.equal(chosen[11:], a[11:])


def test_each_pair_has_its_own_mask_or_all_have_one():
    a, a_prime, b = images(2), images(2), images(1)
    analogy = Analogy(tuple(triplets(a, a_prime, b)))
    masks = torch.zeros(2, 20, 20)
    masks[0, :10] = masks[1, 10:] = 1
    (chosen,) = choose_part_of(analogy, masks).triplets
    for (before, after), was, mask in zip(chosen.pairs, a_prime, masks, strict=True):
        assert torch.equal(after[mask == 1], was[mask == 1]) and torch.equal(after[mask == 0], before[mask == 0])
    (chosen,) = choose_part_of(analogy, masks[0]).triplets
    assert all(torch.equal(after[10:], before[10:]) for before, after in chosen.pairs)
    with pytest.raises(LoRWebError, match="3 masks and 2 pairs"):
        choose_part_of(analogy, torch.ones(3, 20, 20))


def test_one_pair_for_several_pictures_stays_one():
    analogy = Analogy(tuple(triplets(images(1), images(1), images(3))))
    mask = torch.zeros(20, 20)
    mask[:10] = 1
    assert len(choose_part_of(analogy, mask).all_pairs) == 1


@pytest.mark.parametrize("value, word", [(0.0, "empty"), (1.0, "full"), (float("nan"), "NaN")])
def test_a_mask_that_chooses_nothing_or_everything_is_refused(value, word):
    a, a_prime = images(2)
    with pytest.raises(LoRWebError, match=word):
        choose_part(a, a_prime, torch.full((20, 20), value))


def test_a_blur_wider_than_the_picture_stays_within_it():
    a, a_prime = images(2)
    mask = torch.zeros(20, 20)
    mask[:10] = 1
    chosen = choose_part(a, a_prime, mask, softness=0.5)
    assert chosen.isfinite().all() and not torch.equal(chosen, a)
