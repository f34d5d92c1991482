"""`python -m lorweb_core train`, whole, on small stand-ins."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import standins
import torch
import yaml
from PIL import Image
from published_training import PUBLISHED
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="needs diffusers: pip install .[cli]")
pytest.importorskip("transformers", reason="needs transformers: pip install .[cli]")
pytest.importorskip("accelerate", reason="needs accelerate: pip install .[cli]")

import standins_diffusers

from lorweb_core import LoRWebError, load_basis
from lorweb_core.__main__ import main
from lorweb_core.diffusers_backend.train_command import run_training
from lorweb_core.files.locks import held
from lorweb_core.training.settings.document import read_training_config
from lorweb_core.training.trainer import Step

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4
EMBEDDING = 24
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A pipeline and an image encoder."""
    folder = tmp_path_factory.mktemp("models")
    standins_diffusers.make_pipeline(folder / "flux")
    standins.image_encoder(folder / "clip", EMBEDDING)
    return folder


def draw_pairs(folder: Path, edits: dict[str, int]) -> Path:
    """Day and night, each edit with so many pairs."""
    for edit, count in edits.items():
        (folder / edit).mkdir(parents=True)
        for i in range(count):
            shape, size = ("house", "tree")[i % 2], (40 + 8 * i, 40)
            for side, night in (("before", False), ("after", edit == "night")):
                pixels = standins.picture(night, shape, size) * (0.5 if (edit, side) == ("dim", "after") else 1)
                Image.fromarray((pixels * 255).byte().numpy()).save(folder / edit / f"{i}_{side}.png")
    return folder


@pytest.fixture
def config(models, tmp_path, monkeypatch) -> Path:
    """Of a few steps on two edits, with a third held out; relative to the folder that it is in."""
    monkeypatch.chdir(tmp_path)
    draw_pairs(tmp_path / "pairs", {"night": 3, "dim": 2, "none": 2})
    process = {
        "training_folder": "output",
        "device": "cpu",
        "network": {"type": "attlora", "linear": 2, "network_kwargs": {"loras_num": 4, "lora_keys_dim": 8}},
        "save": {"save_every": 2},
        "datasets": [{"folder_path": "pairs", "resolution": [32], "held_out": ["none"]}],
        "train": {
            "batch_size": 2, "steps": STEPS, "optimizer": "adamw", "dtype": "fp32",
            "ema_config": {"use_ema": True, "ema_decay": 0.9},
        },
        "model": {"name_or_path": str(models / "flux"), "encoder": str(models / "clip"), "text_tokens": 16},
        "sample": {"sample_every": 2, "sample_steps": 1, "count": 1},
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"config": {"name": "tiny", "process": [process]}}))
    return path


RUN = Path("output", "tiny")


def train(*overrides: str, config: str | Path = "tiny.yaml") -> int:
    return main(["train", str(config), *(part for each in overrides for part in ("--set", each))])


def run(config: Path, on_step=lambda step, steps: None) -> Path:
    return run_training(read_training_config(config), lambda what, total: lambda done, total: None, on_step)


def test_a_basis_trained_on_b_prime_alone_says_so(config):
    assert train("train.sampled=result") == 0
    assert load_basis(RUN / "tiny.safetensors").config.sampled == "result"
    width, height = Image.open(next((RUN / "samples").glob("*.png"))).size
    assert width > 3 * height  # captions below a, a', b, b' as made and b' of the data


def losses(run: Path = RUN) -> list[list[str]]:
    """Of each step what does not depend on the clock."""
    with (run / "losses.csv").open(newline="") as file:
        return [row[:4] for row in csv.reader(file)]


def weights(run: Path = RUN) -> dict[str, torch.Tensor]:
    return load_file(run / f"{run.name}.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def refused(capsys) -> str:
    """The one line that a refusal is."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lorweb: ")]
    return line


# What it leaves


def test_a_training_leaves_a_basis_samples_and_a_page(config, capsys):
    assert train() == 0
    said = capsys.readouterr()
    assert "pairs: 8 analogies of 2 edits; kept from training: 2 analogies of 1 edits." in said.out
    assert f"Wrote {RUN / 'tiny.safetensors'}" in said.out
    assert "Training: 100%" in said.err and f"{STEPS}/{STEPS}" in said.err and "loss=" in said.err

    basis = load_basis(RUN / "tiny.safetensors")
    assert len(basis.layers) == 2 * 14 + 2 * 6
    assert (basis.config.loras_num, basis.config.linear, basis.config.query_mode) == (4, 2, "cat-aa'b")
    coefficients = basis.route(torch.randn(3, EMBEDDING)).coefficients
    assert all(values.isfinite().all() and values.shape == (4,) for values in coefficients.values())
    assert any(layer.B.any() for layer in basis.layers.values())

    assert (RUN / "summary.html").exists() and (RUN / "training.png").exists()
    assert sorted(path.name for path in (RUN / "samples").iterdir()) == ["000000002_0.png", "000000004_0.png"]
    assert [row[0] for row in losses()] == ["number", *map(str, range(1, STEPS + 1))]
    assert {path.name for path in RUN.glob("*.safetensors")} == {"tiny.safetensors", "tiny_000000002.safetensors"}
    assert not list(RUN.rglob("*.part"))


def test_memory_is_told_before_anything_is_loaded(config, capsys, monkeypatch):
    def fail(*_):
        raise LoRWebError("loaded")

    monkeypatch.setattr("lorweb_core.diffusers_backend.train_command.KontextEncoders", fail)
    assert train() == 2
    assert "Training takes about 0.1 GB of memory" in capsys.readouterr().out


def test_a_basis_that_routes_by_activation_is_trained(config):
    assert train("network.network_kwargs.external_query=false", "network.network_kwargs.query_mode=aa'bb'") == 0
    basis = load_basis(RUN / "tiny.safetensors")
    assert not basis.config.external_query
    assert basis.config.query_mode == "aa'bb'"
    assert any(layer.B.any() for layer in basis.layers.values())


def test_several_datasets_are_drawn_from(config, tmp_path):
    document = yaml.safe_load(config.read_text())
    draw_pairs(tmp_path / "more", {"dim": 2})
    document["config"]["process"][0]["datasets"].append({"folder_path": "more", "resolution": 48})
    config.write_text(yaml.safe_dump(document))
    assert train("train.steps=2") == 0


def test_the_published_yaml_trains_where_its_paths_and_sizes_are_ours(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("data/target", "data/control"):
        (tmp_path / folder).mkdir(parents=True)
    for i, shape in enumerate(("house", "tree")):
        cells = [standins.picture(night, shape, (48, 48)) for night in (False, True, False)]
        Image.fromarray((torch.cat(cells, 1) * 255).byte().numpy()).save(f"data/control/{i}.png")
        Image.fromarray((standins.picture(True, shape, (48, 48)) * 255).byte().numpy()).save(f"data/target/{i}.jpg")
        Path(f"data/target/{i}.txt").write_text("make it night")
    Path("published.yaml").write_text(PUBLISHED)
    overrides = (
        "name=tiny", "device=cpu", f"model.name_or_path={models / 'flux'}", f"model.encoder={models / 'clip'}",
        "model.text_tokens=16", "datasets.0.resolution=32", "train.batch_size=1", "train.steps=1",
        "train.optimizer=adamw", "sample.sample_steps=1",
    )  # fmt: skip
    assert train(*overrides, config="published.yaml") == 0
    assert load_basis(RUN / "tiny.safetensors").config.lora_keys_dim == 128


# Stopping and going on


def test_a_training_that_was_interrupted_goes_on_bit_for_bit(config):
    assert train("name=whole") == 0

    def interrupt(step: Step, steps: int) -> None:
        if step.number == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(config, interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert [row[0] for row in losses()] == ["number", "1", "2", "3"]
    assert (RUN / "summary.html").exists()
    numbers = []
    run(config, lambda step, steps: numbers.append(step.number))
    assert numbers == [4]
    assert same(weights(), weights(Path("output", "whole")))
    assert losses() == losses(Path("output", "whole"))


def test_a_second_interrupt_leaves_what_was_saved_before(config, monkeypatch):
    """It may come while the parameters are half changed."""
    from lorweb_core.training.trainer import Training

    step_of = Training.step

    def step(self):
        if self.done == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step_of(self)

    monkeypatch.setattr(Training, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    kept = torch.load(RUN / "resume.pt", weights_only=True)
    assert kept["state"]["done"] == 2


def command(*before: str) -> list[str]:
    return [sys.executable, "-m", *before, "train", "tiny.yaml"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_ctrl_c_saves_and_says_so(config):
    process = subprocess.Popen(
        [*command("lorweb_core"), "--set", "train.steps=100000", "--set", "sample.sample_every=0"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (RUN / "losses.csv").exists() or len(losses()) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted. The same command goes on from what is saved." in said
    assert "Traceback" not in errors
    kept = torch.load(RUN / "resume.pt", weights_only=True)
    assert kept["state"]["done"] == len(losses()) - 1


def test_two_processes_train_as_one_that_accumulates(config):
    """Each of them makes every second draw, and their gradients are averaged."""
    assert train("train.gradient_accumulation_steps=2", "name=one") == 0
    launched = subprocess.run(
        # `--multi_gpu` because `--cpu` wants MPI for more than one process; the config's device is the CPU.
        command("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
                "--mixed_precision=bf16", "--dynamo_backend=no", "-m", "lorweb_core"),
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("Training takes about") == 1
    assert launched.stdout.count("Wrote ") == 1
    # To the bit: of two halves of a sum it does not matter which comes first.
    assert same(weights(Path("output", "one")), weights())
    assert len(losses()) == STEPS + 1


# Bad input


def test_an_unknown_key_is_named(config, capsys):
    assert train("train.stepss=2") == 2
    assert "stepss" in (line := refused(capsys)) and "steps" in line


def test_a_folder_without_pairs_is_named(config, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert train("datasets.0.folder_path=empty", "datasets.0.held_out=[]") == 2
    assert "empty" in refused(capsys)
    assert not (RUN / "config.yaml").exists()


def test_one_pair_of_each_edit_is_not_enough(config, capsys, tmp_path):
    draw_pairs(tmp_path / "single", {"night": 1, "dim": 1})
    assert train("datasets.0.folder_path=single", "datasets.0.held_out=[]") == 2
    assert "No edit has two pairs" in refused(capsys)


def test_pictures_that_cannot_be_read_are_named_and_left_out(config, capsys):
    for edit in ("night", "none"):
        Path(f"pairs/{edit}/0_after.png").write_bytes(b"no picture")
    assert train("train.steps=1") == 0
    said = capsys.readouterr().out
    assert "1 pictures cannot be read, so 4 of 8 analogies are left out." in said
    assert "0_after.png" in said
    # Of the held-out edit nothing is left to show, so one of the others is.
    assert list((RUN / "samples").iterdir())


def test_the_state_of_another_config_is_refused_before_anything_is_changed(config, capsys):
    assert train("train.steps=1") == 0
    written = (RUN / "config.yaml").read_bytes()
    capsys.readouterr()
    assert train("train.lr=0.5") == 2
    assert "is the state of a training with another config" in refused(capsys)
    assert (RUN / "config.yaml").read_bytes() == written


def test_a_run_that_another_process_is_at_is_refused_at_once(config, capsys, monkeypatch):
    RUN.mkdir(parents=True)
    monkeypatch.setattr("lorweb_core.diffusers_backend.train_command.find_analogies", pytest.fail)
    with held(RUN / "run.lock") as mine:
        assert mine
        assert train() == 2
    assert "another process is at" in refused(capsys)
    assert not list(RUN.iterdir())


def test_a_run_is_locked_while_it_trains_and_free_afterwards(config):
    seen = []

    def on_step(step: Step, steps: int) -> None:
        with held(RUN / "run.lock") as mine:
            seen.append(mine)

    run(config, on_step)
    assert seen == [False] * STEPS
    assert not (RUN / "run.lock").exists()


def test_damaged_losses_are_said_before_the_base_is_loaded(config, capsys, monkeypatch):
    assert train("train.steps=1") == 0
    with (RUN / "losses.csv").open("ab") as file:
        file.write(b"\0" * 100 + b"\n")
    capsys.readouterr()
    monkeypatch.setattr("lorweb_core.diffusers_backend.train_command.load_base", pytest.fail)
    assert train("train.steps=2") == 2
    assert "losses.csv is damaged in line 3" in refused(capsys)


def test_a_disk_that_fills_up_while_sampling_leaves_the_older_picture(config, capsys, monkeypatch):
    def save(image, file, *args, **options):
        with contextlib.ExitStack() as opened:
            file = file if hasattr(file, "write") else opened.enter_context(open(file, "wb"))
            file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (RUN / "samples").mkdir(parents=True)
    older = RUN / "samples" / "000000002_0.png"
    older.write_text("older")
    monkeypatch.setattr(Image.Image, "save", save)
    assert train() == 2
    assert "No space left on device" in refused(capsys)
    assert older.read_text() == "older"
    assert not list(RUN.rglob("*.part"))


def test_a_model_that_is_not_there_is_said_first(config, capsys):
    assert train("model.name_or_path=nowhere/at/all") == 2
    assert "nowhere/at/all: there is no such folder" in refused(capsys)


def test_a_loss_that_is_no_number_ends_it_with_the_last_good_state(config, capsys, monkeypatch):
    from lorweb_core.training.objective import Objective

    forward, calls = Objective.forward, []

    def broken(self, batch, random):
        calls.append(batch.names)
        return forward(self, batch, random) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(Objective, "forward", broken)
    assert train() == 2
    line = refused(capsys)
    assert "The loss of step 3 is not a finite number" in line
    assert all(name in line for name in calls[2])
    kept = torch.load(RUN / "resume.pt", weights_only=True)["state"]
    assert kept["done"] == 2
    assert all(values.isfinite().all() for values in kept["basis"].values())


def test_a_base_of_nan_is_said_at_the_first_step(config, models, capsys, tmp_path):
    shutil.copytree(models / "flux", tmp_path / "broken")
    (file,) = (tmp_path / "broken" / "transformer").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["proj_out.bias"][0] = float("nan")
    save_file(tensors, file, metadata)
    assert train(f"model.name_or_path={tmp_path / 'broken'}") == 2
    assert "The loss of step 1 is not a finite number" in refused(capsys)
    assert not (RUN / "tiny.safetensors").exists()
