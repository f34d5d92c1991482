from __future__ import annotations

import errno
import io
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import standins
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorweb_core import LoRWebError, Mixture, load_basis
from lorweb_core.files import atomic
from lorweb_core.pictures.thumbnails import contact_sheet, make_thumbnails
from lorweb_core.space.blend import blend
from lorweb_core.space.fingerprint import fingerprint
from lorweb_core.space.mixture_file import load_mixture, save_mixture
from lorweb_core.triplet import triplets


@pytest.fixture
def basis(weights, save):
    return load_basis(save(weights, query_mode="cat-aa'b"))


@pytest.fixture
def mixture(basis):
    shown = make_thumbnails(triplets(torch.rand(300, 200, 3), torch.rand(100, 400, 3), torch.rand(2, 20, 20, 3)))
    return Mixture(basis, basis.route(torch.randn(2, 1, 12)).coefficients, shown)


def test_what_is_saved_comes_back(mixture, basis, tmp_path):
    save_mixture(mixture, tmp_path / "m.safetensors")
    loaded = load_mixture(tmp_path / "m.safetensors", basis)
    assert torch.equal(loaded.table, mixture.table)
    assert loaded.basis is basis
    assert len(loaded.thumbnails) == 2
    for saved, kept in zip(loaded.thumbnails, mixture.thumbnails):
        assert all(torch.equal(one, other) for one, other in zip(saved, kept))


def test_the_file_is_small_and_says_what_it_is_of(mixture, basis, tmp_path):
    path = tmp_path / "m.safetensors"
    save_mixture(mixture, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["basis"] == "basis.safetensors"
    assert metadata["fingerprint"] == fingerprint(basis)
    assert "cat-aa'b" in metadata["config"]
    assert path.stat().st_size < 400_000


def test_a_file_of_the_same_basis_elsewhere_and_in_shards_takes_it(mixture, weights, tmp_path, save):
    save_mixture(mixture, tmp_path / "m.safetensors")
    copy = load_basis(save(weights, name="copy", query_mode="cat-aa'b"))
    assert torch.equal(load_mixture(tmp_path / "m.safetensors", copy).table, mixture.table)


@pytest.mark.parametrize("what", ["lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight"])
def test_one_value_changed_is_another_basis(mixture, weights, save, tmp_path, what):
    save_mixture(mixture, tmp_path / "m.safetensors")
    changed = {name: t.clone() for name, t in weights.items()}
    name = next(name for name in changed if name.endswith(what))
    changed[name].flatten()[-1] += 1
    with pytest.raises(LoRWebError, match=r"m\.safetensors is a mixture of another basis: of basis\.safetensors with"):
        load_mixture(tmp_path / "m.safetensors", load_basis(save(changed, name="changed", query_mode="cat-aa'b")))


def test_other_files_are_told_apart(basis, weights, tmp_path):
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(LoRWebError, match=r"other\.safetensors is not a saved mixture but a basis"):
        load_mixture(tmp_path / "other.safetensors", basis)
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(LoRWebError, match=r"x\.safetensors is not a saved mixture"):
        load_mixture(tmp_path / "x.safetensors", basis)
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(LoRWebError, match="empty"):
        load_mixture(tmp_path / "empty.safetensors", basis)
    with pytest.raises(LoRWebError, match="cannot be read"):
        load_mixture(tmp_path / "none.safetensors", basis)


@pytest.fixture
def changed(mixture, tmp_path):
    """Save the mixture, with its tensors or metadata changed by a function."""

    def changed(change_tensors=lambda tensors: None, **metadata):
        path = tmp_path / "changed.safetensors"
        save_mixture(mixture, path)
        with safe_open(path, "pt") as file:
            metadata = {**file.metadata(), **metadata}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change_tensors(tensors)
        save_file(tensors, path, {key: value for key, value in metadata.items() if value is not None})
        return path

    return changed


C = "coefficients.transformer.transformer_blocks.0.attn.to_q"
PICTURE = torch.zeros(4, 4, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({C: None}, "lacks coefficients of layer transformer.transformer_blocks.0.attn.to_q"),
        ({"coefficients.transformer.other": torch.zeros(2, 4)}, "has coefficients of layer transformer.other"),
        ({C: torch.zeros(4)}, "shape"),
        ({C: torch.zeros(3, 4)}, "shape"),
        ({C: torch.zeros(1, 4)}, "shape"),
        ({C: torch.zeros(2, 1)}, "shape"),
        ({C: torch.zeros(2, 5)}, "shape"),
        ({C: torch.zeros(())}, "shape"),
        ({C: torch.zeros(2, 0)}, "shape"),
        ({C: torch.zeros(1, 2, 4)}, "shape"),
        *(
            ({C: torch.zeros(2, 4).to(kind)}, "float32")
            for kind in (torch.float16, torch.float64, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn)
        ),
        ({C: torch.full((2, 4), torch.nan)}, "NaN"),
        ({C: torch.full((2, 4), -torch.inf)}, "NaN or infinity"),
        ({C: torch.full((2, 4), 1e38)}, "1e+38"),
        ({"thumbnail.0.a": None}, "neither coefficients nor a thumbnail"),
        (
            {"thumbnail.1.b": None, "thumbnail.1.a": None, "thumbnail.1.a_prime": None, "thumbnail.2.a": PICTURE},
            "thumb",
        ),
        ({"thumbnail.0.c": PICTURE}, "thumbnail.0.c"),
        ({"thumbnail.00.a": PICTURE, "thumbnail.00.a_prime": PICTURE, "thumbnail.00.b": PICTURE}, "thumbnail.00"),
        ({"weight": torch.zeros(3)}, "weight"),
        ({"x" * 100_000: torch.zeros(3)}, "xxx"),
        ({"thumbnail.0.a": PICTURE.float()}, "thumbnail.0.a"),
        ({"thumbnail.0.a": PICTURE[..., 0]}, "thumbnail.0.a"),
        ({"thumbnail.0.a": PICTURE[..., :1]}, "thumbnail.0.a"),
        ({"thumbnail.0.a": PICTURE[:0]}, "thumbnail.0.a"),
        ({"thumbnail.0.a": torch.zeros(2000, 1, 3, dtype=torch.uint8)}, "128 pixels"),
        (
            {f"thumbnail.{i}.{picture}": PICTURE.clone() for i in range(1500) for picture in ("a", "a_prime", "b")},
            "1,500",
        ),
    ],
)
def test_what_save_mixture_does_not_write_is_refused_by_name(changed, basis, tensors, words):
    def change(held: dict) -> None:
        held.update(tensors)
        for name in [name for name, value in tensors.items() if value is None]:
            del held[name]
        held.update({name: value.clone() for name, value in held.items()})

    path = changed(change)
    with pytest.raises(LoRWebError) as error:
        load_mixture(path, basis)
    assert "changed.safetensors" in str(error.value)
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "lorweb mixture 9"},
        {"fingerprint": None},
        {"basis": None},
        {"fingerprint": "x" * 100_000},
        {"fingerprint": "", "basis": "\x1b[2J" * 1000},
    ],
)
def test_metadata_of_another_form(changed, basis, metadata):
    with pytest.raises(LoRWebError, match=r"changed\.safetensors is") as error:
        load_mixture(changed(**metadata), basis)
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


@pytest.mark.parametrize("n", [None, 1, 3])
@pytest.mark.parametrize("pictures", [0, 1, 5])
def test_mixtures_of_any_number_and_with_any_number_of_thumbnails_come_back(basis, tmp_path, n, pictures):
    shown = make_thumbnails(triplets(torch.rand(16, 30, 3), torch.rand(30, 16, 3), torch.rand(5, 16, 16, 3)))
    shape = (4,) if n is None else (n, 4)
    mixture = Mixture(basis, {layer: torch.randn(shape) for layer in basis.layers}, shown[:pictures])
    save_mixture(mixture, tmp_path / "m.safetensors")
    loaded = load_mixture(tmp_path / "m.safetensors", basis)
    assert torch.equal(loaded.table, mixture.table)
    assert len(loaded.thumbnails) == pictures


@pytest.mark.parametrize("n", [None, 1, 3])
def test_the_origin_comes_back(basis, tmp_path, n):
    shape = (4,) if n is None else (n, 4)
    mixture, origin = (Mixture(basis, {layer: torch.randn(shape) for layer in basis.layers}) for _ in range(2))
    path = tmp_path / "m.safetensors"
    save_mixture(replace(mixture, origin=origin), path)
    loaded = load_mixture(path, basis)
    assert torch.equal(loaded.table, mixture.table)
    assert torch.equal(loaded.origin.table, origin.table)


def test_a_file_without_an_origin_is_as_those_of_older_versions(mixture, basis, tmp_path):
    path = tmp_path / "m.safetensors"
    save_mixture(mixture, path)
    assert {name.partition(".")[0] for name in load_file(path)} == {"coefficients", "thumbnail"}
    assert load_mixture(path, basis).origin is None


@pytest.mark.parametrize(
    ("layers", "values", "words"),
    [
        (1, torch.ones(2, 4), "origin lacks coefficients of layer"),
        (None, torch.ones(4), "is of 2 analogies and its origin of 1"),
        (None, torch.ones(2, 4, dtype=torch.float16), "its origin: the coefficients of layer .*float16"),
        (None, torch.full((2, 4), torch.nan), "its origin: the coefficients of layer .*NaN"),
    ],
)
def test_an_origin_that_does_not_fit_is_refused_by_name(changed, basis, layers, values, words):
    def change(held: dict) -> None:
        held.update({f"origin.{layer}": values.clone() for layer in list(basis.layers)[:layers]})

    with pytest.raises(LoRWebError, match=rf"changed\.safetensors.*{words}"):
        load_mixture(changed(change), basis)


def test_an_activation_routed_mixture_has_nothing_to_save(save, tmp_path):
    weights = standins.basis(standins.block_linears(16, 1, 1), n=4, rank=2, keys=8, query=None)
    basis = load_basis(save(weights, external_query=False))
    with pytest.raises(LoRWebError, match="no coefficients before sampling"):
        save_mixture(basis.route(), tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_a_full_disk_leaves_the_old_file_and_no_part(mixture, basis, tmp_path, monkeypatch):
    path = tmp_path / "saved" / "m.safetensors"
    path.parent.mkdir()
    save_mixture(mixture, path)
    before = path.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(LoRWebError, match="0 MB free. Make room"):
        save_mixture(mixture, path)

    monkeypatch.undo()
    monkeypatch.setattr(atomic, "open", FullDisk, raising=False)
    with pytest.raises(LoRWebError, match="No space left on device"):
        save_mixture(mixture, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["m.safetensors"]


class FullDisk(io.FileIO):
    """A file on a disk that has no room after 100 bytes."""

    def write(self, content) -> int:
        super().write(bytes(content)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_thumbnails_are_small_and_in_shape():
    (shown,) = make_thumbnails(triplets(torch.rand(512, 256, 3), torch.ones(64, 64, 3), torch.zeros(16, 300, 3)))
    assert [tuple(picture.shape) for picture in shown] == [(128, 64, 3), (64, 64, 3), (7, 128, 3)]
    assert shown.a_prime.eq(255).all()
    assert shown.b.eq(0).all()
    sheet = contact_sheet([shown, shown])
    assert sheet.shape[0] > 2 * 128
    assert sheet.max() == 1


RELEASED = Path(__file__).parent.parent / "data" / "released_mixtures"
"""A basis, two mixtures and their blends, 1.5 of one and −0.4 of the other, written by version c8a2e3a."""


@pytest.mark.parametrize("space", ["coefficients", "logits"])
def test_mixtures_of_the_last_release_load_and_blend_as_they_did(space):
    basis = load_basis(RELEASED / "basis.safetensors")
    saved = [load_mixture(RELEASED / f"{name}.safetensors", basis) for name in ("one", "two")]
    expected = load_file(RELEASED / "blended.safetensors")
    for layer, coefficients in blend(saved, [1.5, -0.4], space).coefficients.items():
        torch.testing.assert_close(coefficients, expected[f"{space}.{layer}"], rtol=1e-6, atol=1e-7)
    with pytest.raises(LoRWebError, match="no origin"):
        blend(saved, [1, 1], origin="no edit")
