"""Folders of pictures that an attacker or bad luck made: refused in words, and nothing outside them is read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from lorweb_core import LoRWebError
from lorweb_core.training.data.analogies import (
    Analogy,
    Pair,
    Picture,
    analogies_from_pairs,
    load_picture,
    split_by_edit,
)
from lorweb_core.training.data.folder_layouts import LARGEST_CAPTION, LARGEST_LIST
from lorweb_core.training.data.pictures_on_disk import read_analogies

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
links = pytest.mark.skipif(sys.platform == "win32", reason="a system on which links take an administrator")


@pytest.fixture
def relation(tmp_path) -> Path:
    """The labels.json of a Relation252K folder with two pictures."""
    group = tmp_path / "data" / "smile" / "Group1"
    group.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        Image.new("RGB", (40, 20)).save(group / name)
    (group / "labels.json").write_text(json.dumps([{"img_name": "0.png"}, {"img_name": "1.png"}]))
    return group / "labels.json"


@pytest.fixture
def triplets(tmp_path) -> Path:
    """A folder as published, with two analogies."""
    for name in ("0.png", "1.png"):
        for side, width in (("target", 20), ("control", 60)):
            (tmp_path / "data" / side).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (width, 20)).save(tmp_path / "data" / side / name)
    return tmp_path / "data"


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A folder with one edit of two pairs."""
    edit = tmp_path / "data" / "blur"
    edit.mkdir(parents=True)
    for name in ("one", "two"):
        for side in ("before", "after"):
            Image.new("RGB", (20, 20)).save(edit / f"{name}_{side}.png")
    return tmp_path / "data"


PATHS = ("../0.png", "../../../outside.png", "/etc/passwd", "sub/0.png", "sub\\0.png", "C:0.png", "..", ".", "0\0.png")


@pytest.mark.parametrize("name", PATHS)
def test_a_labels_file_names_pictures_beside_it_only(relation, name):
    relation.write_text(json.dumps([{"img_name": "0.png"}, {"img_name": name}]))
    with pytest.raises(LoRWebError, match=r"labels\.json: img_name is .*; expected the name of a file, no path"):
        read_analogies(relation.parents[2])


@pytest.mark.parametrize("name", PATHS)
def test_so_does_the_metadata_of_triplets(triplets, name):
    (triplets / "analogy_metadata.json").write_text(json.dumps([{"analogy_id": name}]))
    with pytest.raises(LoRWebError, match=r"analogy_metadata\.json: analogy_id is .*; expected the name of a file"):
        read_analogies(triplets)


@pytest.mark.parametrize(
    "entry",
    [
        '"img_name": "0.png", "edit_instruction": ["smile"]',
        '"img_name": "0.png", "edit_instruction": {"a": 1}',
        '"img_name": "0.png", "edit_instruction": 3',
        '"img_name": "0.png", "edit_instruction": NaN',
        '"img_name": "0.png", "edit_instruction": "\\ud800"',
        '"img_name": "0\\udcff.png"',
        '"img_name": ' + "9" * 5000,
        '"img_name": ' + "[" * 100_000,
        '"img_name": "0.png", "more": ' + '{"a": ' * 100_000,
        '"img_name": ["' + "0" * 100_000 + '"]',
    ],
    ids=range(10),
)
def test_labels_of_other_types_are_refused_in_a_short_message(relation, entry):
    relation.write_text(f"[{{{entry}}}]")
    with pytest.raises(LoRWebError, match=r"labels\.json") as caught:
        read_analogies(relation.parents[2])
    assert len(str(caught.value)) < 800


def test_a_list_of_absurd_size_is_not_read(relation):
    os.truncate(relation, LARGEST_LIST + 1)
    with pytest.raises(LoRWebError, match=r"labels\.json has 32,000,001 bytes; a list of pictures is read up to"):
        read_analogies(relation.parents[2])


def test_a_caption_of_absurd_size_is_not_read(triplets):
    caption = triplets / "target" / "0.txt"
    caption.touch()
    os.truncate(caption, LARGEST_CAPTION + 1)
    with pytest.raises(LoRWebError, match=r"0\.txt has 100,001 bytes; a caption is read up to 100,000"):
        read_analogies(triplets)


def test_a_caption_that_is_a_folder_is_refused(pairs):
    (pairs / "blur" / "caption.txt").mkdir()
    with pytest.raises(LoRWebError, match=r"caption\.txt is a folder; expected a file"):
        read_analogies(pairs)


@pipes
def test_a_caption_that_is_a_pipe_is_never_opened(pairs):
    os.mkfifo(pairs / "blur" / "caption.txt")
    with pytest.raises(LoRWebError, match=r"caption\.txt is a pipe; expected a file"):
        read_analogies(pairs)


@pipes
@pytest.mark.parametrize("file", ["night/Group1/labels.json", "analogy_metadata.json"])
def test_a_list_that_is_a_pipe_is_never_opened(relation, triplets, file):
    path = triplets / file
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(LoRWebError, match=f"{path.name} is a pipe; expected a file"):
        read_analogies(triplets, layout="triplets" if "metadata" in file else "relation252k")


@pipes
def test_a_picture_that_is_a_pipe_is_never_opened(pairs):
    picture = pairs / "blur" / "one_before.png"
    picture.unlink()
    os.mkfifo(picture)
    assert picture in {each.path for analogy in read_analogies(pairs) for each in analogy.pictures}
    with pytest.raises(LoRWebError, match=r"one_before\.png is a pipe; expected a file"):
        load_picture(Picture(picture))


@pytest.mark.skipif(sys.platform != "linux", reason="a system whose names are all Unicode")
@pytest.mark.parametrize("name", [b"blur/x\xff_before.png", b"bl\xffur/x_before.png", b"blur/before/\xff.png"])
def test_names_that_are_no_utf_8_are_refused(pairs, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(pairs), name)))
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(LoRWebError, match=r"\\udcff.* has a name that is no UTF-8 text\. Rename it"):
        read_analogies(pairs)


@links
def test_links_in_a_circle_end(pairs):
    (pairs / "blur" / "before").symlink_to(pairs, target_is_directory=True)
    (pairs / "again").symlink_to(pairs, target_is_directory=True)
    (pairs / "blur" / "itself.png").symlink_to(pairs / "blur" / "itself.png")
    assert {analogy.edit for analogy in read_analogies(pairs)} == {"blur"}


def outside(data: Path) -> Path:
    """A folder beside the data, with pictures of its own."""
    folder = data.parent / "outside"
    for side in ("before", "after"):
        (folder / side).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(folder / side / "x.png")
    (folder / "secret.txt").write_text("secret")
    return folder


@links
@pytest.mark.parametrize(
    ("link", "to"),
    [
        ("linked", ""),
        ("blur/before", "before"),
        ("blur/caption.txt", "secret.txt"),
        ("blur/three_before.png", "before/x.png"),
        ("blur/three_before.png", "none"),
    ],
)
def test_a_link_out_of_the_roots_is_refused_and_followed_where_there_are_none(pairs, link, to):
    (pairs / link).symlink_to(outside(pairs) / to)
    read_analogies(pairs)
    read_analogies(pairs, roots=[pairs.parent])
    with pytest.raises(LoRWebError, match=f"{Path(link).name} leads out of the folders that may be read"):
        read_analogies(pairs, roots=[pairs])


@links
@pytest.mark.parametrize("file", ["Group1", "Group1/labels.json", "Group1/0.png", "Group1/.hidden.png"])
def test_so_are_links_to_labels_and_what_they_name(relation, file):
    path, elsewhere = relation.parents[1] / file, relation.parents[3] / "elsewhere"
    relation.write_text(json.dumps([{"img_name": name} for name in ("0.png", "1.png", ".hidden.png")]))
    if "hidden" in file:
        elsewhere.touch()
    else:
        path.rename(elsewhere)
    path.symlink_to(elsewhere)
    read_analogies(relation.parents[2])
    with pytest.raises(LoRWebError, match=f"{path.name}.* leads out of the folders that may be read"):
        read_analogies(relation.parents[2], roots=[relation.parents[2]])


def test_the_strips_beside_a_root_are_not_read(triplets):
    assert read_analogies(triplets / "target")
    with pytest.raises(LoRWebError, match="No pairs of pictures found"):
        read_analogies(triplets / "target", roots=[triplets / "target"])


def test_every_folder_is_listed_once_however_many_files_it_has(pairs, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    read_analogies(pairs)
    assert sorted(listed) == [pairs, pairs / "blur"]


def edits(*names: str) -> list[Analogy]:
    pair = Pair(Picture(Path("x")), Picture(Path("y")), "")
    return analogies_from_pairs({name: [pair, pair] for name in names}, 1, 0)


def test_patterns_that_would_take_long_are_refused():
    with pytest.raises(LoRWebError, match=r"held_out: .* has 3,000 characters; expected at most 1,000"):
        split_by_edit(edits("a", "b"), ["*a?" * 1000])
    with pytest.raises(LoRWebError, match="held_out has 101 patterns or names of no edit"):
        split_by_edit(edits("a", "b"), ["*" * number for number in range(1, 102)])


def test_names_of_edits_are_held_out_however_many_and_long():
    names = [f"{number} {'long' * 500}" for number in range(200)]
    train, kept = split_by_edit(edits("a", *names), names)
    assert ({each.edit for each in train}, len(kept)) == ({"a"}, 200)


def test_a_long_name_is_shortened_in_messages():
    with pytest.raises(LoRWebError) as caught:
        split_by_edit(edits("a" * 100_000, "b"), ["q"])
    assert len(str(caught.value)) < 400
    assert len(edits("a" * 100_000)[0].name) < 300


@pytest.mark.parametrize("suffix", ["", "/x", "../x", "a.b", "\0", "x\\y"])
def test_the_suffix_of_captions_is_none_that_leads_elsewhere(pairs, suffix):
    with pytest.raises(LoRWebError, match="caption_ext is "):
        read_analogies(pairs, caption_ext=suffix)


@pytest.mark.parametrize("folder", ["no\0thing", "no\ud800thing", "x" * 5000, "~nouser"])
def test_folders_that_cannot_be_are_said_to_be_missing(folder):
    with pytest.raises(LoRWebError, match="there is no such folder"):
        read_analogies(Path(folder))
