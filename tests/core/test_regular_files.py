"""Only regular files are opened, and a file that was replaced is known for another."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from safetensors.torch import save_file

from lorweb_core import LoRWebError, load_basis
from lorweb_core.files.tensor_files import checkpoint_identity, file_identity, lasting_identity
from lorweb_core.space.mixture_file import load_mixture

unix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes among its files")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sock(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 100 characters only
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.fixture(params=[pytest.param(make, marks=unix) for make in (pipe, sock, device)] + [folder])
def put(request):
    return request.param


def refused(read, name: str) -> None:
    with pytest.raises(LoRWebError, match=f"{name}.* is a (pipe|socket|device|folder); expected a file"):
        read()


def test_in_the_place_of_a_basis(put, tmp_path):
    put(tmp_path / "basis.safetensors")
    refused(lambda: load_basis(tmp_path / "basis.safetensors"), "basis.safetensors")


def test_in_the_place_of_an_index_or_its_file(put, tmp_path):
    put(tmp_path / "a.safetensors.index.json")
    refused(lambda: load_basis(tmp_path / "a.safetensors.index.json"), "a.safetensors.index.json")
    (tmp_path / "b.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "b-1.safetensors"}}))
    put(tmp_path / "b-1.safetensors")
    refused(lambda: load_basis(tmp_path / "b.safetensors.index.json"), "b-1.safetensors")


def test_in_the_place_of_a_config(put, weights, save, tmp_path):
    put(tmp_path / "config.yaml")
    refused(lambda: load_basis(save(weights)), "config.yaml")


def test_in_the_place_of_a_mixture(put, weights, save, tmp_path):
    put(tmp_path / "m.safetensors")
    refused(lambda: load_mixture(tmp_path / "m.safetensors", load_basis(save(weights))), "m.safetensors")


def test_a_link_to_a_file_is_as_good_as_the_file(weights, save, tmp_path):
    try:
        (tmp_path / "link.safetensors").symlink_to(save(weights))
    except OSError:
        pytest.skip("links are for administrators here")
    assert len(load_basis(tmp_path / "link.safetensors").layers) == len(load_basis(save(weights)).layers)


@pytest.mark.parametrize("name", ["half\ud800", "nul\0", "x" * 300, "\udcff"])
def test_a_path_that_cannot_be_is_refused_in_words(tmp_path, weights, save, name):
    for read in (
        load_basis,
        lambda path: load_basis(save(weights), path),
        lambda path: load_mixture(path, load_basis(save(weights))),
        file_identity,
    ):
        for ending in (".safetensors", ".safetensors.index.json", ".yaml"):
            with pytest.raises(LoRWebError) as error:
                read(tmp_path / f"{name}{ending}")
            str(error.value).encode()


def test_an_index_that_names_half_a_character(tmp_path):
    path = tmp_path / "a.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"x": "\ud800.safetensors"}}))
    with pytest.raises(LoRWebError, match="a.safetensors.index.json needs all its files") as error:
        load_basis(path)
    str(error.value).encode()


def test_a_file_replaced_by_one_of_its_size_and_time_is_another(weights, save, tmp_path):
    path = save(weights)
    before, lasting, found = checkpoint_identity(path), lasting_identity(path), path.stat()
    weights[next(iter(weights))] += 1
    save_file(weights, tmp_path / "new.safetensors")
    os.replace(tmp_path / "new.safetensors", path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert checkpoint_identity(path) != before
    assert lasting_identity(path) == lasting  # what a restored backup has too


def test_a_basis_replaced_by_one_of_its_size_and_time_is_read_again(weights, save, tmp_path):
    path = save(weights)
    load_basis(path).check_values()
    found = path.stat()
    weights[next(iter(weights))].view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "new.safetensors")
    os.replace(tmp_path / "new.safetensors", path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(LoRWebError, match="NaN"):
        load_basis(path).check_values()
