from __future__ import annotations

import base64
import errno
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import standins
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lorweb_core import LoRWebError, load_basis
from lorweb_core.export.lora_export import DTYPES, error_by_rank, export_lora
from lorweb_core.export.report import LayerReport, Report
from lorweb_core.pictures.export_picture import export_picture
from lorweb_core.pictures.thumbnails import Thumbnails
from lorweb_core.space.edit import Edit, edit
from lorweb_core.space.fingerprint import fingerprint

LAYER = "transformer.transformer_blocks.0.attn.to_k"


@pytest.fixture
def mixture(weights, save):
    """Of the small basis, N·r = 8; tanh gives coefficients of both signs, one layer has an alpha."""
    path = save({**weights, f"{LAYER}.alpha": torch.tensor(6.0)}, lora_softmax=False, mixing_coeffs_type="mean")
    return load_basis(path).route(torch.randn(12, generator=torch.Generator().manual_seed(1)))


def dense(mixture, strength: float = 1.0) -> dict[str, torch.Tensor]:
    """Every ΔW in full, float64."""
    changes = {}
    for name, layer in mixture.basis.layers.items():
        parts = zip(mixture.coefficients[name].double(), layer.A.double(), layer.B.double())
        changes[name] = strength * layer.scale * sum(c * (a @ b).T for c, a, b in parts)
    return changes


def held(path: Path) -> dict[str, torch.Tensor]:
    """What a LoRA file adds to each layer, float64, by the rule that all loaders share: alpha / rank · B A."""
    tensors = load_file(path)
    layers = {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")}
    changes = {}
    for name in layers:
        down, up = (tensors.pop(f"{name}.lora_{factor}.weight").double() for factor in "AB")
        alpha = float(tensors.pop(f"{name}.alpha", torch.tensor(float(len(down)))))
        changes[name] = alpha / len(down) * up @ down
    assert not tensors
    return changes


def relative_errors(path: Path, expected: dict[str, torch.Tensor]) -> tuple[dict[str, float], float]:
    """Of each layer, and over all."""
    found = held(path)
    assert found.keys() == expected.keys()
    differences = {name: (found[name] - expected[name]).norm() for name in expected}
    each = {name: float(differences[name] / expected[name].norm()) for name in expected}
    total = torch.stack(list(differences.values())).norm() / torch.stack([e.norm() for e in expected.values()]).norm()
    return each, float(total)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-7), ("float16", 5e-4), ("bfloat16", 4e-3)])
def test_an_exact_file_holds_the_change(mixture, tmp_path, dtype, limit):
    export_lora(mixture, tmp_path / "lora.safetensors", strength=0.7, dtype=dtype)
    _, total = relative_errors(tmp_path / "lora.safetensors", dense(mixture, 0.7))
    assert total < limit
    tensors = load_file(tmp_path / "lora.safetensors")
    assert {t.dtype for t in tensors.values()} == {DTYPES[dtype]}
    assert tensors[f"{LAYER}.lora_A.weight"].shape == (8, 16)
    assert not any(key.endswith(".alpha") for key in tensors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("setting", [{"mode": "rank", "rank": k} for k in (1, 3, 8, 99)] + [
    {"mode": "error", "error": e} for e in (0.5, 0.05, 0.0)
] + [{"mode": "exact"}])  # fmt: skip
def test_the_reported_error_is_the_measured_one(mixture, tmp_path, dtype, setting):
    path = tmp_path / "lora.safetensors"
    report = export_lora(mixture, path, dtype=dtype, strength=-1.3, **setting)
    each, total = relative_errors(path, dense(mixture, -1.3))
    assert report.error == pytest.approx(total, rel=0.01)
    assert {name: layer.error for name, layer in report.layers.items()} == pytest.approx(each, rel=0.01)
    assert report.bytes == path.stat().st_size


def test_each_layer_takes_the_least_rank_for_the_error(mixture, tmp_path):
    report = export_lora(mixture, tmp_path / "lora.safetensors", "error", error=0.3, dtype="float32")
    assert len({layer.rank for layer in report.layers.values()}) > 1
    for name, change in dense(mixture).items():
        S = torch.linalg.svdvals(change)
        rank = report.layers[name].rank
        assert S[rank:].norm() <= 0.3 * S.norm() < S[rank - 1 :].norm()
    alphas = {key: t for key, t in load_file(tmp_path / "lora.safetensors").items() if key.endswith(".alpha")}
    assert {key: float(t) for key, t in alphas.items()} == {
        f"{name}.alpha": layer.rank for name, layer in report.layers.items()
    }


def test_errors_by_rank_are_those_of_the_full_matrices(mixture, tmp_path):
    values = [torch.linalg.svdvals(change) for change in dense(mixture).values()]
    size = torch.cat(values).norm()
    expected = [float(torch.cat([S[rank:] for S in values]).norm() / size) for rank in range(9)]
    assert error_by_rank(mixture) == pytest.approx(expected, abs=1e-8)
    report = export_lora(mixture, tmp_path / "lora.safetensors", "rank", rank=3)
    assert report.error_by_rank == pytest.approx(expected, abs=1e-8)


def test_coefficients_of_0_are_dropped_and_so_are_layers_of_none(mixture, tmp_path):
    path = tmp_path / "lora.safetensors"
    muted = edit(edit(mixture, Edit(mute="1, 2")), Edit(scale=0, kind="modulation"))
    report = export_lora(muted, path, dtype="float32")
    assert report.ranks == (4, 4)
    assert report.left_out == 3
    expected = {name: change for name, change in dense(muted).items() if "norm" not in name}
    assert relative_errors(path, expected)[1] < 1e-7


@pytest.mark.parametrize("setting", [{}, {"mode": "rank", "rank": 2}])
def test_parts_that_loaders_take_only_together_are_all_there(mixture, tmp_path, setting):
    table = mixture.table.clone()
    table[list(mixture.basis.layers).index(LAYER)] = 0
    path = tmp_path / "lora.safetensors"
    report = export_lora(mixture.with_table(table), path, dtype="float32", **setting)
    assert report.layers[LAYER].rank == 1
    assert report.left_out == 0
    assert not held(path)[LAYER].any()


def test_a_batch_of_one_is_exported_and_of_two_refused(mixture, tmp_path):
    path = tmp_path / "lora.safetensors"
    export_lora(mixture.with_table(mixture.table[:, None]), path, dtype="float32")
    assert relative_errors(path, dense(mixture))[1] < 1e-7
    with pytest.raises(LoRWebError, match="of 2 analogies"):
        export_lora(mixture.with_table(mixture.table[:, None].repeat(1, 2, 1)), path)


def test_names_without_the_prefix_get_it(weights, save, tmp_path):
    bare = {key.removeprefix("transformer."): t for key, t in weights.items()}
    export_lora(load_basis(save(bare)).route(torch.randn(12)), tmp_path / "lora.safetensors")
    assert all(key.startswith("transformer.") for key in load_file(tmp_path / "lora.safetensors"))


def test_the_metadata_is_in_the_usual_fields(mixture, tmp_path):
    path = tmp_path / "lora.safetensors"
    shown = torch.zeros(20, 30, 3, dtype=torch.uint8)
    shown[..., 0] = 250
    mixture = replace(mixture, thumbnails=(Thumbnails(shown * 0, shown, shown * 0),))
    report = export_lora(mixture, path, "rank", rank=3, title="My edit")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (
        metadata.items()
        >= {
            "format": "pt",
            "ss_network_module": "networks.lora_flux",
            "ss_network_dim": "3",
            "ss_network_alpha": "3",
            "ss_base_model_version": "flux1",
            "modelspec.architecture": "flux-1-dev/lora",
            "modelspec.title": "My edit",
            "lorweb.basis": "basis.safetensors",
            "lorweb.fingerprint": fingerprint(mixture.basis),
        }.items()
    )
    assert json.loads(metadata["lorweb.export"])["measured_error"] == report.error
    url, encoded = metadata["modelspec.thumbnail"].split(",")
    assert url == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert picture.size == (30, 20) and picture.getpixel((5, 5))[0] > 240
    export_lora(mixture, path, "error", error=0.3)
    with safe_open(path, "pt") as file:
        assert file.metadata()["ss_network_dim"] == "Dynamic"
        assert file.metadata()["modelspec.title"] == "lora"


def test_the_report_as_json(mixture, tmp_path):
    report = export_lora(mixture, tmp_path / "lora.safetensors", "rank", rank=3)
    read = json.loads(report.to_json())
    assert read["ranks"] == [3, 3] and read["mode"] == "rank"
    assert read["layers"][LAYER] == {"rank": 3, "error": report.layers[LAYER].error, "size": report.layers[LAYER].size}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"mode": "best"}, "mode is 'best'; expected one of: exact, rank, error"),
        ({"mode": "rank", "rank": 0}, "rank is 0"),
        ({"mode": "error", "error": 1.0}, "error is 1.0"),
        ({"mode": "error", "error": float("nan")}, "error is nan"),
        ({"strength": float("inf")}, "strength is inf"),
        ({"strength": 0.0}, "changes nothing"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"strength": 1e30}, "too large for float16"),
        ({"strength": 1e30, "mode": "rank"}, "too large for float16"),
    ],
)
def test_refused(mixture, tmp_path, setting, words):
    with pytest.raises(LoRWebError, match=words):
        export_lora(mixture, tmp_path / "lora.safetensors", **setting)
    assert [path.name for path in tmp_path.iterdir() if path.stem != "basis"] == []


def test_the_basis_itself_is_never_overwritten(mixture, tmp_path):
    with pytest.raises(LoRWebError, match="is the basis itself"):
        export_lora(mixture, tmp_path / "basis.safetensors")


def test_a_basis_routed_by_activation_has_nothing_to_export(save, tmp_path):
    own = standins.basis(standins.block_linears(hidden=16, doubles=1, singles=1), n=4, rank=2, keys=8, query=None)
    mixture = load_basis(save(own, external_query=False, query_mode="aa'bb'")).route(None)
    with pytest.raises(LoRWebError, match="no coefficients"):
        export_lora(mixture, tmp_path / "lora.safetensors")


@pytest.mark.parametrize("mode", ["exact", "rank"])
def test_a_disk_that_fills_leaves_the_old_file_and_no_partial_one(mixture, tmp_path, monkeypatch, mode):
    import lorweb_core.files.atomic as atomic

    class Full(io.FileIO):
        def write(self, data) -> int:
            if self.tell() > 5000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(atomic, "open", lambda path, mode: Full(path, mode), raising=False)
    folder = tmp_path / "loras"
    folder.mkdir()
    (folder / "lora.safetensors").write_text("the old one")
    with pytest.raises(LoRWebError, match="No space left on device"):
        export_lora(mixture, folder / "lora.safetensors", mode)
    assert [path.name for path in folder.iterdir()] == ["lora.safetensors"]
    assert (folder / "lora.safetensors").read_text() == "the old one"


@pytest.mark.parametrize("mode", ["exact", "rank", "error"])
def test_progress_ends_full_and_a_cancelled_export_leaves_the_old_file(mixture, tmp_path, mode):
    class Cancelled(Exception):
        pass

    seen = []
    folder = tmp_path / "loras"
    folder.mkdir()
    path = folder / "lora.safetensors"
    export_lora(mixture, path, mode, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[0][0] == 0 and seen[-1][0] == seen[-1][1]
    old = path.read_bytes()

    def cancel(done: int, total: int) -> None:
        if done == total // 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        export_lora(mixture, path, mode, strength=2.0, progress=cancel)
    assert [file.name for file in folder.iterdir()] == ["lora.safetensors"]
    assert path.read_bytes() == old


def test_a_missing_folder_is_named(mixture, tmp_path):
    with pytest.raises(LoRWebError, match="absent"):
        export_lora(mixture, tmp_path / "absent" / "lora.safetensors")


# The picture


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("mode", ["exact", "rank", "error"])
def test_the_picture_shows_every_mode(mixture, tmp_path, mode, theme):
    report = export_lora(mixture, tmp_path / "lora.safetensors", mode)
    picture = export_picture(replace(report, error_by_rank=error_by_rank(mixture)), theme)
    assert picture.ndim == 3 and picture.shape[-1] == 3
    assert picture.min() >= 0 and picture.max() <= 1
    assert len(picture.unique()) > 20
    other = export_picture(replace(report, error_by_rank=[1.0, 0.5, 0.2]), theme)
    assert not torch.equal(picture, other)


def test_the_picture_of_one_layer_and_of_no_error():

    layers = {LAYER: LayerReport(1, 0.0, 0.0)}
    picture = export_picture(Report("x" * 300, "exact", "float32", 1.0, 10, 0.0, layers), "dark")
    assert picture.isfinite().all()
