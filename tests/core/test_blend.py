from __future__ import annotations

from dataclasses import replace

import pytest
import standins
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorweb_core import LoRWebError, Mixture, load_basis
from lorweb_core.space.blend import SPACES, blend, sweep
from lorweb_core.space.edit import Edit, edit


@pytest.fixture(params=[True, False], ids=["softmax", "tanh"])
def basis(request, weights, save):
    return load_basis(save(weights, lora_softmax=request.param, query_mode="cat-aa'b"))


@pytest.fixture
def mixtures(basis):
    generator = torch.Generator().manual_seed(1)
    return [basis.route(torch.randn(12, generator=generator)) for _ in range(3)]


def logits_of(mixture: Mixture) -> dict[str, torch.Tensor]:
    """As the encoder has them, from the query's side: what softmax or tanh takes back, in float64."""
    softmax = mixture.basis.config.lora_softmax
    return {layer: c.double().log() if softmax else c.double().atanh() for layer, c in mixture.coefficients.items()}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("alone", [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
def test_a_weight_of_1_and_else_0_gives_the_one_mixture_bit_for_bit(mixtures, space, alone):
    chosen = mixtures[alone.index(1.0)]
    for layer, c in blend(mixtures, alone, space).coefficients.items():
        assert torch.equal(c, chosen.coefficients[layer])


def test_changes_add_up_as_the_weights_say(mixtures, basis):
    blended = blend(mixtures, [0.5, 2.0, -1.0])
    for layer in basis.layers:
        dense = 0.5 * mixtures[0].delta(layer) + 2.0 * mixtures[1].delta(layer) - mixtures[2].delta(layer)
        torch.testing.assert_close(blended.delta(layer), dense, atol=1e-6, rtol=1e-5)


def test_in_logits_the_blend_is_the_one_before_the_activation(mixtures, basis):
    weights = [0.4, 1.1, -0.6]
    blended = blend(mixtures, weights, "logits")
    for layer in basis.layers:
        logits = sum(w * logits_of(m)[layer] for w, m in zip(weights, mixtures))
        expected = logits.softmax(-1) if basis.config.lora_softmax else logits.tanh()
        torch.testing.assert_close(blended.coefficients[layer].double(), expected, atol=1e-6, rtol=1e-4)


def test_a_blend_in_logits_of_one_head_is_that_of_the_queries(basis):
    """Logits are linear in the query: halfway between two analogies' logits is halfway between their embeddings."""
    one, other = torch.randn(2, 12, generator=torch.Generator().manual_seed(2))
    halfway = blend([basis.route(one), basis.route(other)], [0.5, 0.5], "logits")
    expected = basis.route((one + other) / 2)
    for layer in basis.layers:
        torch.testing.assert_close(halfway.coefficients[layer], expected.coefficients[layer], atol=1e-5, rtol=1e-3)


def test_coefficients_that_vanish_stay_out_in_logits(mixtures, basis):
    muted = mixtures[0].with_table(mixtures[0].table * torch.tensor([1.0, 0.0, 1.0, 1.0]))
    blended = blend([muted, mixtures[1]], [0.5, 0.5], "logits").table
    assert blended.isfinite().all()
    if basis.config.lora_softmax:
        assert (blended[:, 1] < 1e-10).all()


def test_saturated_coefficients_stay_finite_in_logits(mixtures, basis):
    saturated = mixtures[0].with_table(torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(basis.layers), -1))
    for weights in ([0.5, 0.5], [2.0, -1.0], [-1.0, 1.0]):
        table = blend([saturated, mixtures[1]], weights, "logits").table
        assert table.abs().amax() <= 1 + 1e-6  # the mass of float32 coefficients is 1 to this


def test_the_sweep_goes_from_the_first_alone_to_the_blend(mixtures, basis):
    for space in SPACES:
        line = sweep(mixtures, [0.0, 1.5, -0.5], 5, space)
        assert len(line) == 5
        assert torch.equal(line[0].table, mixtures[0].table)
        assert torch.equal(line[-1].table, blend(mixtures, [0.0, 1.5, -0.5], space).table)
    middle = sweep(mixtures[:2], [0.0, 1.0], 3)[1]
    torch.testing.assert_close(middle.table, (mixtures[0].table + mixtures[1].table) / 2)


def test_a_single_mixture_goes_with_a_batch(basis):
    batch = basis.route(torch.randn(3, 1, 12))
    single = basis.route(torch.randn(12))
    blended = blend([single, batch], [1.0, -1.0])
    assert blended.analogies == 3
    for index, part in enumerate(batch.split()):
        torch.testing.assert_close(blended.table[:, index], single.table - part.table)


def test_thumbnails_of_all_are_kept_once(mixtures):
    from lorweb_core.pictures.thumbnails import make_thumbnails
    from lorweb_core.triplet import triplets

    shown = make_thumbnails(triplets(*torch.rand(3, 20, 30, 3)))
    one, other = (Mixture(m.basis, m.coefficients, shown) for m in mixtures[:2])
    assert blend([one, other, mixtures[2]], [1, 1, 1]).thumbnails == shown


def test_a_copy_of_the_same_file_is_the_same_basis(weights, save, tmp_path):
    one, other = (load_basis(save(weights, name=name, query_mode="cat-aa'b")) for name in ("one", "other"))
    query = torch.randn(12)
    assert torch.equal(blend([one.route(query), other.route(query)], [0.0, 1.0]).table, one.route(query).table)


def test_layers_may_lie_in_another_order_in_a_copy_of_the_basis(basis):
    turned = replace(basis, layers=dict(reversed(basis.layers.items())))
    one, other = basis.route(torch.randn(12)), turned.route(torch.randn(12))
    blended = blend([one, other], [0.5, 0.5])
    for layer, c in blended.coefficients.items():
        torch.testing.assert_close(c, (one.coefficients[layer] + other.coefficients[layer]) / 2)


def test_mixtures_of_different_bases_are_refused(weights, save, mixtures):
    foreign = load_basis(save(standins.basis(_blocks(), n=4, rank=2, keys=8, query=12, seed=1), name="foreign"))
    with pytest.raises(LoRWebError, match=r"of two bases, basis\.safetensors and foreign\.safetensors"):
        blend([mixtures[0], foreign.route(torch.randn(12))], [1.0, 1.0])


def _blocks() -> dict:
    return standins.block_linears(hidden=16, doubles=1, singles=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_must_be_numbers(mixtures, bad):
    with pytest.raises(LoRWebError, match=r"A weight is (nan|inf); expected a number"):
        blend(mixtures, [1.0, bad, 0.0])


def test_other_bad_input_is_said(mixtures, basis):
    with pytest.raises(LoRWebError, match="space is 'rgb'; expected one of: coefficients, logits"):
        blend(mixtures, [1, 1, 1], "rgb")
    with pytest.raises(LoRWebError, match="3 mixtures and 2 weights"):
        blend(mixtures, [1, 1])
    with pytest.raises(LoRWebError, match="of 2 and 3 analogies"):
        blend([basis.route(torch.randn(2, 1, 12)), basis.route(torch.randn(3, 1, 12))], [1, 1])
    with pytest.raises(LoRWebError, match="steps is 1"):
        sweep(mixtures, [1, 1, 1], 1)
    impossible = blend(mixtures, [2.0, -3.0, 0.0])
    with pytest.raises(LoRWebError, match="blended or edited before"):
        blend([impossible, mixtures[0]], [0.5, 0.5], "logits")
    with pytest.raises(LoRWebError, match="NaN or infinity"):
        blend(mixtures, [3e38, 3e38, 3e38])


@pytest.fixture
def from_origins(basis, mixtures):
    """The same mixtures, each with an origin of its own."""
    generator = torch.Generator().manual_seed(7)
    return [replace(mixture, origin=basis.route(torch.randn(12, generator=generator))) for mixture in mixtures]


def test_from_their_origin_edits_add_up(from_origins, basis):
    origin = from_origins[0].origin
    one, other = (replace(mixture, origin=origin) for mixture in from_origins[:2])
    both = blend([one, other], [1.0, 1.0], origin="no edit")
    twice_without = blend([one, other], [2.0, -1.5], origin="no edit")
    for layer in basis.layers:
        o, x, y = (mixture.delta(layer).double() for mixture in (origin, one, other))
        torch.testing.assert_close(both.delta(layer).double(), o + (x - o) + (y - o), atol=1e-6, rtol=1e-5)
        expected = o + 2 * (x - o) - 1.5 * (y - o)
        torch.testing.assert_close(twice_without.delta(layer).double(), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(both.origin.delta(layer), origin.delta(layer))


def test_of_several_origins_each_counts_as_its_weight(from_origins, basis):
    blended = blend(from_origins, [2.0, -0.5, 0.0], origin="no edit")
    for layer in basis.layers:
        x, y = (mixture.delta(layer).double() for mixture in from_origins[:2])
        o, p = (mixture.origin.delta(layer).double() for mixture in from_origins[:2])
        origin = (2 * o + 0.5 * p) / 2.5
        torch.testing.assert_close(blended.origin.delta(layer).double(), origin, atol=1e-6, rtol=1e-5)
        expected = 2 * x - 0.5 * y + (1 - 2 + 0.5) * origin
        torch.testing.assert_close(blended.delta(layer).double(), expected, atol=1e-6, rtol=1e-5)


def test_from_an_origin_logits_are_those_of_the_queries(basis):
    """Logits are linear in the query: o + Σ w (m − o) of them is the same of the queries."""
    none, one, other = torch.randn(3, 12, generator=torch.Generator().manual_seed(8))
    mixtures = [replace(basis.route(query), origin=basis.route(none)) for query in (one, other)]
    blended = blend(mixtures, [1.2, -0.7], "logits", "no edit")
    expected = basis.route(none + 1.2 * (one - none) - 0.7 * (other - none))
    torch.testing.assert_close(blended.table, expected.table, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(blended.origin.table, basis.route(none).table, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("given", [(1.0, 0.0, 0.0), (0.25, 0.75, 0.0), (1.5, -1.0, 0.5)])
def test_where_weights_add_up_to_1_the_origin_changes_nothing(from_origins, space, given):
    from_zero, from_no_edit = (blend(from_origins, given, space, origin).table for origin in ("zero", "no edit"))
    assert torch.equal(from_zero, from_no_edit)


def test_without_any_weight_the_blend_is_the_origin(from_origins):
    blended = blend(from_origins, [0.0, 0.0, 0.0], origin="no edit")
    expected = torch.stack([mixture.origin.table for mixture in from_origins]).mean(0)
    torch.testing.assert_close(blended.table, expected)
    assert not blend(from_origins, [0.0, 0.0, 0.0]).table.any()


def test_a_sweep_from_the_origin_is_a_line_of_strengths(from_origins):
    mixture = from_origins[0]
    nothing = edit(mixture, Edit(scale=0.0, origin="no edit"))
    for step, point in enumerate(sweep([nothing, mixture], [0.0, 2.0], 5, origin="no edit")):
        strength = step / 2
        expected = mixture.origin.table + strength * (mixture.table - mixture.origin.table)
        torch.testing.assert_close(point.table, expected, atol=1e-6, rtol=1e-5)


def test_blends_of_blends_from_one_origin_are_blends(from_origins):
    x, y, z = (replace(mixture, origin=from_origins[0].origin) for mixture in from_origins)
    chained = blend([blend([x, y], [1.0, 0.6], origin="no edit"), z], [-0.5, 2.0], origin="no edit")
    at_once = blend([x, y, z], [-0.5, -0.3, 2.0], origin="no edit")
    torch.testing.assert_close(chained.table, at_once.table, atol=1e-6, rtol=1e-5)


def test_each_of_a_batch_has_its_origin(basis, from_origins):
    batch = replace(basis.route(torch.randn(2, 1, 12)), origin=basis.route(torch.randn(2, 1, 12)))
    blended = blend([from_origins[0], batch], [1.0, 1.0], origin="no edit")
    for one, part in zip(blended.split(), batch.split()):
        expected = blend([from_origins[0], part], [1.0, 1.0], origin="no edit")
        torch.testing.assert_close(one.table, expected.table)
        torch.testing.assert_close(one.origin.table, expected.origin.table)


def test_a_mixture_without_an_origin_is_refused_where_weights_count_from_it(mixtures, from_origins):
    with pytest.raises(LoRWebError, match="no origin.*Make it again with the Analogy Encoder, or set origin to zero"):
        blend([from_origins[0], mixtures[1]], [1.0, 1.0], origin="no edit")
    assert blend([from_origins[0], mixtures[1]], [1.0, 1.0]).origin is None
    assert blend([from_origins[0], mixtures[1]], [2.0, 0.0], origin="no edit").origin is not None
    with pytest.raises(LoRWebError, match="origin is 'nowhere'; expected one of: zero, no edit"):
        blend(mixtures, [1.0, 1.0, 1.0], origin="nowhere")


@given(weights=st.lists(st.floats(-3, 3), min_size=4, max_size=4), seed=st.integers(0, 1000))
def test_blends_of_blends_are_blends(weights, seed):
    """So that more than one node holds can be blended by chaining: (w₁ x + w₂ y) + w₃ z, in coefficients."""
    x, y, z = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed)).unbind(0)
    mixtures = [_Like(table) for table in (x, y, z)]
    first, second, third, outer = weights
    chained = blend([blend(mixtures[:2], [first, second]), mixtures[2]], [outer, third]).table
    at_once = blend(mixtures, [outer * first, outer * second, third]).table
    torch.testing.assert_close(chained, at_once, atol=1e-5, rtol=1e-5)


def _Like(table: torch.Tensor) -> Mixture:
    return Mixture(_BASIS, dict(zip(_BASIS.layers, table)))


class _Basis:
    name = "basis"
    layers = dict.fromkeys("vwxyz")


_BASIS = _Basis()
