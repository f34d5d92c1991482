from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import standins
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorweb_core import LoRWebError, load_basis
from lorweb_core.pictures.inspection_picture import inspection_picture
from lorweb_core.pictures.thumbnails import make_thumbnails
from lorweb_core.space.inspection import entropy, inspect_batch, inspect_mixture
from lorweb_core.triplet import Triplet


@pytest.fixture(params=[True, False], ids=["softmax", "tanh"])
def basis(weights, save, request):
    weights["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(6.0)
    return load_basis(save(weights, linear=2, lora_softmax=request.param, query_mode="cat-aa'b"))


@pytest.fixture
def mixture(basis):
    return basis.route(torch.linspace(-2, 3, 12))


@pytest.fixture
def other(basis):
    return basis.route(torch.linspace(1, -2, 12).sin())


def dense(mixture) -> list[torch.Tensor]:
    """ΔW of each layer, flat."""
    return [mixture.delta(layer).double().flatten() for layer in mixture.basis.layers]


def only(mixture, lora: int):
    return mixture.with_table(mixture.table * torch.nn.functional.one_hot(torch.tensor(lora), 4))


def test_sizes_are_those_of_the_dense_changes(mixture):
    seen = inspect_mixture(mixture)
    changes = dense(mixture)
    expected = torch.stack([change.norm() for change in changes])
    torch.testing.assert_close(seen.layer_sizes, expected, rtol=1e-5, atol=0)
    assert seen.total == pytest.approx(float(torch.cat(changes).norm()), rel=1e-5)
    each = torch.stack([torch.cat(dense(only(mixture, n))).norm() for n in range(4)])
    torch.testing.assert_close(seen.lora_sizes, each, rtol=1e-5, atol=0)
    assert seen.ranking == sorted(range(4), key=lambda n: -each[n])
    torch.testing.assert_close(seen.shares, each / each.sum(), rtol=1e-5, atol=0)
    assert torch.equal(seen.coefficients, torch.stack(list(mixture.coefficients.values())))


def test_entropy_is_that_of_the_absolute_coefficients_in_bits(mixture):
    seen = inspect_mixture(mixture)
    for layer, found in zip(mixture.basis.layers, seen.entropy.tolist()):
        sizes = [abs(c) for c in mixture.coefficients[layer].tolist()]
        expected = -sum(p * math.log2(p) for p in (size / sum(sizes) for size in sizes))
        assert found == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 64), st.floats(-3, 3).filter(lambda c: abs(c) > 1e-3))
def test_entropy_is_log2_of_how_many_are_alike(n, c):
    table = torch.zeros(1, 64)
    table[0, :n] = c
    assert float(entropy(table)) == pytest.approx(math.log2(n), abs=1e-6)


def test_a_comparison_is_that_of_the_dense_changes(mixture, other):
    compared = inspect_mixture(mixture, other).compared
    x, y = dense(mixture), dense(other)
    cosine = torch.nn.functional.cosine_similarity
    assert compared.change_cosine == pytest.approx(float(cosine(torch.cat(x), torch.cat(y), dim=0)), abs=1e-5)
    each = torch.stack([cosine(a, b, dim=0) for a, b in zip(x, y)])
    torch.testing.assert_close(compared.layer_change_cosines, each, rtol=0, atol=1e-5)
    p, q = mixture.table.double(), other.table.double()
    assert compared.cosine == pytest.approx(float(cosine(p.flatten(), q.flatten(), dim=0)), abs=1e-6)
    torch.testing.assert_close(compared.layer_cosines, cosine(p, q), rtol=0, atol=1e-6)
    assert torch.equal(compared.difference, mixture.table - other.table)
    assert compared.other.total == pytest.approx(float(torch.cat(y).norm()), rel=1e-5)


def test_a_mixture_is_along_itself_and_against_its_negative(mixture):
    for factor, cosine in ((1, 1), (0.5, 1), (-2, -1)):
        compared = inspect_mixture(mixture, mixture.with_table(factor * mixture.table)).compared
        assert compared.cosine == pytest.approx(cosine)
        assert compared.change_cosine == pytest.approx(cosine)


def test_a_mixture_of_nothing_has_no_size_and_no_direction(mixture):
    nothing = mixture.with_table(torch.zeros_like(mixture.table))
    seen = inspect_mixture(nothing, mixture)
    assert (seen.total, seen.compared.cosine, seen.compared.change_cosine) == (0, 0, 0)
    for values in (seen.entropy, seen.layer_sizes, seen.lora_sizes, seen.shares, seen.compared.layer_cosines):
        assert not values.any()
    for inspection in (seen, inspect_mixture(nothing), inspect_mixture(nothing, nothing)):
        assert "NaN" not in inspection.to_json()
        assert inspection_picture(inspection).isfinite().all()


def test_the_json_is_strict_and_says_what_the_numbers_say(mixture, other):
    def refuse(constant: str):
        raise AssertionError(constant)

    seen = inspect_mixture(mixture, other)
    said = json.loads(seen.to_json(), parse_constant=refuse)
    assert (said["basis"], said["loras"]) == ("basis.safetensors", 4)
    assert said["total_size"] == pytest.approx(seen.total)
    assert [entry["lora"] for entry in said["ranking"]] == seen.ranking
    sizes = [entry["size"] for entry in said["ranking"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(entry["share"] for entry in said["ranking"]) == pytest.approx(1)
    assert [layer["name"] for layer in said["layers"]] == list(mixture.basis.layers)
    by_name = {layer["name"]: layer for layer in said["layers"]}
    query = by_name["transformer.transformer_blocks.0.attn.add_q_proj"]
    assert [query[key] for key in ("block", "index", "kind", "stream")] == ["double", 0, "attention", "text"]
    for name, layer in by_name.items():
        assert layer["coefficients"] == pytest.approx(mixture.coefficients[name].tolist(), rel=1e-6)
    assert [layer["size"] for layer in said["layers"]] == pytest.approx(seen.layer_sizes.tolist())
    assert [layer["entropy_bits"] for layer in said["layers"]] == pytest.approx(seen.entropy.tolist())
    compared = said["compared"]
    assert compared["cosine"] == pytest.approx(seen.compared.cosine)
    assert compared["other"]["layers"][3]["coefficients"] == pytest.approx(other.table[3].tolist(), rel=1e-6)
    assert compared["layers"][3]["difference"] == pytest.approx(seen.compared.difference[3].tolist(), rel=1e-5)
    assert "compared" not in json.loads(inspect_mixture(mixture).to_json())


def test_pictures_show_which_mixture_and_which_comparison_it_is(mixture, other):
    alone, another, both = (
        inspection_picture(inspect_mixture(*mixtures)) for mixtures in ((mixture,), (other,), (mixture, other))
    )
    assert alone.shape == another.shape
    assert not torch.equal(alone, another)
    assert torch.equal(alone, inspection_picture(inspect_mixture(mixture)))
    assert both.shape[1] > alone.shape[1]
    light = inspection_picture(inspect_mixture(mixture), "light")
    assert light.mean() > 0.7 > 0.3 > alone.mean()


def test_the_columns_of_the_heat_map_are_the_loras(mixture):
    table = mixture.table
    table[0, 1], table[0, 3] = table.abs().max(), -table.abs().max()  # keeps the scale of both
    without = table.clone()
    without[5:, 2] = 0
    before, after = (inspection_picture(inspect_mixture(mixture.with_table(t))) for t in (table, without))
    changed = (before != after).any(-1)
    below = changed[changed.shape[0] // 2 : -60]  # under the bars, above the legend
    columns = [bool(below[:, 148 + 48 * n : 148 + 48 * (n + 1)].any()) for n in range(4)]  # 148: left of the heat map
    assert columns == [False, False, True, False]


@pytest.mark.parametrize(
    ("n", "doubles", "singles"), [(1, 0, 1), (4, 0, 1), (64, 0, 1), (200, 0, 1), (4, 19, 38), (64, 19, 38), (200, 1, 1)]
)
def test_pictures_are_of_sensible_sizes(save, n, doubles, singles):
    weights = standins.basis(standins.block_linears(2, doubles, singles), n=n, rank=1, keys=2, query=12)
    if doubles == 0:  # one layer
        weights = {name: tensor for name, tensor in weights.items() if ".proj_out." in name}
    basis = load_basis(save(weights, linear=1, query_mode="cat-aa'b"))
    x, y = basis.route(torch.randn(12)), basis.route(torch.randn(12))
    scene = standins.picture(False, "house", (48, 300))
    x = replace(x, thumbnails=make_thumbnails([Triplet([(scene, scene)], scene)]) * 9)
    for inspection in (inspect_mixture(x), inspect_mixture(x, y), inspect_mixture(y, x)):
        height, width, channels = inspection_picture(inspection).shape
        assert 480 <= width <= 1600
        assert 300 <= height <= 1600
        assert channels == 3


def test_layers_that_are_in_no_block_are_shown_too(weights, save):
    extra = {name.replace("transformer_blocks.0.", "elsewhere."): t.clone() for name, t in weights.items()}
    seen = inspect_mixture(load_basis(save({**weights, **extra})).route(torch.randn(12)))
    assert {layer["block"] for layer in json.loads(seen.to_json())["layers"]} == {"double", "single", "other"}
    assert inspection_picture(seen).shape[0] > 480


def test_a_batch_is_one_inspection_for_each_analogy(basis):
    batch, single = basis.route(torch.randn(3, 1, 12)), basis.route(torch.randn(12))
    for other in (None, single, batch):
        seen = inspect_batch(batch, other)
        for i, one in enumerate(seen):
            assert torch.equal(one.coefficients, batch.table[:, i])
        assert len({inspection_picture(one).shape for one in seen}) == 1
    assert [one.compared.cosine for one in inspect_batch(batch, batch)] == pytest.approx([1, 1, 1])
    with pytest.raises(LoRWebError, match=r"of 3 analogies and the one to compare it with of 2"):
        inspect_batch(batch, basis.route(torch.randn(2, 1, 12)))
    with pytest.raises(LoRWebError, match=r"batch of 3 analogies; expected one"):
        inspect_mixture(batch)


def test_mixtures_of_two_bases_are_refused(mixture, weights, save):
    changed = {name: tensor + 1 if "keys" in name else tensor for name, tensor in weights.items()}
    stranger = load_basis(save(changed, name="stranger")).route(torch.randn(12))
    with pytest.raises(LoRWebError, match=r"two bases, basis\.safetensors and stranger\.safetensors"):
        inspect_mixture(mixture, stranger)


def test_the_same_basis_with_its_layers_in_another_order_is_compared_layer_by_layer(mixture):
    turned = replace(mixture.basis, layers=dict(reversed(mixture.basis.layers.items())))
    compared = inspect_mixture(mixture, replace(mixture, basis=turned)).compared
    assert not compared.difference.any()
    assert compared.change_cosine == pytest.approx(1)


def test_a_mixture_without_coefficients_is_refused(weights, save):
    for name in [name for name in weights if name.endswith("att_lora_to_q.weight")]:
        fan_in = weights[name.replace("att_lora_to_q.weight", "lora_A")].shape[1]
        weights[name] = torch.randn(8, fan_in).half()
    routed = load_basis(save(weights, external_query=False)).route(None)
    with pytest.raises(LoRWebError, match=r"routes by each layer's own input"):
        inspect_mixture(routed)
    with pytest.raises(LoRWebError, match=r"routes by each layer's own input"):
        inspect_batch(routed)


def test_nan_is_refused_by_the_layers_name(mixture):
    layer = list(mixture.basis.layers)[2]
    broken = replace(mixture, coefficients={**mixture.coefficients, layer: torch.full((4,), math.nan)})
    with pytest.raises(LoRWebError, match=f"layer {layer} have NaN"):
        inspect_mixture(mixture, broken)


def test_an_unknown_theme_is_refused(mixture):
    with pytest.raises(LoRWebError, match=r"theme is 'pink'; expected one of: dark, light"):
        inspection_picture(inspect_mixture(mixture), "pink")


def test_progress_may_stop_the_reading_of_the_basis(mixture):
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == len(mixture.basis.layers)
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        inspect_mixture(mixture, progress=stop)
