"""Every layout a basis may be stored in: several files, mixed ranks and dtypes, with and without projections."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
import standins
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

from lorweb_core import LoRWebError, load_basis
from lorweb_core.files.tensor_files import checkpoint_identity, is_shard

BLOCKS = standins.block_linears(hidden=16, doubles=1, singles=1)
LAYER = "transformer.transformer_blocks.0.attn.to_q"


def unprojected(weights: dict) -> dict:
    return {name: t for name, t in weights.items() if "att_lora_to_q" not in name}


@pytest.fixture
def index(weights, tmp_path) -> Path:
    """The basis in three files with their index, in Hugging Face's layout."""
    where = {}
    for i in range(3):
        part = {name: weights[name] for name in sorted(weights)[i::3]}
        name = f"big-{i + 1:05}-of-00003.safetensors"
        save_file(part, tmp_path / name)
        where |= dict.fromkeys(part, name)
    path = tmp_path / "big.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return path


def change(index: Path, **changes: object) -> None:
    """Overwrite entries of the index; an entry of None is taken out."""
    document = json.loads(index.read_text())
    where = {**document["weight_map"], **changes}
    document["weight_map"] = {name: file for name, file in where.items() if file is not None}
    index.write_text(json.dumps(document))


def refused(path: Path, *words: str) -> None:
    with pytest.raises(LoRWebError) as error:
        load_basis(path)
    for word in words:
        assert word in str(error.value)


def test_several_files_are_one_basis(weights, save, index):
    whole, parts = load_basis(save(weights)), load_basis(index)
    assert parts.name == "big.safetensors.index.json"
    query = torch.randn(12)
    expected, got = whole.route(query), parts.route(query)
    assert got.coefficients.keys() == expected.coefficients.keys()
    for layer in whole.layers:
        assert torch.equal(got.delta(layer), expected.delta(layer))


def test_the_config_of_several_files_is_found_by_their_name(index):
    def config(name: str, heads: int) -> None:
        network = {"network_kwargs": {"lora_heads": heads}}
        index.with_name(name).write_text(json.dumps({"config": {"process": [{"network": network}]}}))

    config("config.yaml", 2)
    assert load_basis(index).config.lora_heads == 2
    config("big.yaml", 4)
    assert load_basis(index).config.lora_heads == 4


@pytest.mark.parametrize("which", ["big.safetensors.index.json", "big-00002-of-00003.safetensors"])
def test_a_change_in_any_file_is_another_identity(index, which):
    before = load_basis(index).identity
    assert checkpoint_identity(index) == before
    os.utime(index.with_name(which), ns=(1, 1))
    assert load_basis(index).identity != before


def test_values_of_every_file_are_checked(weights, index):
    load_basis(index).check_values()
    shard = index.with_name("big-00003-of-00003.safetensors")
    part = {name: t.clone() for name, t in load_file(shard).items()}
    part[max(part)].view(-1)[0] = torch.nan
    shard.unlink()
    save_file(part, shard)
    os.utime(shard, ns=(1, 1))
    with pytest.raises(LoRWebError, match=r"big\.safetensors\.index\.json.*NaN"):
        load_basis(index).check_values()


def test_one_of_several_files_sends_to_the_index(index):
    shard = index.with_name("big-00002-of-00003.safetensors")
    refused(shard, shard.name, "one of several files", "big.safetensors.index.json")
    assert [is_shard(name) for name in ("x-00001-of-00001.safetensors", "x.safetensors")] == [False, False]


def test_a_missing_file_is_named(index):
    index.with_name("big-00002-of-00003.safetensors").unlink()
    refused(index, index.name, "big-00002-of-00003.safetensors", "No such file")


def test_a_damaged_file_is_named(index):
    shard = index.with_name("big-00002-of-00003.safetensors")
    shard.write_bytes(shard.read_bytes()[:-40])
    refused(index, index.name, f"{shard.name} is damaged")


def test_files_that_do_not_hold_what_the_index_says(index):
    key = f"{LAYER}.lora_A"
    change(index, **{f"{LAYER}.alpha": "big-00001-of-00003.safetensors"})
    refused(index, f"places {LAYER}.alpha in big-00001-of-00003.safetensors", "does not hold it")
    change(index, **{f"{LAYER}.alpha": None, key: None})
    refused(index, "safetensors holds", key, "two downloads")


@pytest.mark.parametrize("name", ["../basis.safetensors", "/tmp/x.safetensors", "a\\b.safetensors", "basis.bin", ""])
def test_an_index_that_leads_out_of_its_folder(index, name):
    change(index, **{f"{LAYER}.lora_A": name})
    refused(index, index.name, repr(name), "same folder")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "\x00", "[" * 9999])
def test_what_is_no_index(tmp_path, text):
    path = tmp_path / "x.safetensors.index.json"
    path.write_text(text)
    refused(path, path.name, "not the index")


@settings(max_examples=40)
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    )
)
def test_no_index_ends_in_another_error(tmp_path, document):
    path = tmp_path / "x.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": document}))
    refused(path, path.name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_are_kept(weights, save, dtype):
    basis = load_basis(save({name: t.to(dtype) for name, t in weights.items()}))
    assert {t.dtype for layer in basis.layers.values() for t in layer[:4]} == {dtype}
    assert basis.route(torch.randn(12)).delta(LAYER).dtype == torch.float32


def test_some_layers_only_and_ranks_and_alphas_of_their_own(weights, save):
    chosen = {name: t for name, t in weights.items() if ".attn." in name}
    chosen[f"{LAYER}.lora_A"], chosen[f"{LAYER}.lora_B"] = torch.randn(4, 16, 6).half(), torch.randn(4, 6, 16).half()
    chosen[f"{LAYER}.alpha"] = torch.tensor(3.0)
    for rank in (2, 6):
        basis = load_basis(save(chosen, linear=rank))
        assert all(".attn." in layer for layer in basis.layers)
        assert (basis.layers[LAYER].A.shape[2], basis.layers[LAYER].scale) == (6, 0.5)
    refused(save(chosen, linear=5), "linear: 5", "basis.yaml", "basis.safetensors")


def test_without_projections_the_query_is_compared_with_the_keys(weights, save):
    basis = load_basis(save(unprojected(weights)))
    assert basis.config.query_projection_type == "none"
    assert basis.query_width == 8
    query = torch.randn(8)
    for name, coefficients in basis.route(query).coefficients.items():
        logits = weights[f"{name}.lora_keys"].double() @ query.double() / 8**0.5
        torch.testing.assert_close(coefficients.double(), logits.softmax(-1), rtol=1e-5, atol=1e-6)


def test_a_projection_in_some_layers_only_is_an_incomplete_file(weights, save):
    del weights[f"{LAYER}.att_lora_to_q.weight"]
    refused(save(weights), LAYER, "att_lora_to_q")


def test_keys_of_several_widths_need_layers_routed_by_their_inputs(weights, save):
    weights = unprojected(weights)
    weights[f"{LAYER}.lora_keys"] = torch.randn(4, 6).half()
    refused(save(weights), LAYER, "N, D = (4, 6)", "(4, 8)", "its own input")


@pytest.mark.parametrize("projected", [True, False])
def test_queries_as_wide_as_each_layers_input(save, projected):
    weights = standins.basis(BLOCKS, n=4, rank=2, keys=8, query=None)
    if not projected:
        weights = unprojected(weights)
        for name in list(weights):
            if name.endswith("lora_A"):
                weights[name.replace("lora_A", "lora_keys")] = torch.randn(4, weights[name].shape[1]).half()
    basis = load_basis(save(weights))
    assert not basis.config.external_query
    assert all(layer.query_width == layer.A.shape[1] for layer in basis.layers.values())
    assert basis.route(None).coefficients == {}
