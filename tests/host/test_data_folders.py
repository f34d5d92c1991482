"""Train Basis reads the folders that are meant for it, and no other of the machine's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pairs import save_pairs

links = pytest.mark.skipif(sys.platform == "win32", reason="a system on which links take an administrator")


@pytest.fixture
def folders(host, tmp_path, monkeypatch) -> Path:
    """A folder with the host's `input`, a folder of datasets as extra_model_paths.yaml names one, and a private one."""
    import folder_paths

    known = {**folder_paths.folder_names_and_paths, "lorweb_datasets": ([str(tmp_path / "sets")], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    scenes = {name: torch.rand(48, 48, 3) for name in ("one", "two")}
    for where in ("input/mine", "sets/theirs", "private/secret"):
        save_pairs(tmp_path / where, {"bright": lambda x: x**0.5}, scenes)
    return tmp_path


@pytest.fixture
def train(host, monkeypatch) -> Callable:
    """What the node does with a folder, up to where it needs a model; its outcome is the analogies."""
    node = host.node("LoRWeBTrainBasis")
    names = node.execute.__func__.__wrapped__.__globals__
    find_dataset = names["find_dataset"]

    class Found(Exception):
        pass

    def found(settings, seed):
        raise Found(find_dataset(settings, seed).training)

    monkeypatch.setitem(names, "find_dataset", found)

    def train(folder: str) -> list:
        widgets = {i.id: i.default for i in node.GET_SCHEMA().inputs if hasattr(i, "default")}
        with pytest.raises((Found, host.core.LoRWebError)) as caught:
            node.execute(model=object(), vae=object(), positive=[], **(widgets | {"folder": folder}))
        if caught.type is not Found:
            raise caught.value
        return caught.value.args[0]

    return train


@pytest.mark.parametrize("typed", ["mine", "theirs", "{}/input/mine", ' "{}/sets/theirs" ', "{}/sets/../input/mine"])
def test_folders_in_input_and_in_those_named_in_the_yaml_are_read(folders, train, typed):
    (analogy, _) = train(typed.format(folders))
    assert analogy.edit == "bright"


@pytest.mark.parametrize(
    "typed",
    [
        "{}/private/secret",
        "{}/private/none",
        "../private/secret",
        "{}/input/../private",
        "/",
        "/etc",
        "mine/../../private",
    ],
)
def test_another_folder_is_refused_in_words_that_do_not_say_if_it_exists(folders, train, host, typed):
    typed = typed.format(folders)
    with pytest.raises(host.core.LoRWebError) as caught:
        train(typed)
    message = str(caught.value)
    assert message.startswith(f"folder {typed!r} is not where pictures for training may lie. They lie in ")
    assert "What is there: mine, theirs." in message
    assert "lorweb_datasets in extra_model_paths.yaml" in message
    assert "LORWEB_TRAIN_ANYWHERE=1" in message
    assert "secret" not in message.replace(typed, "")


@pytest.mark.parametrize("typed", ["none", "~nouser", "mine\0", "mine\ud800", "x" * 5000, "~\0", ""])
def test_names_that_are_no_folder_are_refused_in_words(folders, train, host, typed):
    with pytest.raises(host.core.LoRWebError, match=r"^folder"):
        train(typed)


def test_a_variable_of_the_environment_allows_every_folder(folders, train, monkeypatch):
    monkeypatch.setenv("LORWEB_TRAIN_ANYWHERE", "1")
    assert len(train(str(folders / "private" / "secret"))) == 2
    assert len(train("mine")) == 2


@links
def test_the_variable_allows_links_to_every_folder(folders, train, monkeypatch):
    monkeypatch.setenv("LORWEB_TRAIN_ANYWHERE", "1")
    (folders / "input" / "mine" / "elsewhere").symlink_to(folders / "private" / "secret" / "bright")
    assert {analogy.edit for analogy in train("mine")} == {"bright", "elsewhere"}


LINKS = ("mine", "mine/bright", "mine/bright/caption.txt", "mine/bright/three_before.png", "mine/other")


@links
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_leads_out_is_not_followed(folders, train, host, link, there):
    path = folders / "input" / link
    if path.exists():
        path.rename(folders / "moved")
    path.symlink_to(folders / "private" / ("secret" if there else "none"))
    with pytest.raises(host.core.LoRWebError, match="leads out of the folders|not where pictures for training may lie"):
        train("mine")
    assert host.node("LoRWeBTrainBasis").fingerprint_inputs(folder="mine") == ""


@links
def test_a_link_from_one_of_the_folders_to_another_is_followed(folders, train):
    (folders / "input" / "mine" / "other").symlink_to(folders / "sets" / "theirs" / "bright")
    assert {analogy.edit for analogy in train("mine")} == {"bright", "other"}


def test_the_fingerprint_tells_changes_and_reads_no_other_folder(folders, host, monkeypatch):
    node = host.node("LoRWeBTrainBasis")
    before = node.fingerprint_inputs(folder="mine")
    (folders / "input" / "mine" / "bright" / "caption.txt").write_text("brighter")
    assert node.fingerprint_inputs(folder="mine") not in (before, "")

    read, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: read.append(path) or scandir(path))
    assert node.fingerprint_inputs(folder=str(folders / "private" / "secret")) == ""
    assert not [path for path in read if "private" in str(path)]
