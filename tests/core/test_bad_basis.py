"""Every file that is no basis is refused by name, with what was expected, before any value is used."""

from __future__ import annotations

import json
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save, save_file

from lorweb_core import LoRWebError, load_basis

LAYER = "transformer.single_transformer_blocks.0.proj_out"


def refused(path, *words: str, config=None) -> None:
    with pytest.raises(LoRWebError) as error:
        load_basis(path, config)
    for word in (path.name, *words):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\x10\x00", ["cut short"]),
        (b"\xff" * 8 + b"{}", ["cut short"]),
        ((2**40).to_bytes(8, "little") + b"{}", ["cut short"]),
        (b"PK\x03\x04" + b"\x00" * 100, ["pickle"]),
        (pickle.dumps({"lora": 1}), ["pickle"]),
        ((2).to_bytes(8, "little") + b"{}", ["not a LoRWeB basis"]),
        ((4).to_bytes(8, "little") + b"nope", ["not a safetensors file"]),
        ((4).to_bytes(8, "little") + b"{ope", ["damaged"]),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, words):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    refused(path, *words)


def test_a_header_length_that_looks_like_a_pickles_first_byte(weights, tmp_path):
    content = save(weights)
    length = int.from_bytes(content[:8], "little")
    padded = length + (0x280 - length) % 0x10000  # 0x80 0x02 is also how pickles begin
    path = tmp_path / "padded.safetensors"
    path.write_bytes(padded.to_bytes(8, "little") + content[8 : 8 + length].ljust(padded) + content[8 + length :])
    assert path.read_bytes()[:2] == b"\x80\x02"
    load_basis(path).check_values()


def test_a_missing_file(tmp_path):
    refused(tmp_path / "absent.safetensors", "No such file")


@settings(max_examples=40)
@given(data=st.data())
def test_a_truncated_or_scrambled_file_never_ends_in_another_error(weights, tmp_path, data):
    content = bytearray(save(weights))
    cut = data.draw(st.integers(0, len(content)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "scrambled.safetensors"
    path.write_bytes(content[:cut])
    try:
        load_basis(path)
    except LoRWebError as error:
        assert path.name in str(error)


def test_an_ordinary_lora_is_sent_to_load_lora(tmp_path):
    path = tmp_path / "style.safetensors"
    save_file({f"{LAYER}.lora_A.weight": torch.ones(4, 8), f"{LAYER}.lora_B.weight": torch.ones(8, 4)}, path)
    refused(path, "ordinary LoRA", "Load LoRA")


def test_a_foreign_tensor(weights, save):
    refused(save({**weights, "vae.conv.weight": torch.ones(2)}), "vae.conv.weight")


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight"])
def test_a_layer_without_one_of_its_tensors(weights, save, part):
    del weights[f"{LAYER}.{part}"]
    refused(save(weights), LAYER, part)


@pytest.mark.parametrize(
    ("part", "shape", "words"),
    [
        ("lora_A", (5, 80, 2), ["N,", "5 in A", "4 in B"]),
        ("lora_keys", (3, 8), ["N,", "3 in lora_keys"]),
        ("lora_B", (4, 3, 16), ["r,", "3 in B"]),
        ("lora_keys", (4, 6), ["D,", "6 in lora_keys", "8 in att_lora_to_q"]),
        ("att_lora_to_q.weight", (8, 9), ["N, D, Q = (4, 8, 9)"]),
        ("lora_A", (4, 80), ["expected A (N, in, r)"]),
        ("lora_A", (4, 0, 2), ["expected A (N, in, r)"]),
    ],
)
def test_sizes_that_disagree(weights, save, part, shape, words):
    weights[f"{LAYER}.{part}"] = torch.zeros(shape).half()
    refused(save(weights), LAYER, *words)


def test_two_spellings_in_one_layer(weights, save):
    weights[f"{LAYER}.lora_down.weight"] = weights[f"{LAYER}.lora_A"].clone()
    refused(save(weights), LAYER, "two tensors for its A")


@pytest.mark.parametrize(
    "alpha",
    [
        torch.tensor(torch.nan),
        torch.tensor([1.0, 2.0]),
        torch.ones(3_000_000),
        torch.tensor(1.0).to(torch.float8_e4m3fn),
        torch.tensor(1.0 + 1j),
        torch.tensor(True),
        torch.tensor(1e38),
        torch.tensor(-1e300, dtype=torch.float64),
    ],
)
def test_an_alpha_that_is_no_number(weights, save, alpha):
    refused(save({**weights, f"{LAYER}.alpha": alpha}), f"alpha of layer {LAYER}", "one finite number")


@pytest.mark.parametrize("alpha", [torch.tensor(4), torch.tensor([4.0]), torch.tensor(4.0).bfloat16()])
def test_an_alpha_of_any_kind_of_number_counts(weights, save, alpha):
    assert load_basis(save({**weights, f"{LAYER}.alpha": alpha})).layers[LAYER].scale == 2


@pytest.mark.parametrize("large", [{"lora_A": 1e20, "lora_B": 1e20}, {"lora_A": 3e38}, {"lora_B": -1e30}])
def test_values_that_make_an_infinite_change_are_refused(weights, save, large):
    for part, value in large.items():
        weights[f"{LAYER}.{part}"] = torch.full_like(weights[f"{LAYER}.{part}"], value, dtype=torch.float32)
    basis = load_basis(save(weights))
    with pytest.raises(LoRWebError, match=f"basis.safetensors.*{LAYER}.*not finite"):
        basis.check_values()


@pytest.mark.parametrize("kind", [torch.float64, torch.float8_e5m2, torch.complex64, torch.int64, torch.bool])
@pytest.mark.parametrize("part", ["lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight"])
def test_a_dtype_that_no_basis_is_stored_in(weights, save, part, kind):
    weights[f"{LAYER}.{part}"] = torch.ones_like(weights[f"{LAYER}.{part}"], dtype=torch.float32).to(kind)
    refused(save(weights), LAYER, str(kind), "expected float16")


def test_a_name_of_megabytes_is_told_in_short(weights, save):
    path = save({**weights, "x" * 1_000_000 + ".lora_A": torch.ones(1), "\x1b[2J" * 10_000: torch.ones(1)})
    with pytest.raises(LoRWebError) as error:
        load_basis(path)
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


def test_a_dtype_that_is_not_mixed_in(weights, save):
    weights[f"{LAYER}.lora_A"] = torch.zeros(4, 80, 2, dtype=torch.int8)
    refused(save(weights), LAYER, "torch.int8", "float16")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight"])
def test_a_value_that_is_not_finite(weights, save, part, value):
    weights[f"{LAYER}.{part}"].view(-1)[-1] = value
    basis = load_basis(save(weights))
    with pytest.raises(LoRWebError, match=f"basis.safetensors.*{LAYER}.*NaN or infinity"):
        basis.route(torch.zeros(12))


def test_finite_values_whose_sum_is_not_are_accepted(weights, save):
    weights[f"{LAYER}.lora_B"].fill_(65504.0)
    load_basis(save(weights)).check_values()


def test_values_are_read_once_per_file_and_again_when_it_changed(weights, save):
    seen: list[int] = []
    path = save(weights)
    for _ in range(2):
        load_basis(path).check_values(lambda done, total: seen.append(total))
    assert len(seen) == len(load_basis(path).layers)
    weights[f"{LAYER}.lora_A"][0, 0, 0] = float("nan")
    path.unlink()
    with pytest.raises(LoRWebError, match="NaN"):
        load_basis(save(weights)).check_values()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"linear": 4}, ["linear: 4", "has 2"]),
        ({"loras_num": 32}, ["loras_num: 32", "has 4"]),
        ({"lora_keys_dim": 128}, ["lora_keys_dim: 128", "has 8"]),
        ({"lora_heads": 3}, ["lora_heads: 3", "8 wide"]),
        ({"lora_heads": 0}, ["lora_heads is 0", "above 0"]),
        ({"lora_heads": "two"}, ["lora_heads is 'two'"]),
        ({"lora_softmax": "yes"}, ["lora_softmax is 'yes'", "true or false"]),
        ({"mixing_coeffs_type": "max"}, ["mixing_coeffs_type is 'max'", "mean, sum"]),
        ({"query_mode": "zz'"}, ['query_mode is "zz\'"', "cat-aa'b"]),
        ({"external_query": "no"}, ["external_query is 'no'", "true or false"]),
        ({"external_query": False}, ["external_query: false", "queries of 12 values", "basis.safetensors"]),
        ({"external_query": False, "query_mode": "cat-aa'b"}, ['query_mode is "cat-aa\'b"', "caa'bb'"]),
        ({"query_projection_type": "none"}, ["query_projection_type: none", "basis.safetensors", "att_lora_to_q"]),
        ({"pooling_type": "min"}, ["pooling_type is 'min'", "avg, max"]),
        (
            {"query_mode": "paa'b", "external_query_model": "google/siglip2-base-patch16-224"},
            ['query_mode is "paa\'b"', "google/siglip2-base-patch16-224", "openai/clip-vit-large-patch14"],
        ),
        ({"external_query_model": "some/encoder"}, ["some/encoder", "openai/clip-vit-large-patch14"]),
    ],
)
def test_a_config_that_disagrees_or_cannot_be_routed(weights, save, settings, words):
    path = save(weights, **settings)
    with pytest.raises(LoRWebError) as error:
        load_basis(path)
    for word in ("basis.yaml", *words):
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["", "42", "a: [", "config: {}", "config: {process: []}", "\x00", "- config"])
def test_a_yaml_that_is_no_training_config(weights, save, tmp_path, text):
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(LoRWebError, match=r"other\.yaml is not a LoRWeB training config"):
        load_basis(save(weights), tmp_path / "other.yaml")


def test_a_yaml_that_is_not_there(weights, save, tmp_path):
    with pytest.raises(LoRWebError, match=r"gone\.yaml"):
        load_basis(save(weights), tmp_path / "gone.yaml")


def test_the_config_is_found_beside_the_checkpoint(weights, save, tmp_path):
    def config(name: str, heads: int) -> None:
        network = {"linear": 2, "network_kwargs": {"lora_heads": heads}}
        (tmp_path / name).write_text(json.dumps({"config": {"process": [{"network": network}]}}))

    path = save(weights)
    assert load_basis(path).config.lora_heads == 1
    config("config.yaml", 2)
    assert load_basis(path).config.lora_heads == 2
    config("basis.yaml", 4)
    assert load_basis(path).config.lora_heads == 4


@pytest.mark.parametrize(
    ("query", "words"), [(torch.zeros(3, 5), "15 values"), (torch.full((12,), torch.nan), "finite")]
)
def test_a_query_that_does_not_fit(weights, save, query, words):
    with pytest.raises(LoRWebError, match=words):
        load_basis(save(weights)).route(query)
