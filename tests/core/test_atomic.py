from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from lorweb_core import LoRWebError
from lorweb_core.files import atomic
from lorweb_core.files.atomic import replacing
from lorweb_core.files.locks import held
from lorweb_core.files.safetensors_writer import TensorSpec, write_tensors

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.float64])
SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple)


def described(tensors: dict[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}


@given(
    st.dictionaries(st.text("abcdé.0", min_size=1), st.tuples(DTYPES, SHAPES), max_size=6), st.text('a"\\é', max_size=9)
)
def test_safetensors_reads_what_is_written(tmp_path_factory, kinds, note):
    path = tmp_path_factory.mktemp("written") / "t.safetensors"
    tensors = {name: (torch.rand(shape) * 200).to(dtype) for name, (dtype, shape) in kinds.items()}
    size = write_tensors(path, described(tensors), tensors.values(), {"note": note})
    assert path.stat().st_size == size
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(loaded[name].dtype == t.dtype and torch.equal(loaded[name], t) for name, t in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"note": note}


def test_views_are_written_as_they_read(tmp_path):
    tensors = {"turned": torch.arange(6.0).view(2, 3).T, "part": torch.arange(6.0)[1:3]}
    write_tensors(tmp_path / "t.safetensors", described(tensors), tensors.values(), {})
    loaded = load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(loaded[name], t) for name, t in tensors.items())


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"old")

    def tensors():
        yield torch.zeros(2)
        raise error

    with pytest.raises(type(error)):
        write_tensors(path, dict.fromkeys("ab", TensorSpec(torch.float32, (2,))), tensors(), {})
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["t.safetensors"]


def test_progress_may_stop_it(tmp_path):
    seen = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            raise InterruptedError

    entries = dict.fromkeys("abc", TensorSpec(torch.float32, (2,)))
    with pytest.raises(LoRWebError):  # an OSError, to Python
        write_tensors(tmp_path / "t.safetensors", entries, (torch.zeros(2) for _ in "abc"), {}, progress)
    assert seen == [(0, 3), (1, 3)]
    assert left(tmp_path) == []


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    entries = {"a": TensorSpec(torch.float32, (1000, 1000))}
    with pytest.raises(LoRWebError, match=r"t\.safetensors takes 4 MB, but .* has 3 MB free"):
        write_tensors(tmp_path / "t.safetensors", entries, pytest.fail, {})


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(LoRWebError, match="could not be written into"), replacing(tmp_path / "none" / "t", 1):
        pytest.fail("nothing to write to")


def test_a_tensor_must_be_what_was_described(tmp_path):
    with pytest.raises(ValueError, match="a is"):
        write_tensors(tmp_path / "t", {"a": TensorSpec(torch.float32, (2,))}, [torch.zeros(3)], {})
    assert left(tmp_path) == []


def spoil(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), replacing(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("umask", [0o022, 0o027])
@pytest.mark.skipif(sys.platform == "win32", reason="no such bits there")
def test_a_file_has_the_rights_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "x") as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


def test_writers_with_one_number_of_process_never_tear_a_file(tmp_path):
    """Containers count their processes from 1, each its own."""
    path, contents = tmp_path / "x", [bytes([65 + number]) * 100_000 for number in range(2)]
    process = (
        "import os, sys; os.getpid = lambda: 7\n"
        "from pathlib import Path; from lorweb_core.files.atomic import replacing\n"
        "for _ in range(150):\n"
        "    with replacing(Path(sys.argv[1])) as file:\n"
        "        for _ in range(100): file.write(sys.argv[2].encode() * 1000)"
    )
    running = [subprocess.Popen([sys.executable, "-c", process, path, content[:1]]) for content in contents]
    seen = set()
    while any([each.poll() is None for each in running]):
        if path.exists():
            seen.add(path.read_bytes())
    assert [each.returncode for each in running] == [0, 0]
    assert seen <= set(contents)
    assert left(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [RuntimeError("first"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", ["close", "unlink"])
def test_a_clean_up_that_fails_does_not_hide_what_came_first(tmp_path, monkeypatch, error, failing):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    class Full(io.FileIO):
        def close(self) -> None:
            super().close()
            fail()

    if failing == "close":
        monkeypatch.setattr(atomic, "open", Full, raising=False)
    else:
        monkeypatch.setattr(Path, "unlink", fail)
    spoil(tmp_path / "x", error)
    monkeypatch.undo()
    assert not (tmp_path / "x").exists()


def test_a_folder_that_vanishes_is_said(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(LoRWebError, match="x could not be written into .*folder"), replacing(folder / "x") as file:
        file.write(b"new")
        shutil.rmtree(folder)


def test_a_folder_in_its_place_is_said_and_stays(tmp_path):
    (tmp_path / "x" / "inside").mkdir(parents=True)
    with pytest.raises(LoRWebError, match="x could not be written"), replacing(tmp_path / "x") as file:
        file.write(b"new")
    assert left(tmp_path) == ["x"]


KILLED = """
import sys, time
from pathlib import Path
from lorweb_core.files import atomic
from lorweb_core.files.atomic import replacing
from lorweb_core.files.locks import held
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there after a minute")
def test_what_a_killed_writer_left_is_removed_at_the_next_write_and_a_living_one_is_not(tmp_path):
    path = tmp_path / "x"
    running = [subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) for _ in range(2)]
    assert [each.stdout.readline() for each in running] == [b"writing\n"] * 2
    parts = left(tmp_path)
    assert len(parts) == 2
    running[0].kill()
    running[0].wait()
    with replacing(path) as file:
        file.write(b"new")
    (living,) = set(left(tmp_path)) - {"x"}
    running[1].kill()
    running[1].wait()
    assert living in parts
    with replacing(tmp_path / "another") as file:
        file.write(b"new")
    assert left(tmp_path) == ["another", "x"]
    assert path.read_bytes() == b"new"


@pytest.fixture
def old():
    """Make a file of so many days of age."""

    def old(path: Path, days: float) -> str:
        path.write_bytes(b"half")
        os.utime(path, (time.time() - days * 24 * 60 * 60,) * 2)
        return path.name

    return old


def test_what_earlier_versions_left_goes_after_a_day_and_other_files_never(tmp_path, old):
    gone = [old(tmp_path / ".edit.safetensors.4711.part", 1.1), old(tmp_path / ".a b.yaml.1.part", 400)]
    kept = [
        old(tmp_path / ".edit.safetensors.4712.part", 0.9),
        *(old(tmp_path / name, 9) for name in ("film.part", ".film.part", "edit.safetensors.1.part", ".mine.1.part")),
    ]
    (tmp_path / ".x.png.1.part").mkdir()
    with replacing(tmp_path / "x") as file:
        file.write(b"new")
    assert left(tmp_path) == sorted([*kept, ".x.png.1.part", "x"])
    assert not set(gone) & set(kept)


@pytest.mark.skipif(sys.platform == "win32", reason="its locks are other ones")
def test_where_there_are_no_locks_a_part_is_left_over_after_a_day(tmp_path, old, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    young, _ = old(tmp_path / f".lorweb-{'0' * 16}.part", 0.9), old(tmp_path / f".lorweb-{'1' * 16}.part", 1.1)
    with replacing(tmp_path / "x") as file:
        file.write(b"new")
    assert left(tmp_path) == [young, "x"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_that_is_called_like_a_part_is_left_alone(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / f".lorweb-{'0' * 16}.part").symlink_to("theirs")
    with replacing(tmp_path / "x") as file:
        file.write(b"new")
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_lock_is_held_once_and_free_when_its_holder_is_dead(tmp_path):
    path = tmp_path / "lock"
    holder = (
        "import sys, time; from pathlib import Path; from lorweb_core.files.locks import held\n"
        "with held(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
    )
    running = subprocess.Popen([sys.executable, "-c", holder, path], stdout=subprocess.PIPE)
    assert running.stdout.readline() == b"True\n"
    with held(path) as mine:
        assert not mine
    running.kill()
    running.wait()
    with held(path) as mine, held(path) as again:
        assert (mine, again) == (True, False)
    assert left(tmp_path) == []


def test_many_threads_hold_a_lock_one_at_a_time(tmp_path):
    inside, most = [], []

    def hold(number: int) -> None:
        for _ in range(50):
            with held(tmp_path / "lock") as mine:
                if mine:
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(8)))
    assert set(most) == {1}
