"""A YAML that nobody should be able to hurt with: refused in words and at once, in the file and key that are meant."""

from __future__ import annotations

import os
import time

import pytest
import yaml
from safetensors.torch import save_file

from lorweb_core import LoRWebError, load_basis
from lorweb_core.files import yaml_file
from lorweb_core.files.yaml_file import MOST_BYTES, parse_yaml
from lorweb_core.training.settings.document import read_training_config

TRAINING = "config:\n  name: small\n  process:\n  - datasets: [{folder_path: pairs}]\n"
"""The rest is the process's keys, indented by four."""

BASIS = "config:\n  process:\n  - network:\n      network_kwargs:\n        lora_heads: 1\n"
"""The rest is keys of network_kwargs, indented by eight."""

LAUGHS = "l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
"""10^9 values in 500 bytes."""


def indented(text: str, by: int) -> str:
    return "".join(" " * by + line + "\n" for line in text.splitlines())


@pytest.fixture(params=["C", "Python"])
def loader(request, monkeypatch):
    """The YAML's reader with libyaml and, as some systems have it, without."""
    if request.param == "Python":
        monkeypatch.setattr(yaml_file, "_FASTEST", yaml.SafeLoader)
        monkeypatch.setattr(yaml_file, "_Loader", yaml_file.limited(yaml.SafeLoader))


def refused(read, *words: str, seconds: float = 3.0) -> None:
    """`read()` ends in our error, soon, with these words, and in one that a person can read."""
    begun = time.monotonic()
    with pytest.raises(LoRWebError) as error:
        read()
    assert time.monotonic() - begun < seconds
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value)) < 3000


HOSTILE = {
    "aliases that expand to billions": (LAUGHS, "values"),
    "aliases under merge keys": ("a: &a {x: 1}\n" + "".join(
        f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}' if i else '*a'] * 10)}]}}\n" for i in range(8)
    ), "values"),
    "an alias of itself": ("a: &a [*a]", "alias"),
    "lists 500 deep": ("a: " + "[" * 500 + "]" * 500, "deep"),
    "lists 100,000 deep": ("a: " + "[" * 100_000, "nest"),
    "keys 100 deep": ("".join("  " * level + "a:\n" for level in range(100)), "deep"),
    "depth by aliases": ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100)), "deep"),
    "300,000 values": ("a: [" + "1," * 300_000 + "]", "values"),
    "a key twice": ("a: 1\nb: 2\na: 3", "'a' is given twice"),
    "a NUL": ("a: \0", "no YAML"),
    "keys that are lists": ("? [1, 2]\n: 3", "no YAML"),
    "a tag that runs code": ("a: !!python/object/apply:os.system [ls]", "no YAML"),
    "half a character": ("a: \ud800", "no YAML"),
    "two documents": ("a: 1\n---\nb: 2", "no YAML"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_only_hurts_is_refused_in_words(loader, what):
    text, word = HOSTILE[what]
    refused(lambda: parse_yaml(text, "x.yaml"), "x.yaml", word)


@pytest.mark.parametrize(
    "value",
    [
        "2024-13-45",
        "9" * 5000,
        "1" + ":1" * 100_000,
        "0x" + "f" * 50_000,
        "!!bool perhaps",
        "!!int one",
        "!!timestamp x",
    ],
)
def test_what_is_no_number_or_date_after_all_is_a_text(loader, value):
    assert parse_yaml(f"a: {value}", "x.yaml") == {"a": value.split(" ")[-1]}


def test_ordinary_yaml_is_read_as_ever(loader):
    text = "a: &a {x: 1, y: [1.5, true, null, no, 'x', \"\\u00e9\"]}\nb: *a\nc: {<<: *a, x: 2}\n1: 0x10\n"
    assert parse_yaml(text, "x.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_config_beside_a_basis_that_only_hurts(weights, save, tmp_path, what):
    (tmp_path / "x.yaml").write_bytes((BASIS + indented(HOSTILE[what][0], 8)).encode("utf-8", "surrogatepass"))
    refused(lambda: load_basis(save(weights), tmp_path / "x.yaml"), "x.yaml")


@pytest.mark.parametrize("what", HOSTILE)
def test_a_training_config_that_only_hurts(tmp_path, what):
    (tmp_path / "x.yaml").write_bytes((TRAINING + indented(HOSTILE[what][0], 4)).encode("utf-8", "surrogatepass"))
    refused(lambda: read_training_config(tmp_path / "x.yaml"), "x.yaml")


@pytest.mark.parametrize("what", HOSTILE)
def test_a_setting_on_the_command_line_that_only_hurts(tmp_path, what):
    (tmp_path / "x.yaml").write_text(TRAINING)
    # One of a hundred megabytes does not fit on a command line, but a script may give it.
    refused(lambda: read_training_config(tmp_path / "x.yaml", [f"train={HOSTILE[what][0]}"]), "--set train=")


@pytest.mark.parametrize(
    "value", ["2024-13-45", "2024-01-01", "9" * 5000, "[" * 40 + "]" * 40, "'" + "x" * 900_000 + "'"]
)
def test_a_value_of_another_kind_is_told_by_file_and_key(weights, save, tmp_path, value):
    path = tmp_path / "x.yaml"
    for key in ("lora_softmax", "mixing_coeffs_type", "query_mode", "lora_parts", "loras_num"):
        path.write_text(BASIS + f"        {key}: {value}\n")
        refused(lambda: load_basis(save(weights), path), "x.yaml", key)
    for key in (
        "train: {lr",
        "save: {save_every",
        "train: {optimizer",
        "train: {dtype",
        "sample: {seed",
    ):
        path.write_text(TRAINING + f"    {key}: {value}{'}' * key.count('{')}\n")
        refused(lambda: read_training_config(path), "x.yaml", key.split(":")[0])


def test_a_config_too_large_to_be_one_is_not_read(tmp_path, weights, save):
    with open(tmp_path / "x.yaml", "wb") as file:
        file.truncate(50_000_000_000 if os.name != "nt" else MOST_BYTES + 1)
    refused(lambda: read_training_config(tmp_path / "x.yaml"), "x.yaml", "1,000,000 bytes")
    refused(lambda: load_basis(save(weights), tmp_path / "x.yaml"), "x.yaml", "1,000,000 bytes")


@pytest.mark.parametrize(
    "key", ["1", "null", "true", "1.5", "2024-01-01", "!!binary aGk=", "'" + "k" * 1000 + "'", '"\\uD7FF"']
)
def test_odd_keys(tmp_path, key):
    (tmp_path / "x.yaml").write_text(TRAINING + f"    {key}: 1\n", encoding="utf-8")
    refused(lambda: read_training_config(tmp_path / "x.yaml"), "x.yaml", "does not know")


def test_thousands_of_unknown_keys_are_told_at_once_and_in_short(tmp_path):
    keys = "".join(f"    unknown{number}: 1\n" for number in range(9000))
    (tmp_path / "x.yaml").write_text(TRAINING + keys)
    refused(lambda: read_training_config(tmp_path / "x.yaml"), "unknown0 (nearest:", "more", seconds=2)


@pytest.mark.parametrize(
    "setting",
    [
        *("train.lr=.nan", "train.lr=.inf", "train.lr=1e999", "train.steps=1e300", "sample.seed=1e30"),
        *('name="a\\0"', "name=" + "x" * 5000, "network.layers='" + "(" * 5000 + "'"),
    ],
)
def test_numbers_and_names_that_no_training_can_have(tmp_path, setting):
    (tmp_path / "x.yaml").write_text(TRAINING)
    refused(lambda: read_training_config(tmp_path / "x.yaml", [setting]), setting.split("=")[0])


@pytest.mark.parametrize(
    "setting", ["a." * 5000 + "a=1", f"datasets.{'9' * 5000}.folder_path=x", "train." + "k" * 100_000 + "=1"]
)
def test_a_key_on_the_command_line_that_leads_nowhere(tmp_path, setting):
    (tmp_path / "x.yaml").write_text(TRAINING)
    refused(lambda: read_training_config(tmp_path / "x.yaml", [setting]))


def test_a_setting_changes_its_own_place_only_where_the_file_has_one_section_twice(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "config:\n  name: small\n  process:\n  - datasets: [&d {folder_path: pairs, resolution: 64}, *d]\n"
    )
    config = read_training_config(tmp_path / "x.yaml", ["datasets.0.resolution=128"])
    assert [each.resolution for each in config.datasets] == [128, 64]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes among its files")
def test_a_pipe_beside_a_basis_is_refused_and_not_opened(weights, save, tmp_path):
    os.mkfifo(tmp_path / "basis.yaml")
    save_file(weights, tmp_path / "basis.safetensors")
    refused(lambda: load_basis(tmp_path / "basis.safetensors"), "basis.yaml is a pipe")
    refused(lambda: read_training_config(tmp_path / "basis.yaml"), "basis.yaml is a pipe")
