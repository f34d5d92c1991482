from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorweb_core import LoRWebError, load_basis
from lorweb_core.space.edit import Edit, edit, indices, lora_factors


@pytest.fixture
def basis(weights, save):
    return load_basis(save(weights, query_mode="cat-aa'b"))


@pytest.fixture
def mixture(basis):
    return basis.route(torch.randn(12, generator=torch.Generator().manual_seed(3)) * 3)


@pytest.fixture
def signed(weights, save):
    basis = load_basis(save(weights, name="signed", lora_softmax=False, query_mode="cat-aa'b"))
    return basis.route(torch.randn(12, generator=torch.Generator().manual_seed(3)))


def rows(mixture) -> list[list[float]]:
    return mixture.table.tolist()


def test_by_default_nothing_changes(mixture, signed):
    for one in (mixture, signed):
        assert torch.equal(edit(one, Edit()).table, one.table)


def test_top_k_keeps_the_largest_of_each_layer(mixture, signed):
    for one in (mixture, signed):
        for before, after in zip(rows(one), rows(edit(one, Edit(top_k=2)))):
            largest = sorted(range(4), key=lambda n: -abs(before[n]))[:2]
            assert after == [c if n in largest else 0 for n, c in enumerate(before)]


def test_top_p_keeps_the_fewest_that_make_up_the_share(mixture, signed):
    for one in (mixture, signed):
        for before, after in zip(rows(one), rows(edit(one, Edit(top_p=0.8)))):
            kept = [n for n in range(4) if after[n]]
            mass = sum(map(abs, before))
            assert sum(abs(before[n]) for n in kept) >= 0.8 * mass - 1e-6
            assert sum(abs(before[n]) for n in kept) - min(abs(before[n]) for n in kept) < 0.8 * mass


def test_renormalizing_keeps_each_layers_mass(mixture, signed):
    for one in (mixture, signed):
        changed = edit(one, Edit(top_k=1, renormalize=True))
        torch.testing.assert_close(changed.table.abs().sum(-1), one.table.abs().sum(-1))
        assert (changed.table != 0).sum(-1).eq(1).all()


def test_temperature_divides_the_logits(mixture, signed):
    cooled = edit(mixture, Edit(temperature=0.5)).table.double()
    torch.testing.assert_close(cooled, (mixture.table.double().log() / 0.5).softmax(-1), atol=1e-6, rtol=1e-5)
    cooled = edit(signed, Edit(temperature=0.5)).table.double()
    torch.testing.assert_close(cooled, (signed.table.double().atanh() / 0.5).tanh(), atol=1e-6, rtol=1e-5)


def test_temperatures_multiply(mixture):
    twice = edit(edit(mixture, Edit(temperature=2.0)), Edit(temperature=0.25))
    torch.testing.assert_close(twice.table, edit(mixture, Edit(temperature=0.5)).table, atol=1e-6, rtol=1e-4)


def test_cold_leaves_the_largest_and_hot_makes_all_alike(mixture):
    assert edit(mixture, Edit(temperature=1e-3)).table.amax(-1).gt(0.999).all()
    assert edit(mixture, Edit(temperature=1e4)).table.sub(0.25).abs().amax() < 1e-3


def test_mute_and_solo_go_by_index(mixture):
    muted = edit(mixture, Edit(mute="0, 2-3")).table
    assert torch.equal(muted, mixture.table * torch.tensor([0.0, 1, 0, 0]))
    assert torch.equal(edit(mixture, Edit(solo="1")).table, muted)
    assert torch.equal(edit(mixture, Edit(solo="0-1", mute="0")).table, muted)


def test_only_the_layers_chosen_change(mixture, basis):
    changed = edit(mixture, Edit(scale=0.5, kind="attention", stream="text"))
    for layer, before in mixture.coefficients.items():
        factor = 0.5 if any(part in layer for part in ("add_q", "add_k", "add_v", "to_add_out")) else 1.0
        assert torch.equal(changed.coefficients[layer], factor * before)
        torch.testing.assert_close(changed.delta(layer), factor * mixture.delta(layer))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.7, -0.5])
def test_scale_counts_from_the_origin_where_it_is_to(mixture, basis, scale):
    origin = basis.route(torch.randn(12, generator=torch.Generator().manual_seed(4)))
    known = replace(mixture, origin=origin)
    changed = edit(known, Edit(scale=scale, blocks="double", origin="no edit"))
    assert changed.origin is origin
    for layer in basis.layers:
        o, m = origin.delta(layer).double(), mixture.delta(layer).double()
        expected = o + scale * (m - o) if ".transformer_blocks" in layer else m
        torch.testing.assert_close(changed.delta(layer).double(), expected, atol=1e-6, rtol=1e-5)
    if scale == 1:
        assert torch.equal(changed.table, mixture.table)


def test_each_of_a_batch_scales_from_its_origin(basis):
    batch = replace(basis.route(torch.randn(3, 1, 12)), origin=basis.route(torch.randn(3, 1, 12)))
    change = Edit(scale=0.4, origin="no edit")
    for one, part in zip(edit(batch, change).split(), batch.split(), strict=True):
        torch.testing.assert_close(one.table, edit(part, change).table)
    shared = replace(batch, origin=batch.origin.split()[0])
    expected = 0.4 * batch.table + 0.6 * shared.origin.table[:, None]
    torch.testing.assert_close(edit(shared, change).table, expected)
    assert [part.origin for part in shared.split()] == [shared.origin] * 3


def test_without_an_origin_there_is_nothing_to_scale_from(mixture):
    with pytest.raises(LoRWebError, match="no origin"):
        edit(mixture, Edit(scale=0.5, origin="no edit"))


def test_steps_go_in_the_order_documented(mixture):
    """All at once is the same as one after the other, but that renormalizing looks back before mute and top_k."""
    at_once = edit(mixture, Edit(temperature=2.0, mute="1", top_k=2, scale=3.0))
    in_turn = mixture
    for change in (Edit(temperature=2.0), Edit(mute="1"), Edit(top_k=2), Edit(scale=3.0)):
        in_turn = edit(in_turn, change)
    torch.testing.assert_close(at_once.table, in_turn.table)


def test_each_of_a_batch_is_edited_as_it_is_alone(basis):
    batch = basis.route(torch.randn(3, 1, 12))
    change = Edit(temperature=0.7, mute="2", top_p=0.7, renormalize=True, blocks="single")
    edited = edit(batch, change)
    for index, one in enumerate(batch.split()):
        torch.testing.assert_close(edited.table[:, index], edit(one, change).table)


def test_a_layer_without_anything_left_is_left_at_zero(mixture):
    silent = edit(mixture, Edit(scale=0.0, kind="MLP"))
    changed = edit(silent, Edit(top_k=1, renormalize=True)).table
    assert changed.isfinite().all()
    assert (changed.abs().sum(-1) == 0).sum() == (silent.table.abs().sum(-1) == 0).sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k is 0; expected a number from 1 to 4"),
        ({"top_k": 5}, "top_k is 5; expected a number from 1 to 4"),
        ({"top_p": 0.0}, "top_p is 0.0; expected a share above 0, up to 1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"mute": "0-3"}, "leave none of the 4 LoRAs"),
        ({"solo": "1", "mute": "1"}, "leave none of the 4 LoRAs"),
        ({"mute": "4"}, "mute has '4'; expected indices of LoRAs from 0 to 3"),
        ({"solo": "2-1"}, "solo has '2-1'"),
        ({"solo": "one"}, "solo has 'one'"),
        ({"kind": "conv"}, "kind is 'conv'"),
        ({"origin": "nowhere"}, "origin is 'nowhere'; expected one of: zero, no edit"),
    ],
)
def test_bad_input_is_said(mixture, change, message):
    with pytest.raises(LoRWebError, match=message):
        edit(mixture, Edit(**change))


def test_temperature_needs_what_the_activation_can_give(mixture):
    with pytest.raises(LoRWebError, match="blended or edited before"):
        edit(edit(mixture, Edit(scale=-1.0)), Edit(temperature=2.0))


@given(st.sets(st.integers(0, 31), max_size=8))
def test_indices_are_read_as_they_are_written(chosen):
    assert indices(", ".join(map(str, sorted(chosen))), 32, "mute") == sorted(chosen)


def test_factors_scale_single_loras_beside_the_scale(signed):
    changed = edit(signed, Edit(factors=" 1: 0, 2-3 : -1.5,", scale=2.0))
    torch.testing.assert_close(changed.table, signed.table * torch.tensor([2.0, 0.0, -3.0, -3.0]))


def test_factors_count_from_where_the_scale_does(signed):
    other = replace(signed, coefficients={name: c.flip(0) for name, c in signed.coefficients.items()})
    changed = edit(replace(signed, origin=other), Edit(factors="0: 0, 1: 0.5", origin="no edit"))
    m, o = signed.table, other.table
    expected = torch.stack([o[:, 0], (m[:, 1] + o[:, 1]) / 2, m[:, 2], m[:, 3]], -1)
    torch.testing.assert_close(changed.table, expected)


@pytest.mark.parametrize("text", ["3", "3:", ":1", "1: x", "1: 1e3", "1: nan", "1: inf", "4: 1", "-1: 1", "1: 2: 3"])
def test_factors_that_cannot_be_read_are_refused_in_words(text):
    with pytest.raises(LoRWebError, match="factors has"):
        lora_factors(text, 4)


def test_a_factor_beyond_100_and_a_second_one_are_refused():
    with pytest.raises(LoRWebError, match="from -100 to 100"):
        lora_factors("1: 100.5", 4)
    with pytest.raises(LoRWebError, match="'0-2: 3', but LoRA 1 has a factor already"):
        lora_factors("1: 2, 0-2: 3", 4)
