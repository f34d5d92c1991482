"""The network between a query and all layers' projections: against its formula, on disk, in training and in tools."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_world import (
    BLOCK,
    EMBEDDING,
    PARTS,
    Q,
    TinyBase,
    TinySource,
    begin,
    plain_coefficients,
    tiny_basis,
    tiny_config,
)

from lorweb_core import LoRWebError, load_basis
from lorweb_core.config import BasisConfig
from lorweb_core.query_network import TENSORS, QueryNetwork
from lorweb_core.space.fingerprint import fingerprint
from lorweb_core.space.merging import merge_bases
from lorweb_core.space.pruning import prune_basis
from lorweb_core.training.objective import mean_entropy
from lorweb_core.training.run_folder import RunFolder
from lorweb_core.training.settings.document import config_fingerprint, training_config, training_document
from lorweb_core.training.trainable_basis import TrainableBasis

WIDTH, HIDDEN = PARTS * EMBEDDING, 5


def plain_network(tensors: dict[str, Tensor], query: Tensor) -> Tensor:
    """Compute the formula for one query, (Q,), in double precision."""
    inner, inner_bias, outer, outer_bias = (
        tensors[f"query_network.{name}"].double() for name in ("in.weight", "in.bias", "out.weight", "out.bias")
    )
    query = query.double()
    normed = (query - query.mean()) / (query.var(unbiased=False) + 1e-5).sqrt()
    hidden = inner @ normed + inner_bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return query + outer @ hidden + outer_bias


def tensors_of(seed: int = 0, network: bool = True) -> dict[str, Tensor]:
    """Make a basis of one layer, 3 LoRAs of rank 2 with keys of 4 values, for queries of WIDTH values."""
    random = torch.Generator().manual_seed(seed)
    shapes = {
        f"{Q}.lora_A": (3, 6, 2),
        f"{Q}.lora_B": (3, 2, 6),
        f"{Q}.lora_keys": (3, 4),
        f"{Q}.att_lora_to_q.weight": (4, WIDTH),
    }
    if network:
        shapes |= {
            "query_network.in.weight": (HIDDEN, WIDTH),
            "query_network.in.bias": (HIDDEN,),
            "query_network.out.weight": (WIDTH, HIDDEN),
            "query_network.out.bias": (WIDTH,),
        }
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def write(path: Path, tensors: dict[str, Tensor], **network_kwargs: object) -> Path:
    save_file(tensors, path)
    if network_kwargs:
        document = {"config": {"process": [{"network": {"linear": 2, "network_kwargs": network_kwargs}}]}}
        path.with_suffix(".yaml").write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def query():
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(7))


def test_routes_by_what_the_network_makes_of_the_query(tmp_path, query):
    tensors = tensors_of()
    basis = load_basis(write(tmp_path / "basis.safetensors", tensors))
    seen = plain_network(tensors, query).float()
    expected = plain_coefficients(
        seen[None], tensors[f"{Q}.lora_keys"], tensors[f"{Q}.att_lora_to_q.weight"], BasisConfig()
    )
    assert basis.config.query_network == HIDDEN
    torch.testing.assert_close(basis.route(query).coefficients[Q], expected)
    batch = basis.route(torch.stack([query, -query])[:, None])
    torch.testing.assert_close(batch.coefficients[Q][0], expected)
    without = load_basis(write(tmp_path / "without.safetensors", tensors_of(network=False)))
    assert not torch.allclose(without.route(query).coefficients[Q], expected, atol=1e-3)


def test_learned_basis_begins_as_the_one_without_and_then_routes_by_the_formula():
    base, batch = TinyBase(), TinySource(batch_size=3).draw(0)
    plain, basis = tiny_basis(base), tiny_basis(base, query_network=HIDDEN)
    for layer, coefficients in plain.route(batch.query).items():
        torch.testing.assert_close(basis.route(batch.query)[layer], coefficients, rtol=0, atol=0)
    torch.nn.init.normal_(basis.query_network.outer.weight)
    routed, tensors = basis.route(batch.query), dict(zip(TENSORS, basis.published_network(), strict=True))
    for name, layer in basis.named_layers():
        for coefficients, query in zip(routed[name], batch.query.flatten(1), strict=True):
            seen = plain_network(tensors, query).float()
            expected = plain_coefficients(seen[None], layer.keys, layer.project.weight, basis.config)
            torch.testing.assert_close(coefficients, expected)


def test_training_learns_the_network_and_saves_it(tmp_path):
    config = tiny_config(tmp_path, {"query_network": HIDDEN}, steps=3)
    training = begin(config)
    before = [values.clone() for values in training.basis.published_network()]
    for _ in range(3):
        training.step()
    assert all(not torch.equal(now, was) for now, was in zip(training.basis.published_network(), before, strict=True))
    folder = RunFolder(config)
    with folder.locked():
        saved = folder.save(training, final=True)
    batch = training.source.draw(9)
    for layer, coefficients in training.basis.route(batch.query).items():
        torch.testing.assert_close(saved.route(batch.query).coefficients[layer], coefficients)
    again = TrainableBasis(training.base.shapes, training.basis.config, WIDTH)
    again.load(saved.layers, saved.query_network)
    torch.testing.assert_close(again.route(batch.query)[Q], training.basis.route(batch.query)[Q])
    with pytest.raises(ValueError, match="query network"):
        again.load(saved.layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_network.out.bias": None}, "no query_network.out.bias"),
        ({"query_network.in.weight": torch.zeros(HIDDEN, WIDTH + 1)}, "expected in (H, Q) and (H,), out (Q, H)"),
        ({"query_network.in.weight": torch.zeros(HIDDEN * WIDTH)}, "expected in (H, Q) and (H,), out (Q, H)"),
        ({"query_network.in.bias": torch.zeros(HIDDEN + 1)}, "expected in (H, Q) and (H,), out (Q, H)"),
        ({"query_network.out.weight": torch.zeros(WIDTH, HIDDEN, dtype=torch.int32)}, "stored as torch.int32"),
        ({f"{Q}.att_lora_to_q.weight": torch.zeros(4, WIDTH - 1)}, f"takes and gives queries of {WIDTH} values, but"),
        ({f"{BLOCK}.query_network.in.weight": torch.zeros(1)}, "a LoRWeB basis does not have"),
    ],
)
def test_network_that_fits_no_layer_is_named(tmp_path, change, message):
    tensors = {name: values for name, values in (tensors_of() | change).items() if values is not None}
    with pytest.raises(LoRWebError) as error:
        load_basis(write(tmp_path / "basis.safetensors", tensors))
    assert "basis.safetensors" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("network", "kwargs", "message"),
    [
        (True, {"query_network": HIDDEN + 1}, f"says query_network: {HIDDEN + 1}, but"),
        (True, {"query_network": 0}, f"has one of hidden width {HIDDEN}"),
        (False, {"query_network": HIDDEN}, "has no query_network.in.weight"),
        (True, {"external_query": False}, "which takes the query of images"),
        (False, {"external_query": False, "query_network": 3}, "expected 0, as external_query is false"),
        (False, {"query_network": -1}, "expected a whole number from 0"),
    ],
)
def test_config_that_contradicts_the_tensors_is_named(tmp_path, network, kwargs, message):
    with pytest.raises(LoRWebError) as error:
        load_basis(write(tmp_path / "basis.safetensors", tensors_of(network=network), **kwargs))
    assert message in str(error.value)


@pytest.mark.parametrize("name", TENSORS)
def test_network_with_nan_is_named_before_it_routes(tmp_path, name, query):
    tensors = tensors_of()
    tensors[name].view(-1)[0] = math.nan
    with pytest.raises(LoRWebError, match=f"{name} has NaN"):
        load_basis(write(tmp_path / "basis.safetensors", tensors)).route(query)


def test_tools_keep_the_network(tmp_path, query):
    path = write(tmp_path / "basis.safetensors", tensors_of(), query_network=HIDDEN)
    basis = load_basis(path)
    twice = merge_bases(basis, load_basis(path), tmp_path / "merged.safetensors")
    torch.testing.assert_close(twice.route(query).coefficients[Q], basis.route(query).coefficients[Q].repeat(2))
    mixture = basis.route(query)
    mixture = mixture.with_table(torch.tensor([[1.0, 0.0, 1.0]]))
    smaller = prune_basis(basis, [mixture], tmp_path / "smaller.safetensors").basis
    part = basis.route(query).coefficients[Q][[0, 2]]
    torch.testing.assert_close(smaller.route(query).coefficients[Q], part / part.sum())


def test_bases_of_two_networks_are_not_merged(tmp_path):
    one = load_basis(write(tmp_path / "one.safetensors", tensors_of(), query_mode="cat-aa'b"))
    changed = tensors_of()
    changed["query_network.out.bias"] += 1
    other = load_basis(write(tmp_path / "other.safetensors", changed, query_mode="cat-aa'b"))
    none = load_basis(write(tmp_path / "none.safetensors", tensors_of(network=False), query_mode="cat-aa'b"))
    with pytest.raises(LoRWebError, match="each has a query network of its own"):
        merge_bases(one, other, tmp_path / "merged.safetensors")
    with pytest.raises(LoRWebError, match="query_network is 5 in the first and 0 in the second"):
        merge_bases(one, none, tmp_path / "merged.safetensors")
    assert fingerprint(one) != fingerprint(other)


def test_file_without_network_says_nothing_of_it(tmp_path):
    basis = load_basis(write(tmp_path / "basis.safetensors", tensors_of(network=False), query_mode="cat-aa'b"))
    merged = tmp_path / "merged.safetensors"
    merge_bases(basis, basis, merged)
    assert "query_network" not in merged.with_suffix(".yaml").read_text()
    assert not [name for name in load_file(merged) if "query_network" in name]


def test_hidden_width_of_the_network_is_that_of_its_tensors():
    network = QueryNetwork(torch.zeros(2, 3), torch.zeros(2), torch.zeros(3, 2), torch.zeros(3))
    assert network.hidden_width == 2


def test_dropped_values_are_zero_and_the_others_scaled_up(tmp_path, monkeypatch):
    training = begin(tiny_config(tmp_path, steps=1, query_dropout=0.25))
    batch, routed = training.source.draw(0), []
    route = training.basis.route
    monkeypatch.setattr(training.basis, "route", lambda query, *rest: routed.append(query) or route(query, *rest))
    training.step()
    (query,) = routed
    kept = query != 0
    torch.testing.assert_close(query[kept], batch.query[kept] / 0.75)
    assert 0 < kept.sum() < kept.numel()


def test_entropy_is_0_for_one_lora_1_for_all_alike_and_counts_each_layer():
    one, alike = torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 4), 0.25)
    half = torch.tensor([[-0.5, 0.5, 0, 0]])
    assert mean_entropy({"a": one}).item() == 0
    torch.testing.assert_close(mean_entropy({"a": alike, "b": one}), torch.tensor([0.5]))
    torch.testing.assert_close(mean_entropy({"a": half}), torch.tensor([0.5]))


@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_loss_has_the_entropy_by_its_weight(tmp_path, weight):
    plain, weighted = (begin(tiny_config(tmp_path, steps=1, coefficient_entropy=w)) for w in (0.0, weight))
    routed = plain.basis.route(plain.source.draw(0).query)
    expected = torch.stack([-(c * c.log()).sum(-1) / math.log(3) for c in routed.values()]).mean()
    assert weighted.step().loss - plain.step().loss == pytest.approx(weight * expected.item(), rel=1e-4)


@pytest.mark.parametrize(("key", "value"), [("query_dropout", 0.1), ("coefficient_entropy", -0.1)])
def test_settings_of_routing_need_an_external_query(tmp_path, key, value):
    config = tiny_config(tmp_path, {"external_query": False, "external_query_model": None, "query_mode": "caa'"})
    document = training_document(replace(config, train=replace(config.train, **{key: value})))
    with pytest.raises(LoRWebError, match=f"train.{key} is {value}; expected 0, as external_query is false"):
        training_config(document, "train.yaml")


def test_settings_are_read_back_and_tell_runs_apart(tmp_path):
    plain = tiny_config(tmp_path)
    changed = [
        tiny_config(tmp_path, {"query_network": 8}),
        tiny_config(tmp_path, query_dropout=0.1),
        tiny_config(tmp_path, coefficient_entropy=-0.5),
    ]
    assert all(training_config(training_document(config), "train.yaml") == config for config in changed)
    assert len({config_fingerprint(config) for config in (plain, *changed)}) == 4
