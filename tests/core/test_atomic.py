from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from lorweb_core import LoRWebError
from lorweb_core.files.atomic import replacing
from lorweb_core.files.safetensors_writer import Entry, write_tensors

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.float64])
SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple)


def described(tensors: dict[str, torch.Tensor]) -> dict[str, Entry]:
    return {name: Entry(t.dtype, tuple(t.shape)) for name, t in tensors.items()}


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
        write_tensors(path, dict.fromkeys("ab", Entry(torch.float32, (2,))), tensors(), {})
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["t.safetensors"]


def test_progress_may_stop_it(tmp_path):
    seen = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            raise InterruptedError

    entries = dict.fromkeys("abc", Entry(torch.float32, (2,)))
    with pytest.raises(LoRWebError):  # an OSError, to Python
        write_tensors(tmp_path / "t.safetensors", entries, (torch.zeros(2) for _ in "abc"), {}, progress)
    assert seen == [(0, 3), (1, 3)]
    assert left(tmp_path) == []


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    entries = {"a": Entry(torch.float32, (1000, 1000))}
    with pytest.raises(LoRWebError, match=r"t\.safetensors takes 4 MB, but .* has 3 MB free"):
        write_tensors(tmp_path / "t.safetensors", entries, pytest.fail, {})


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(LoRWebError, match="could not be written into"), replacing(tmp_path / "none" / "t", 1):
        pytest.fail("nothing to write to")


def test_a_tensor_must_be_what_was_described(tmp_path):
    with pytest.raises(ValueError, match="a is"):
        write_tensors(tmp_path / "t", {"a": Entry(torch.float32, (2,))}, [torch.zeros(3)], {})
    assert left(tmp_path) == []
