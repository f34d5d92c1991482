"""The training YAML: the published one as it is, every wrong key and value named, and written again without loss."""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from published_training import PUBLISHED

from lorweb_core import LoRWebError
from lorweb_core.config import BasisConfig, read_config
from lorweb_core.training.settings.config import (
    DatasetSettings,
    ModelSettings,
    NetworkSettings,
    OptimizerSettings,
    SampleSettings,
    SaveSettings,
    TrainingConfig,
    TrainSettings,
)
from lorweb_core.training.settings.document import (
    checked_config,
    config_fingerprint,
    read_training_config,
    training_config,
    training_document,
)

SMALL = {"config": {"name": "small", "process": [{"datasets": [{"folder_path": "pairs"}]}]}}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "example.yaml"
    path.write_text(PUBLISHED)
    return path


def small(*overrides: str):
    return training_config(SMALL, "small.yaml", overrides)


def message(*overrides: str) -> str:
    with pytest.raises(LoRWebError) as error:
        small(*overrides)
    return str(error.value)


def test_the_published_yaml_as_it_is(published, caplog):
    caplog.set_level(logging.INFO)
    config = read_training_config(published)
    assert config.name == "example"
    assert config.training_folder == Path("output")
    assert config.device == "cuda:0"
    assert config.network == NetworkSettings(1, 1.0, None, BasisConfig(loras_num=32, lora_keys_dim=128))
    assert config.network.basis == BasisConfig(linear=1, loras_num=32, lora_keys_dim=128)
    assert config.save == SaveSettings("float16", 250, 4)
    assert config.datasets == (DatasetSettings(Path("data/target"), Path("data/control"), "txt", 0.05, resolution=512),)
    assert config.train == TrainSettings(lr=0.001, optimizer_params=OptimizerSettings((0.9, 0.99), 0.05, 1e-8))
    assert config.model == ModelSettings()
    assert config.sample == SampleSettings(500, 20, 4.0, 42)
    (said,) = caplog.messages
    for key in ("logging", "datasets.0.cache_latents_to_disk", "sample.prompts", "train.debug_save_target_images"):
        assert key in said
    assert "train.lr" not in said


def test_all_but_name_and_data_has_the_published_defaults(published):
    config, given = small(), read_training_config(published)
    for section in ("network", "save", "train", "model", "sample", "training_folder"):
        assert getattr(config, section) == getattr(given, section)


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.lr=2e-4", lambda c: c.train.lr, 2e-4),
        ("train.lr=1.5E3", lambda c: c.train.lr, 1500.0),
        ("train.steps=1e4", lambda c: c.train.steps, 10000),
        ("train.optimizer_params.betas=[0.8, 0.9]", lambda c: c.train.optimizer_params.betas, (0.8, 0.9)),
        ("train.optimizer_params.eps=1e-6", lambda c: c.train.optimizer_params.eps, 1e-6),
        ("train.dtype=float32", lambda c: c.train.dtype, "fp32"),
        ("train.ema_decay=0.99", lambda c: c.train.ema_decay, 0.99),
        ("train.ema_config={use_ema: true, ema_decay: 0.98}", lambda c: c.train.ema_decay, 0.98),
        ("train.ema_config={use_ema: true}", lambda c: c.train.ema_decay, 0.999),
        ("train.ema_config={use_ema: false, ema_decay: 0.98}", lambda c: c.train.ema_decay, 0.0),
        ("train.ema_config=", lambda c: c.train.ema_decay, 0.0),
        ("train.batch_size=", lambda c: c.train.batch_size, 6),
        ("network.network_kwargs.loras_num=16", lambda c: c.network.basis.loras_num, 16),
        ("network.linear=4", lambda c: c.network.basis.linear, 4),
        ("network.layers=attn\\.to_[qkv]$", lambda c: c.network.layers, r"attn\.to_[qkv]$"),
        ("network.layers=[a, b.c]", lambda c: c.network.layers, ("a", "b.c")),
        ("datasets.0.folder_path=other", lambda c: [d.folder_path for d in c.datasets], [Path("other")]),
        ("datasets.1.folder_path=more", lambda c: [d.folder_path for d in c.datasets], [Path("pairs"), Path("more")]),
        ("datasets.0.held_out=blur*", lambda c: c.datasets[0].held_out, ("blur*",)),
        ("datasets.0.held_out=[a, b]", lambda c: c.datasets[0].held_out, ("a", "b")),
        ("datasets.0.caption_ext=.caption", lambda c: c.datasets[0].caption_ext, "caption"),
        ("datasets.0.resolution=[256]", lambda c: c.datasets[0].resolution, 256),
        ("name=another", lambda c: c.name, "another"),
        ("name=a=b", lambda c: c.name, "a=b"),
        ("device=cpu", lambda c: c.device, "cpu"),
        ("save.dtype=fp32", lambda c: c.save.dtype, "float32"),
        ("model.encoder=clip", lambda c: c.model.encoder, "clip"),
        ("sample.sample_every=0", lambda c: c.sample.sample_every, 0),
    ],
)
def test_settings_that_are_set(override, read, value):
    found = read(small(override))
    assert found == value
    assert type(found) is type(value)


def test_overrides_come_in_turn_and_leave_the_document_as_it_was():
    before = copy.deepcopy(SMALL)
    assert small("train.seed=1", "train.seed=2").train.seed == 2
    assert before == SMALL


def test_an_override_changes_one_of_two_places_that_an_alias_makes_alike():
    process = yaml.safe_load("{datasets: [&data {folder_path: pairs}, *data], train: {ema_config: {use_ema: true}}}")
    document = {"config": {"name": "x", "process": [process]}}
    before = copy.deepcopy(document)
    first, second = training_config(document, "x.yaml", ["datasets.1.layout=pairs"]).datasets
    assert (first.layout, second.layout) == ("auto", "pairs")
    assert document == before


def test_without_an_external_query_the_inputs_are_it():
    basis = small("network.network_kwargs.external_query=false").network.basis
    assert (basis.external_query, basis.external_query_model, basis.query_mode) == (False, None, "aa'bb'")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learning_rat=1", ["train.learning_rat"]),
        ("train.lrs=1", ["train.lrs (nearest: lr)"]),
        ("network.network_kwargs.lora_num=1", ["network.network_kwargs.lora_num (nearest: loras_num)"]),
        ("network.network_kwargs.linear=1", ["network.network_kwargs", "the rank is network.linear"]),
        ("datasets.0.folder_pth=x", ["datasets.0.folder_pth (nearest: folder_path)"]),
        ("trian.lr=1", ["trian (nearest: train)"]),
        ("train.optimizer_params.beta=1", ["train.optimizer_params.beta (nearest: betas)"]),
        ("train.ema_config.use_emma=true", ["train.ema_config.use_emma (nearest: use_ema)"]),
        ("model.seven=x", ["model.seven"]),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(override, words):
    said = message(override)
    for word in ("small.yaml", *words):
        assert word in said


def test_all_unknown_keys_are_named_at_once_and_before_missing_ones():
    document = {"config": {"name": "x", "process": [{"datasets": [{"folder": "x"}], "sampel": {}}]}}
    with pytest.raises(LoRWebError, match="sampel.*datasets.0.folder "):
        training_config(document, "x.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lr=fast", ["train.lr is 'fast'", "a number above 0"]),
        ("train.lr=0", ["train.lr is 0"]),
        ("train.lr=.nan", ["train.lr is nan"]),
        ("train.lr=true", ["train.lr is True"]),
        ('train.lr="5"', ["train.lr is '5'"]),
        ("train.lr=1e999", ["train.lr is '1e999'"]),
        ("train.steps=1.5", ["train.steps is 1.5", "a whole number above 0"]),
        (f"train.seed={10**400}.5", ["train.seed"]),
        ("train.steps=0", ["train.steps is 0"]),
        ("train.batch_size=[1]", ["train.batch_size is [1]"]),
        ("train.optimizer=sgd", ["train.optimizer is 'sgd'", "adamw8bit, adamw"]),
        ("train.optimizer=[adamw]", ["train.optimizer is ['adamw']"]),
        ("train.optimizer_params.betas=[0.9]", ["train.optimizer_params.betas is [0.9]", "[0.9, 0.99]"]),
        ("train.optimizer_params.betas=[0.9, 1]", ["train.optimizer_params.betas is [0.9, 1]"]),
        ("train.gradient_checkpointing=1", ["train.gradient_checkpointing is 1", "true or false"]),
        ("train.ema_decay=1", ["train.ema_decay is 1", "below 1"]),
        ("train.train_text_encoder=true", ["train.train_text_encoder is True", "false only"]),
        ("train.train_unet=false", ["train.train_unet is False", "true only"]),
        ("train.noise_scheduler=ddpm", ["train.noise_scheduler is 'ddpm'", "flowmatch only"]),
        ("datasets.0.is_analogy=true", ["datasets.0.is_analogy is True", "false only"]),
        ("network.type=lora", ["network.type is 'lora'", "attlora only"]),
        ("network.layers=(", ["network.layers is '('", "regular expression"]),
        ("network.layers=[]", ["network.layers is []"]),
        ("network.network_kwargs.loras_num=0", ["network.network_kwargs", "loras_num is 0"]),
        ("network.network_kwargs.lora_heads=3", ["lora_heads is 3", "lora_keys_dim, 128"]),
        ("network.network_kwargs.lora_parts=[16, 16]", ["lora_parts", "merged"]),
        ("network.network_kwargs.query_mode=x", ["query_mode is 'x'"]),
        ("model.arch=sdxl", ["model.arch is 'sdxl'", "flux_kontext"]),
        ("datasets.0.resolution=[512, 768]", ["datasets.0.resolution is [512, 768]", "one resolution"]),
        ("datasets.0.resolution=500", ["datasets.0.resolution is 500", "multiple of 8"]),
        ("datasets.0.caption_dropout_rate=1.1", ["datasets.0.caption_dropout_rate is 1.1", "from 0 to 1"]),
        ("datasets.0.folder_path=", ["datasets.0.folder_path is missing", "a folder's path"]),
        ("datasets.0.held_out=[1]", ["datasets.0.held_out is [1]"]),
        ("datasets=", ["datasets is missing"]),
        ("datasets=[]", ["datasets is []", "at least one"]),
        ("datasets.0=x", ["datasets.0 is 'x'"]),
        ("train=5", ["train is 5", "keys with values"]),
        ("train.ema_config=5", ["train.ema_config is 5"]),
        ("name=a/b", ["name is 'a/b'", "a file's name"]),
        ("name=..", ["name is '..'"]),
        ("name=", ["name is missing"]),
        ("device=tpu", ["device is 'tpu'"]),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_was_expected(override, words):
    said = message(override)
    for word in ("small.yaml", *words):
        assert word in said


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("loras_num", 32.0, "32.0; expected a whole number above 0, up to 1,000,000,000."),
        ("lora_heads", "1e1", "'1e1'; expected a whole number above 0, up to 1,000,000,000."),
        ("lora_softmax", 1, "1; expected true or false."),
        ("mixing_coeffs_type", ["sum"], "['sum']; expected one of: mean, sum."),
        ("lora_parts", [], "[]; expected a list of whole numbers above 0, such as [32, 32]."),
    ],
)
def test_a_basis_and_a_training_refuse_a_value_in_the_same_words(tmp_path, key, value, expected):
    document = copy.deepcopy(SMALL)
    document["config"]["process"][0]["network"] = {"network_kwargs": {key: value}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document))
    for read, where in [(read_config, ""), (read_training_config, "network.network_kwargs.")]:
        with pytest.raises(LoRWebError) as error:
            read(path)
        assert str(error.value) == f"small.yaml: {where}{key} is {expected}"


def test_an_average_that_is_set_in_both_ways():
    said = message("train.ema_decay=0.9", "train.ema_config.use_ema=true")
    assert "train.ema_decay" in said
    assert "train.ema_config" in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lr", "expected key=value"),
        ("=5", "expected key=value"),
        ("train..lr=5", "expected key=value"),
        ("train.lr=[1", "no YAML"),
        ("datasets.2.folder_path=x", "in a list of 1"),
        ("datasets.first.folder_path=x", "in a list of 1"),
        ("name.first=x", "without keys"),
    ],
)
def test_an_override_that_leads_nowhere(override, words):
    said = message(override)
    assert f"--set {override}" in said
    assert words in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "[config]",
        "config: 5",
        "config: [process]",
        "config: {name: x}",
        "config: {name: x, process: []}",
        "config: {name: x, process: [{}, {}]}",
        "config: {process: [5]}",
    ],
)
def test_a_yaml_of_another_form(tmp_path, text):
    path = tmp_path / "other.yaml"
    path.write_text(text)
    with pytest.raises(LoRWebError, match="other.yaml is not a LoRWeB training config"):
        read_training_config(path)


def test_keys_beside_the_process_are_checked_too():
    for document, said in [
        ({**SMALL, "jobs": 1}, r"jobs \(nearest: job\)"),
        ({"config": {**SMALL["config"], "nam": 1}}, r"config.nam \(nearest: name\)"),
        ({"config": {"name": "x", "process": [{"name": "y"}]}}, "config.process.0.name"),
    ]:
        with pytest.raises(LoRWebError, match=f"small.yaml has keys .* does not know.*: {said}"):
            training_config(document, "small.yaml")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(LoRWebError, match="missing.yaml: the training config cannot be read"):
        read_training_config(tmp_path / "missing.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("config: [")
    with pytest.raises(LoRWebError, match="bad.yaml is no YAML"):
        read_training_config(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(LoRWebError, match="bad.yaml is no text"):
        read_training_config(path)


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1)
above = st.floats(1e-12, 1e6)
counts = st.integers(1, 10**9)
shares = st.floats(0, 1, exclude_max=True)
networks = st.fixed_dictionaries(
    {},
    optional={
        "linear": counts,
        "linear_alpha": above,
        "layers": st.sampled_from([r"attn\.", ["a", "b.0"]]),
        "network_kwargs": st.fixed_dictionaries(
            {"external_query": st.booleans()},
            optional={
                "loras_num": counts,
                "lora_heads": st.sampled_from([1, 2, 4]),
                "lora_softmax": st.booleans(),
                "query_mode": st.sampled_from(["aa'bb'", "caa'b"]),
                "pooling_type": st.sampled_from(["avg", "max"]),
            },
        ),
    },
)
datasets = st.fixed_dictionaries(
    {"folder_path": words},
    optional={
        "control_path": words,
        "caption_ext": st.sampled_from(["txt", ".caption"]),
        "default_caption": st.text(st.characters(codec="utf-8")),
        "resolution": st.sampled_from([16, [512], 1024]),
        "held_out": st.lists(words),
        "validation_share": shares,
    },
)
trains = st.fixed_dictionaries(
    {},
    optional={
        "lr": above,
        "steps": counts,
        "optimizer_params": st.fixed_dictionaries({"betas": st.lists(shares, min_size=2, max_size=2), "eps": above}),
        "ema_config": st.fixed_dictionaries({"use_ema": st.booleans(), "ema_decay": shares}),
        "timestep_type": st.sampled_from(["weighted", "linear", "sigmoid", "shift"]),
        "show_pair": st.booleans(),
    },
)
documents = st.builds(
    lambda name, **process: {"config": {"name": name, "process": [process]}},
    name=st.from_regex(r"[a-z0-9 _-]{0,8}[a-z]", fullmatch=True),
    network=networks,
    datasets=st.lists(datasets, min_size=1, max_size=3),
    train=trains,
    device=st.sampled_from([None, "cpu", "cuda:1"]),
)


@given(documents)
@hypothesis_settings(max_examples=60)
def test_what_is_written_reads_as_the_same_settings(document):
    config = training_config(document, "x.yaml")
    written = yaml.safe_dump(training_document(config))
    again = training_config(yaml.safe_load(written), "x.yaml")
    assert again == config
    assert config_fingerprint(again) == config_fingerprint(config)


def test_every_setting_is_written():
    process = training_document(small())["config"]["process"][0]
    for section, of in [("train", TrainSettings), ("save", SaveSettings), ("model", ModelSettings)]:
        assert set(process[section]) == {item.name for item in dataclasses.fields(of)}
    assert set(process["network"]["network_kwargs"]) == {f.name for f in dataclasses.fields(BasisConfig)} - {
        "linear",
        "sampled",
    }


@pytest.mark.parametrize("external", ["true", "false"])
def test_what_is_written_routes_the_basis_beside_it(tmp_path, external):
    config = small("network.linear=4", f"network.network_kwargs.external_query={external}")
    path = tmp_path / "basis.yaml"
    path.write_text(yaml.safe_dump(training_document(config)))
    given = read_config(path)
    assert (given["linear"], given["loras_num"], given["lora_keys_dim"]) == (4, 32, 128)
    unread = {} if external == "true" else {"external_query_model": None}
    assert BasisConfig(**given, **unread) == config.network.basis


def test_a_run_that_began_before_one_could_choose_what_is_sampled_goes_on():
    """The digest is the one that the version before gave these settings."""
    assert config_fingerprint(small()) == "52c7aa9ae5592696312cb46d05f3d02d1bf1e41a1513cba4b0cdf37f24e59a3b"


def test_what_is_sampled_is_read_with_the_basis(tmp_path):
    path = tmp_path / "basis.yaml"
    path.write_text(yaml.safe_dump(training_document(small("train.sampled=result"))))
    assert read_config(path)["sampled"] == "result"
    with pytest.raises(LoRWebError, match="train.sampled"):
        small("network.network_kwargs.sampled=result")
    with pytest.raises(LoRWebError, match="train.sampled is 'b'; expected one of: grid, result"):
        small("train.sampled=b")


@pytest.mark.parametrize(
    ("override", "resumes"),
    [
        ("name=other", True),
        ("training_folder=elsewhere", True),
        ("device=cpu", True),
        ("save.save_every=1", True),
        ("sample.count=1", True),
        ("train.log_every=10", True),
        ("train.steps=20000", True),
        ("train.lr=2e-3", False),
        ("train.seed=1", False),
        ("train.sampled=result", False),
        ("train.optimizer_params.eps=1e-6", False),
        ("network.linear=2", False),
        ("network.network_kwargs.loras_num=4", False),
        ("datasets.0.folder_path=other", False),
        ("datasets.0.caption_dropout_rate=0", False),
        ("model.name_or_path=other", False),
    ],
)
def test_what_a_run_may_be_resumed_with(override, resumes):
    assert (config_fingerprint(small(override)) == config_fingerprint(small())) is resumes


def test_a_schedule_that_follows_the_number_of_steps_is_not_resumed_with_another():
    cosine, longer = ["train.lr_scheduler=cosine"], ["train.lr_scheduler=cosine", "train.steps=20000"]
    assert config_fingerprint(small(*cosine)) != config_fingerprint(small(*longer))


@pytest.mark.parametrize(
    ("key", "section"),
    [
        ("train.lr", {"train": TrainSettings(lr=float("nan"))}),
        ("train.lr", {"train": TrainSettings(lr=float("inf"))}),
        ("train.seed", {"train": TrainSettings(seed=-1)}),
        ("train.steps", {"train": TrainSettings(steps=10**12)}),
        ("loras_num", {"network": NetworkSettings(network_kwargs=BasisConfig(loras_num=10**12, lora_keys_dim=8))}),
        ("network.linear", {"network": NetworkSettings(linear=0)}),
        ("datasets.0.resolution", {"datasets": (DatasetSettings(Path("pairs"), resolution=17),)}),
    ],
)
def test_settings_that_no_yaml_gave_are_held_against_what_one_may_say(key, section):
    good = TrainingConfig(name="small", datasets=(DatasetSettings(Path("pairs")),))
    assert checked_config(good, "Train Basis") == good
    with pytest.raises(LoRWebError, match=f"Train Basis.*{key} is"):
        checked_config(dataclasses.replace(good, **section), "Train Basis")
