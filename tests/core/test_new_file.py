"""Names that people type for files, and what is never written to: other folders, and other people's files."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lorweb_core import LoRWebError
from lorweb_core.basis_file import is_written_basis
from lorweb_core.export.lora_file import is_exported
from lorweb_core.files.atomic import replacing
from lorweb_core.files.new_file import new_file
from lorweb_core.space.mixture_file import is_mixture

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def nobodys(metadata) -> bool:
    return False


def write(root: Path, name: str, if_exists: str = "number", ours=nobodys, content: bytes = b"new") -> Path:
    with new_file(root, name, if_exists, ours) as path, replacing(path) as file:
        file.write(content)
    return path


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


OUT = ["//elsewhere/x", "\\\\elsewhere\\x", "/x", "\\x", "///x", "..", "../x", "a/../../x", "a\\..\\..\\x", "a/..", "."]
NOT_EVERYWHERE = [
    *("C:x", "C:\\x", "c:/x", "a:b", "a<b", "what?", "a*", 'a"b', "a|b", "a>b", "a\0b", "a\nb", "a\x7fb", "a\x9bb"),
    *("CON", "con", "aux.txt", "nul", "PRN.a.b", "COM1", "com0", "LPT9", "com¹", "lpt³.x", "a/nul/b", "con .txt"),
    *("a.", "a. /b", "b/ a", "a /b", "a../b", "...", "pairs\ud800", "\udfff/a", "a/" * 8 + "a"),
    *("x" * 189, "ä" * 100, "x" * 201 + "/a", "x" * 5000, "a/" * 3000 + "a"),
]


@pytest.mark.parametrize("if_exists", ["number", "replace"])
@pytest.mark.parametrize("name", [*OUT, *NOT_EVERYWHERE, "", "  "], ids=lambda name: ascii(name)[:30])
def test_names_that_lead_out_or_are_none_on_some_system_are_refused_before_anything_is_made(root, name, if_exists):
    before = everything(root.parent)
    with pytest.raises(LoRWebError, match="The name") as refused:
        write(root, name, if_exists)
    assert len(str(refused.value)) < 600
    assert everything(root.parent) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edit", "edit.safetensors"),
        (" lorweb/edit.safetensors ", "lorweb/edit.safetensors"),
        ("a\\b", "a/b.safetensors"),
        ("a//./b", "a/b.safetensors"),
        ("v1.5", "v1.5.safetensors"),
        ("console/com10", "console/com10.safetensors"),
        ("夜 ~ №1", "夜 ~ №1.safetensors"),
        ("a/" * 7 + "a", "a/" * 7 + "a.safetensors"),
        ("x" * 188, "x" * 188 + ".safetensors"),
    ],
    ids=lambda name: name[:20],
)
def test_names_that_every_system_takes_are_taken(root, name, expected):
    assert write(root, name).relative_to(root).as_posix() == expected


@given(st.text(st.sampled_from("ab./\\:~ \0\ud800cCoOnN1¹"), max_size=12))
@settings(derandomize=True, deadline=None)
def test_whatever_is_typed_stays_inside_or_is_refused(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("typed") / "models"
    root.mkdir()
    try:
        path = write(root, name)
    except LoRWebError:
        assert not everything(root)
    else:
        assert path.resolve().is_relative_to(root.resolve())
        assert path.read_bytes() == b"new"
        assert everything(root.parent) == {"models", *(f"models/{inside}" for inside in everything(root))}


@needs_links
@pytest.mark.parametrize("name", ["out/x", "out/sub/x", "in/out/x", "out"])
@pytest.mark.parametrize("if_exists", ["number", "replace"])
def test_a_link_that_leads_out_is_refused(root, tmp_path, name, if_exists):
    (tmp_path / "elsewhere").mkdir()
    (root / "in").mkdir()
    for place in (root / "out", root / "in" / "out"):
        place.symlink_to(tmp_path / "elsewhere")
    (root / "out.safetensors").symlink_to(tmp_path / "elsewhere" / "theirs")
    before = everything(tmp_path)
    with pytest.raises(LoRWebError, match=r"does not stay in .*link"):
        write(root, name, if_exists, lambda metadata: True)
    assert everything(tmp_path) == before


@needs_links
def test_links_that_stay_inside_and_a_folder_that_is_one_are_followed(root, tmp_path):
    (tmp_path / "linked").symlink_to(root)
    (root / "a").mkdir()
    (root / "b").symlink_to("a")
    assert write(tmp_path / "linked", "b/x") == tmp_path / "linked" / "b" / "x.safetensors"
    assert (root / "a" / "x.safetensors").read_bytes() == b"new"


@needs_links
def test_a_link_that_is_made_meanwhile_is_replaced_and_not_followed(root, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    with new_file(root, "x", "replace", nobodys) as path:
        path.symlink_to(tmp_path / "theirs")
        with replacing(path) as file:
            file.write(b"new")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert path.read_bytes() == b"new" and not path.is_symlink()


WRITTEN = [
    (is_mixture, {"format": "lorweb mixture 1"}),
    (is_exported, {"format": "pt", "lorweb.export": "{}"}),
    (is_written_basis, {"format": "pt", "lorweb.format": "lorweb basis 1"}),
    (is_written_basis, {"format": "pt", "training_config": "{}", "steps": "4"}),
    (is_written_basis, {"format": "pt", "pruned_from": "a", "kept": "[]"}),
    (is_written_basis, {"format": "pt", "merged_from": "[]"}),
]


@pytest.mark.parametrize(("ours", "metadata"), WRITTEN)
def test_replace_replaces_what_was_written_here(root, ours, metadata):
    save_file({"x": torch.zeros(1)}, root / "x.safetensors", metadata)
    write(root, "x", "replace", ours)
    assert (root / "x.safetensors").read_bytes() == b"new"


@pytest.mark.parametrize("ours", [is_mixture, is_exported, is_written_basis])
def test_replace_leaves_what_is_anothers(root, ours):
    others = [metadata for wrote, metadata in WRITTEN if wrote is not ours]
    for metadata in (None, {"format": "pt"}, *others):
        save_file({"x": torch.zeros(1)}, root / "x.safetensors", metadata)
        before = (root / "x.safetensors").read_bytes()
        with pytest.raises(LoRWebError, match=r"x\.safetensors is there already .* Choose another name, or move it"):
            write(root, "x", "replace", ours)
        assert (root / "x.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind", ["empty", "text", "folder", "pipe"])
def test_replace_leaves_what_is_no_file_of_ours_at_all(root, kind):
    path = root / "x.safetensors"
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    make = {"empty": path.touch, "text": lambda: path.write_text("{}" * 9), "folder": path.mkdir}
    make.get(kind, lambda: os.mkfifo(path))()
    with pytest.raises(LoRWebError, match="is there already"):
        write(root, "x", "replace", is_mixture)
    assert path.exists()


def test_two_writers_of_one_name_get_two_files(root):
    with ExitStack() as both:
        first, second = (both.enter_context(new_file(root, "Edit", "number", nobodys)) for _ in range(2))
        assert (first.name, second.name) == ("Edit.safetensors", "Edit-2.safetensors")
        assert not [path for path in root.iterdir() if path.suffix == ".safetensors"]
    # Nothing was written, so the name is free again.
    assert write(root, "Edit").name == "Edit.safetensors"
    assert everything(root) == {"Edit.safetensors"}


def test_many_threads_of_one_name_get_a_file_each(root):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda number: write(root, "x", content=b"%d" % number), range(40)))
    assert [path.read_bytes() for path in paths] == [b"%d" % number for number in range(40)]
    assert everything(root) == {path.name for path in paths}


PROCESS = """
import sys
from pathlib import Path
from lorweb_core.files.atomic import replacing
from lorweb_core.files.new_file import new_file
for number in range(10):
    with new_file(Path(sys.argv[1]), "x", "number", bool) as path, replacing(path) as file:
        file.write(f"{sys.argv[2]} {number}".encode())
"""


def test_two_processes_of_one_name_get_a_file_each(root):
    running = [subprocess.Popen([sys.executable, "-c", PROCESS, root, name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    written = {path.read_text() for path in root.iterdir()}
    assert written == {f"{name} {number}" for name in "ab" for number in range(10)}


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_a_name_is_given_back_whatever_ends_the_writing(root, error):
    with pytest.raises(type(error)), new_file(root, "x", "number", nobodys):
        raise error
    assert not everything(root)


def test_the_number_counts_for_the_length_too(root):
    name = "x" * 188
    write(root, name)
    with pytest.raises(LoRWebError, match="takes 202 bytes"):
        write(root, name)


def test_a_folder_that_is_a_file_is_said(root):
    (root / "file").write_text("")
    with pytest.raises(LoRWebError, match="cannot be made"):
        write(root, "file/x")


def test_another_if_exists_is_refused(root):
    with pytest.raises(LoRWebError, match=r"if_exists is 'ask'; expected one of: number, replace"):
        write(root, "x", "ask")
