"""Run folders that hold something else than a training left there, and two trainings in one of them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_world import begin, run, tiny_config

from lorweb_core import LoRWebError
from lorweb_core.files import locks
from lorweb_core.training.run_choice import chosen_run
from lorweb_core.training.run_folder import RunFolder

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@pytest.fixture
def trained(tmp_path):
    """A run with two steps done and saved, and a picture of samples."""
    config = tiny_config(tmp_path / "runs", ema_decay=0.5)
    training, folder = begin(config), RunFolder(config)
    run(folder, training, 2)
    folder.save(training)
    folder.sample_file("000000002_0.png").write_bytes(b"picture")
    return folder


HEADER = b"number,loss,learning_rate,gradient,seconds\r\n"
ROW = b"1,0.5,0.001,1.5,0.1\r\n"
LOSSES = {
    "NUL bytes": HEADER + ROW + b"\0" * 4096 + b"\n",
    "NUL bytes alone": b"\0" * 512 + b"\n",
    "no header": ROW,
    "another header": b"name,price\n1,2\n",
    "no text": HEADER + bytes(range(256)),
    "half a line": HEADER + b"1,0.5,0.0\n",
    "two lines in one": HEADER + b"1,0.5,0.00" + ROW,
    "a column too many": HEADER + b"1,0.5,0.001,1.5,0.1,7\n",
    "words": HEADER + b"1,low,0.001,1.5,0.1\n",
    "no step": HEADER + b"0,0.5,0.001,1.5,0.1\n",
    "half a step": HEADER + b"1.5,0.5,0.001,1.5,0.1\n",
    "NaN": HEADER + b"1,nan,0.001,1.5,0.1\n",
    "infinity": HEADER + b"1,0.5,inf,1.5,0.1\n",
    "too large": HEADER + b"1,1e300,0.001,1.5,0.1\n",
    "many digits": HEADER + b"9" * 900 + b",0.5,0.001,1.5,0.1\n",
    "backwards": HEADER + b"2,0.5,0.001,1.5,0.1\n" + ROW,
    "an empty line": HEADER + b"\n" + ROW,
    "a huge line": HEADER + b"1" * 5_000_000 + b"\n",
    "a huge line without an end": HEADER + b'"' + b"1" * 5_000_000,
}


@pytest.mark.parametrize("kind", LOSSES)
def test_damaged_losses_are_refused_in_words(trained, kind):
    trained.losses_file.write_bytes(LOSSES[kind])
    for read in (trained.losses, trained.check, lambda: trained.resume(begin(trained.config))):
        with pytest.raises(LoRWebError, match=r"losses\.csv is damaged in line \d+, b'.*Delete the lines") as refused:
            read()
        assert len(str(refused.value)) < 700
    assert trained.losses_file.read_bytes() == LOSSES[kind]
    assert not trained.goes_on()


@given(st.binary(max_size=200) | st.lists(st.sampled_from([HEADER, ROW, b"2", b",", b"\n", b"\0"])).map(b"".join))
@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_losses_are_read_or_refused(trained, content):
    trained.losses_file.write_bytes(content)
    try:
        losses = trained.losses()
    except LoRWebError as error:
        assert "losses.csv" in str(error)
    else:
        whole = content[: content.rfind(b"\n") + 1].splitlines()[1:]
        assert [list(step) for step in losses] == [[float(value) for value in line.split(b",")] for line in whole]


@pytest.mark.parametrize("name", ["losses.csv", "resume.pt"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_something_else_in_a_files_place_is_refused_and_not_waited_for(trained, name, kind):
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    path = trained.path / name
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    for read in (trained.check, lambda: trained.resume(begin(trained.config))):
        with pytest.raises(LoRWebError, match=name):
            read()
    assert not trained.goes_on()


@needs_links
def test_losses_are_not_logged_through_a_link(trained, tmp_path):
    trained.losses_file.unlink()
    trained.losses_file.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(LoRWebError, match=r"losses\.csv could not be written"):
        trained.log(begin(trained.config).step())
    assert not (tmp_path / "elsewhere.csv").exists()


def test_an_empty_log_gets_its_header(trained):
    trained.losses_file.write_bytes(b"")
    assert trained.losses() == []
    trained.log(step := begin(trained.config).step())
    assert trained.losses() == [step]


class Other:
    pass


def change(kept: dict, where: tuple, value) -> dict:
    for key in where[:-1]:
        kept = kept[key]
    kept[where[-1]] = value
    return kept


BASIS = ("state", "basis", "layers.0.up")
MOMENTS = ("state", "optimizer", "state", 0)
SPOILED = {
    "no text for a config": (("config",), torch.zeros(3)),
    "a list for a state": (("state",), [1, 2]),
    "a text for done": (("state", "done"), "2"),
    "a switch for done": (("state", "done"), True),
    "done below 0": (("state", "done"), -1),
    "done of half a step": (("state", "done"), 1.5),
    "done without end": (("state", "done"), 10**400),
    "no basis": (("state", "basis"), None),
    "a number for a tensor": (BASIS, 3.0),
    "NaN": (BASIS, torch.full((3, 2, 6), float("nan"))),
    "whole numbers": (BASIS, torch.zeros(3, 2, 6, dtype=torch.int64)),
    "half precision": (BASIS, torch.zeros(3, 2, 6, dtype=torch.float16)),
    "complex numbers": (BASIS, torch.zeros(3, 2, 6, dtype=torch.complex64)),
    "a sparse tensor": (BASIS, torch.zeros(3, 2, 6).to_sparse()),
    "no optimizer": (("state", "optimizer"), {}),
    "a list for moments": (("state", "optimizer", "state"), [1]),
    "moments of a parameter that is not there": (("state", "optimizer", "state", 99), {"step": 1}),
    "moments by name": (("state", "optimizer", "state", "0"), {}),
    "moments of another shape": ((*MOMENTS, "exp_avg"), torch.zeros(5)),
    "a moment less": ((*MOMENTS, "exp_avg_sq"), None),
    "moments of NaN": ((*MOMENTS, "exp_avg"), "NaN"),
    "a text for a step": ((*MOMENTS, "step"), "1"),
    "a step below 0": ((*MOMENTS, "step"), torch.tensor(-1.0)),
    "a step of NaN": ((*MOMENTS, "step"), torch.tensor(float("nan"))),
    "no average": (("state", "averaged"), None),
    "a text for an average": (("state", "averaged"), "mean"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_state_of_something_else_is_refused_and_changes_nothing(trained, kind):
    kept = torch.load(trained.state_file, weights_only=True)
    where, value = SPOILED[kind]
    if isinstance(value, str) and value == "NaN":
        value = torch.full_like(kept["state"]["optimizer"]["state"][0]["exp_avg"], float("nan"))
    change(kept, where, value)
    torch.save(kept, trained.state_file)
    fresh = begin(trained.config, seed=5)
    before = {name: value.clone() for name, value in fresh.basis.state_dict().items()}
    with pytest.raises(LoRWebError, match=r"resume\.pt cannot be read: it is damaged.*Delete it"):
        trained.resume(fresh)
    assert fresh.done == 0
    assert all(torch.equal(before[name], value) for name, value in fresh.basis.state_dict().items())
    fresh.step()


@pytest.mark.parametrize("kind", ["list", "number", "pickle", "class", "zip", "losses"])
def test_another_file_as_a_state_is_refused(trained, kind):
    if kind in ("list", "number"):
        torch.save({"list": [1], "number": 3}[kind], trained.state_file)
    else:
        contents = {"pickle": {"config": 1}, "class": Other()}
        others = {"zip": b"PK\x03\x04" + b"\0" * 99, "losses": trained.losses_file.read_bytes()}
        trained.state_file.write_bytes(others.get(kind) or pickle.dumps(contents[kind]))
    for read in (trained.check, lambda: trained.resume(begin(trained.config))):
        with pytest.raises(LoRWebError, match=r"resume\.pt cannot be read"):
            read()


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


def choose(config, if_exists="number"):
    """Where it would train."""
    with chosen_run(config, if_exists, config.training_folder) as folder:
        return folder.path.name


@pytest.mark.parametrize("spoil", ["state", "losses"])
def test_a_damaged_run_is_not_gone_on_with(trained, spoil):
    assert choose(trained.config) == "tiny"
    {"state": trained.state_file, "losses": trained.losses_file}[spoil].write_bytes(b"\0" * 99 + b"\n")
    before = held(trained.path)
    assert choose(trained.config) == "tiny-2"
    assert held(trained.path) == before
    assert choose(trained.config, "replace") == "tiny"
    assert held(trained.path).keys() == {"samples"}


def test_a_folder_of_no_run_is_not_replaced(trained):
    for file in (trained.state_file, trained.losses_file):
        file.write_bytes(b"mine")
    before = held(trained.path)
    with pytest.raises(LoRWebError, match=r"neither the state nor the losses of a training.*Choose another name"):
        choose(trained.config, "replace")
    assert held(trained.path) == before


def test_a_basis_of_another_in_the_runs_folder_is_not_replaced(trained):
    trained.basis_file.write_bytes(b"mine")
    other = tiny_config(trained.config.training_folder, seed=8)
    with pytest.raises(LoRWebError, match=r"tiny\.safetensors is there already"):
        choose(other, "replace")
    assert trained.state_file.exists()


def test_a_name_that_is_a_file_is_passed_over_or_refused(tmp_path):
    config = tiny_config(tmp_path)
    (tmp_path / "tiny").write_text("mine")
    assert choose(config) == "tiny-2"
    with pytest.raises(LoRWebError, match="tiny: the folder cannot be made .*another name"):
        choose(config, "replace")
    assert (tmp_path / "tiny").read_text() == "mine"


def test_a_name_that_no_folder_has_is_refused(tmp_path):
    for name in ("pairs\ud800", "a\0b", "x" * 300):
        with pytest.raises(LoRWebError, match="the folder cannot be made"):
            RunFolder(replace(tiny_config(tmp_path), name=name))


def test_samples_that_are_a_file_are_refused_at_once(trained):
    trained.sample_file("x").with_name("000000002_0.png").unlink()
    trained.samples_folder.rmdir()
    trained.samples_folder.write_text("mine")
    for use in (trained.check, lambda: trained.sample_file("x"), lambda: choose(trained.config)):
        with pytest.raises(LoRWebError, match="samples is no folder"):
            use()


@needs_links
@pytest.mark.parametrize("there", [True, False])
def test_samples_that_lead_out_are_refused_at_once(trained, tmp_path, there):
    (trained.samples_folder / "000000002_0.png").unlink()
    trained.samples_folder.rmdir()
    trained.samples_folder.symlink_to(tmp_path / "elsewhere")
    if there:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "000000002.png").write_text("theirs")
    other = tiny_config(trained.config.training_folder, seed=8)
    for use in (trained.check, lambda: trained.sample_file("x"), lambda: choose(other, "replace")):
        with pytest.raises(LoRWebError, match=r"samples.* does not stay in .*tiny: a link leads elsewhere"):
            use()
    assert trained.state_file.exists()
    assert (tmp_path / "elsewhere").exists() == there
    assert not there or held(tmp_path / "elsewhere") == {"000000002.png": b"theirs"}


@needs_links
def test_a_run_folder_that_leads_out_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "losses.csv").write_bytes(HEADER)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(tmp_path / "elsewhere")
    for if_exists in ("number", "replace"):
        with pytest.raises(LoRWebError, match="does not stay in"):
            choose(tiny_config(tmp_path / "runs"), if_exists)
    assert held(tmp_path / "elsewhere") == {"losses.csv": HEADER}


@pytest.mark.parametrize("if_exists", ["number", "replace"])
def test_a_second_training_in_a_folder_is_refused(trained, if_exists):
    other = tiny_config(trained.config.training_folder, seed=8)
    new = replace(trained.config, name="new")
    with trained.locked(), RunFolder(new).locked():
        for config in (trained.config, new):
            with pytest.raises(LoRWebError, match=r"has a training in it that another process is at"):
                choose(config, if_exists)
        if if_exists == "number":
            assert choose(other) == "tiny-2"
        else:
            with pytest.raises(LoRWebError, match="another process is at"):
                choose(other, "replace")
        assert trained.state_file.exists()
    assert choose(trained.config, if_exists) == "tiny"
    assert not (trained.path / "run.lock").exists()


HOLDER = """
import sys, time
from pathlib import Path
from lorweb_core.files.locks import held
with held(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_training_that_was_killed_keeps_nobody_out(trained):
    lock = trained.path / "run.lock"
    running = subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE)
    assert running.stdout.readline() == b"True\n"
    with pytest.raises(LoRWebError, match="another process is at"), trained.locked():
        pass
    running.kill()
    running.wait()
    assert lock.exists()
    assert choose(trained.config) == "tiny"


@pytest.mark.skipif(sys.platform == "win32", reason="its locks are other ones")
def test_where_there_are_no_locks_a_file_is_one(trained, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with trained.locked(), pytest.raises(LoRWebError, match=r"delete run\.lock in it"), trained.locked():
        pass
    assert not (trained.path / "run.lock").exists()
