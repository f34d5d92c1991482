"""What a training leaves on the disk, and going on from it: as if nothing had been in between, or said why not."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from training_world import (
    EMBEDDING,
    MODULATION,
    OUT,
    PARTS,
    Q,
    TinyBase,
    TinySource,
    V,
    begin,
    run,
    tiny_basis,
    tiny_config,
)

from lorweb_core import LoRWebError, load_basis
from lorweb_core.files import atomic
from lorweb_core.training import loss_log
from lorweb_core.training.run_folder import RunFolder
from lorweb_core.training.settings.config import SaveSettings
from lorweb_core.training.settings.document import read_training_config, training_document
from lorweb_core.training.trainer import Training

ACTIVATION = {"external_query": False, "external_query_model": None, "query_mode": "caa'", "pooling_type": "max"}
NOT_PROJECTED = {"query_projection_type": "none", "lora_keys_dim": PARTS * EMBEDDING}


def held(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def equal(one, other) -> bool:
    """Bit for bit, in nested states."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize(
    ("settings", "routing"),
    [
        ({}, {}),
        ({"ema_decay": 0.9, "gradient_accumulation_steps": 2, "timestep_type": "weighted"}, {}),
        ({"lr_scheduler": "onecycle", "lr_warmup_steps": 2}, ACTIVATION),
    ],
    ids=["plain", "average and accumulation", "activation-routed, with a schedule"],
)
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, settings, routing):
    whole_config, config = (tiny_config(tmp_path / name, routing, **settings) for name in ("whole", "parts"))
    whole = begin(whole_config)
    folder = RunFolder(whole_config)
    run(folder, whole, 6)
    folder.save(whole, final=True)

    first = begin(config)
    parts = RunFolder(config)
    assert not parts.resume(first)
    run(parts, first, 3)
    parts.save_state(first)
    run(parts, first, 2)  # lost: nothing was saved after them

    second = begin(config, seed=99)
    again = RunFolder(config)
    assert again.resume(second)
    assert second.done == 3
    run(again, second, 3)
    again.save(second, final=True)

    assert equal(second.state(), whole.state())
    tensors = [torch.load(each.state_file, weights_only=True)["state"] for each in (folder, again)]
    assert equal(*tensors)
    timeless = [[step._replace(seconds=0) for step in each.losses()] for each in (folder, again)]
    assert timeless[0] == timeless[1]
    assert [step.number for step in timeless[0]] == [1, 2, 3, 4, 5, 6]
    bases = [load_basis(each.path / "tiny.safetensors") for each in (folder, again)]
    assert equal(*[dict(basis.layers) for basis in bases])


@pytest.mark.parametrize(
    "routing", [{}, {"lora_softmax": False, "lora_heads": 2, "mixing_coeffs_type": "sum"}, NOT_PROJECTED]
)
def test_a_checkpoint_routes_as_the_training_did(tmp_path, routing):
    config = tiny_config(tmp_path, routing)
    training = begin(config)
    run(RunFolder(config), training, 2)
    query = TinySource(batch_size=3).draw(0).query
    saved = RunFolder(config).save(training)
    loaded = load_basis(tmp_path / "tiny" / "tiny_000000002.safetensors")
    assert loaded.config == saved.config
    expected = training.basis.route(query)
    for name, coefficients in loaded.route(query).coefficients.items():
        torch.testing.assert_close(coefficients, expected[name].detach())
    for name, layer in training.basis.published().items():
        assert equal(tuple(loaded.layers[name]), tuple(layer))


def test_a_checkpoint_has_the_published_layout(tmp_path):
    config = replace(tiny_config(tmp_path), save=SaveSettings(dtype="float16"))
    training = begin(config)
    run(RunFolder(config), training, 1)
    RunFolder(config).save(training)
    with safe_open(tmp_path / "tiny" / "tiny_000000001.safetensors", "pt") as file:
        found = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
        dtypes = {file.get_tensor(name).dtype for name in found}
        metadata = file.metadata()
    expected = {}
    for name, (fan_in, fan_out) in {Q: (3, 6), V: (3, 6), MODULATION: (5, 6), OUT: (6, 3)}.items():
        expected[f"{name}.lora_A"] = (3, fan_in, 2)
        expected[f"{name}.lora_B"] = (3, 2, fan_out)
        expected[f"{name}.lora_keys"] = (3, 4)
        expected[f"{name}.att_lora_to_q.weight"] = (4, 12)
    assert found == expected
    assert dtypes == {torch.float16}
    assert json.loads(metadata["training_config"]) == training_document(config)
    assert (metadata["format"], metadata["steps"]) == ("pt", "1")


def test_the_config_lies_beside_the_checkpoint_whole(tmp_path):
    config = tiny_config(tmp_path, {"lora_heads": 2})
    training = begin(config)
    run(RunFolder(config), training, 1)
    saved = RunFolder(config).save(training)
    assert read_training_config(tmp_path / "tiny" / "tiny_000000001.yaml") == config
    assert saved.config == config.network.basis


def test_what_is_saved_is_the_average(tmp_path):
    config = tiny_config(tmp_path, ema_decay=0.5)
    training = begin(config)
    run(RunFolder(config), training, 3)
    learned = {name: value.clone() for name, value in training.basis.state_dict().items()}
    saved = RunFolder(config).save(training)
    assert equal(learned, training.basis.state_dict())
    assert not torch.equal(saved.layers[OUT].B, training.basis.published()[OUT].B)
    with training.averaged() as basis:
        assert torch.equal(saved.layers[OUT].B, basis.published()[OUT].B)


def test_so_many_checkpoints_are_kept_and_the_last_ones(tmp_path):
    config = tiny_config(tmp_path)
    training, folder = begin(config), RunFolder(config)
    others = ["tiny_000000001_mine.safetensors", "tinyer_000000001.safetensors", "tiny_1.safetensors"]
    for name in others:
        (folder.path / name).write_text("another's")
    for _ in range(4):
        run(folder, training, 1)
        folder.save(training)
    folder.save(training, final=True)
    kept = {
        f"{name}.{kind}" for name in ("tiny_000000003", "tiny_000000004", "tiny") for kind in ("safetensors", "yaml")
    }
    assert held(folder.path).keys() == {*kept, *others, "losses.csv", "resume.pt"}


def test_names_with_brackets_have_checkpoints_of_their_own(tmp_path):
    config = replace(
        tiny_config(tmp_path), name="tiny [1]", save=SaveSettings(dtype="float32", max_step_saves_to_keep=1)
    )
    training, folder = begin(config), RunFolder(config)
    for _ in range(2):
        run(folder, training, 1)
        folder.save(training)
    assert [path.name for path in folder.path.glob("*.safetensors")] == ["tiny [1]_000000002.safetensors"]


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"seed": 7}, {"ema_decay": 0.5}])
def test_the_state_of_another_config_is_refused(tmp_path, change):
    config = tiny_config(tmp_path)
    training = begin(config)
    RunFolder(config).save_state(training)
    other = tiny_config(tmp_path, **change)
    fresh = begin(other)
    before = {name: value.clone() for name, value in fresh.basis.state_dict().items()}
    with pytest.raises(LoRWebError, match=r"resume\.pt is the state of a training with another config"):
        RunFolder(other).resume(fresh)
    assert equal(before, fresh.basis.state_dict())


def test_longer_is_no_other_config(tmp_path):
    training = begin(tiny_config(tmp_path))
    run(RunFolder(tiny_config(tmp_path)), training, 2)
    RunFolder(tiny_config(tmp_path)).save_state(training)
    longer = tiny_config(tmp_path, steps=9)
    again = begin(longer)
    assert RunFolder(longer).resume(again)
    assert again.done == 2


def test_the_state_of_another_model_is_refused(tmp_path):
    """The same config: it names the model, whose folder may hold another one now."""
    config = tiny_config(tmp_path)
    RunFolder(config).save_state(begin(config))
    other = TinyBase()
    other.linears.pop("out")
    shapes = {name: shape for name, shape in other.shapes.items() if name != OUT}
    other.shapes = shapes
    training = Training(tiny_basis(other), other, TinySource(), config.train)
    with pytest.raises(LoRWebError, match=r"resume\.pt is the state of a basis for other layers: the model, .*FLUX"):
        RunFolder(config).resume(training)
    assert training.done == 0


def spoiled(good: bytes) -> dict[str, bytes]:
    return {"empty": b"", "cut": good[: len(good) // 2], "text": b"no state", "head": b"x" * 64 + good[64:]}


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "head", "other"])
def test_a_damaged_state_is_refused(tmp_path, kind):
    config = tiny_config(tmp_path)
    folder = RunFolder(config)
    folder.save_state(begin(config))
    if kind == "other":
        torch.save({"some": "thing"}, folder.state_file)
    else:
        folder.state_file.write_bytes(spoiled(folder.state_file.read_bytes())[kind])
    with pytest.raises(LoRWebError, match=r"resume\.pt cannot be read.*Delete it to start over"):
        folder.resume(begin(config))


@pytest.fixture
def saved(tmp_path):
    """A run with a checkpoint after two steps, and one step more that is not saved."""
    config = tiny_config(tmp_path)
    training, folder = begin(config), RunFolder(config)
    run(folder, training, 2)
    folder.save(training)
    run(folder, training, 1)
    return folder, training, held(folder.path)


def test_a_disk_without_room_keeps_the_last_good_checkpoint(saved, monkeypatch):
    folder, training, before = saved
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 100))
    with pytest.raises(LoRWebError, match=r"tiny_000000003\.safetensors takes .* free"):
        folder.save(training)
    assert held(folder.path) == before
    monkeypatch.undo()
    folder.save(training)
    assert load_basis(folder.path / "tiny_000000003.safetensors")


@pytest.mark.parametrize(
    ("number", "file"), list(enumerate(["tiny_000000003.yaml", "tiny_000000003.safetensors", "resume.pt"]))
)
def test_a_disk_that_fills_up_while_saving_keeps_the_last_good_checkpoint(saved, number, file, monkeypatch):
    """What is written into one of the files goes to /dev/full, where nothing fits."""
    folder, training, before = saved
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    opened = []

    def open_full(path: Path, mode: str):
        opened.append(path)
        file = open(path, mode)  # noqa: SIM115
        if len(opened) == number + 1:
            with open("/dev/full", "wb") as full:
                os.dup2(full.fileno(), file.fileno())
        return file

    monkeypatch.setattr(atomic, "open", open_full, raising=False)
    with pytest.raises(LoRWebError, match=f"{file} could not be written .*No space left"):
        folder.save(training)
    monkeypatch.undo()
    after = held(folder.path)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.endswith(".part")]
    # The run goes on from the state that is there, and saves once there is room again.
    again = begin(folder.config)
    assert folder.resume(again)
    assert again.done == 2
    run(folder, again, 1)
    folder.save(again)
    assert equal(again.state(), training.state())
    assert load_basis(folder.path / "tiny_000000003.safetensors")


def test_losses_that_were_cut_short_are_read_as_far_as_they_go(saved):
    """The machine went off while a row was written."""
    folder = saved[0]
    whole = folder.losses()
    text = folder.losses_file.read_text()
    folder.losses_file.write_text(text[: text.rindex(",") - 3])
    assert folder.losses() == whole[:-1]
    again = begin(folder.config)
    assert folder.resume(again)
    assert folder.losses() == whole[:2]


def test_losses_are_logged_exactly(saved):
    folder, training, _ = saved
    step = training.step()
    folder.log(step)
    assert folder.losses()[-1] == step
    assert [step.number for step in folder.losses()] == [1, 2, 3, 4]


def test_a_run_that_begins_anew_has_only_its_own_losses(saved):
    folder = saved[0]
    folder.state_file.unlink()
    again = begin(folder.config)
    assert not folder.resume(again)
    run(folder, again, 1)
    assert [step.number for step in folder.losses()] == [1]


def test_losses_that_the_disk_has_no_room_for_are_said(saved, monkeypatch):
    folder, training, _ = saved
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(loss_log, "open", lambda *_, **__: Path("/dev/full").open("ab"), raising=False)  # noqa: SIM115
    with pytest.raises(LoRWebError, match=r"losses\.csv could not be written .*No space left"):
        folder.log(training.step())


def test_a_run_without_losses_has_none(tmp_path):
    assert RunFolder(tiny_config(tmp_path)).losses() == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LoRWebError, match="the folder cannot be made"):
        RunFolder(tiny_config(tmp_path / "file"))


def test_the_yaml_beside_is_readable_by_others(saved):
    folder = saved[0]
    document = yaml.safe_load((folder.path / "tiny_000000002.yaml").read_text())
    network = document["config"]["process"][0]["network"]
    assert (network["linear"], network["network_kwargs"]["loras_num"]) == (2, 3)


def test_an_identity_stands_for_the_models_name(tmp_path):
    """Runs that had it in the place of the name go on."""
    config = tiny_config(tmp_path)
    named = replace(config, model=replace(config.model, name_or_path="some model"))
    RunFolder(named).save_state(begin(named))
    assert RunFolder(config, "some model").resume(begin(config))
    for other in (RunFolder(config), RunFolder(config, "another model")):
        with pytest.raises(LoRWebError, match="another config"):
            other.resume(begin(config))
