"""An exported LoRA, loaded by the stock nodes, against the mixture applied by the pack's own."""

from __future__ import annotations

import json
import re

import parity
import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def export(host, monkeypatch):
    """Run the node; the files that it wrote go afterwards."""
    folder = host.models / "loras"
    folder.mkdir(exist_ok=True)

    def export(mixture, name: str = "edit", **inputs):
        node = host.node("LoRWeBExportLoRA")
        defaults = {i.id: i.default for i in node.define_schema().inputs if i.id not in ("mixture", "name")}
        return node.execute(mixture, name, **{**defaults, **inputs})

    yield export
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def stock_loaded(model, name: str, strength: float = 1.0):
    """As Load LoRA does it in a graph: by the name that the node lists."""
    import nodes

    assert name in nodes.LoraLoaderModelOnly.INPUT_TYPES()["required"]["lora_name"][0]
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("float16", 1e-3), ("bfloat16", 5e-3)])
def test_the_stock_loader_gives_what_mixed_lora_apply_gives(
    host, load_flux, mixture, velocity, export, caplog, dtype, limit
):
    expected = velocity(host.apply.apply_mixture(load_flux(), mixture, method="merge"))
    _, _, name = export(mixture, dtype=dtype).args
    found = velocity(stock_loaded(load_flux(), name))
    assert "lora key not loaded" not in caplog.text
    assert parity.relative_error(found, expected) < limit
    assert parity.relative_error(found, velocity(load_flux())) > 0.1


def test_strength_is_folded_in(host, load_flux, mixture, velocity, export):
    expected = velocity(host.apply.apply_mixture(load_flux(), mixture, strength=-0.4, method="merge"))
    _, _, name = export(mixture, dtype="float32", strength=-0.8).args
    assert parity.relative_error(velocity(stock_loaded(load_flux(), name, 0.5)), expected) < 1e-4


def test_ranks_that_differ_between_layers(host, load_flux, mixture, velocity, export, caplog):
    """Against the file's own product without any alpha: a wrong alpha would show."""
    import comfy.lora

    _, text, name = export(mixture, mode="error", error=0.3, dtype="float32").args
    report = json.loads(text)
    assert report["ranks"][0] < report["ranks"][1]
    tensors = load_file(host.models / "loras" / name)
    patches = {}
    expected = load_flux()
    keys = comfy.lora.model_lora_keys_unet(expected.model, {})
    for layer, numbers in report["layers"].items():
        down, up = (tensors[f"{layer}.lora_{factor}.weight"] for factor in "AB")
        assert len(down) == numbers["rank"]
        patches[keys[layer]] = ("diff", (up @ down,))
    expected = expected.clone()
    expected.add_patches(patches)
    found = velocity(stock_loaded(load_flux(), name))
    assert "lora key not loaded" not in caplog.text
    assert parity.relative_error(found, velocity(expected)) < 1e-5


def test_outputs_and_preview(host, mixture, export):
    node = host.node("LoRWeBExportLoRA")
    assert node.GET_SCHEMA().is_output_node
    result = export(mixture, "lorweb/my edit", mode="rank", rank=2)
    image, text, name = result.args
    assert image.ndim == 4 and image.shape[-1] == 3
    report = json.loads(text)
    assert report["file"] == "my edit.safetensors" and report["ranks"] == [2, 2]
    assert (host.models / "loras" / name).is_file() and report["bytes"] == (host.models / "loras" / name).stat().st_size
    assert len(result.ui.as_dict()["images"]) == 1
    first = export(mixture, "lorweb/my edit").args[2]
    assert re.search(r"my edit-2\.safetensors$", first)
    replaced = export(mixture, "lorweb/my edit", if_exists="replace").args[2]
    assert replaced == name
    assert len(list((host.models / "loras" / "lorweb").iterdir())) == 2
    assert report["error_by_rank"] == pytest.approx(json.loads(export(mixture, "b").args[1])["error_by_rank"])


def test_names_that_leave_the_folder_are_refused(host, mixture, export):
    for name in ("../edit", "/etc/edit", ""):
        with pytest.raises(host.core.LoRWebError, match="does not stay in models/loras"):
            export(mixture, name)


def test_replace_leaves_a_lora_of_another(host, mixture, export):
    from safetensors.torch import save_file

    path = host.models / "loras" / "theirs.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"format": "pt", "ss_network_dim": "4"})
    before = path.read_bytes()
    with pytest.raises(host.core.LoRWebError, match="not written by this node, so it is not replaced"):
        export(mixture, "theirs", if_exists="replace")
    assert path.read_bytes() == before


def test_cancelling_leaves_the_old_file_and_no_partial_one(host, mixture, export):
    import comfy.model_management as management

    name = export(mixture, if_exists="replace").args[2]
    path = host.models / "loras" / name
    before = path.read_bytes()
    for mode in ("exact", "rank", "error"):
        management.interrupt_current_processing()
        with pytest.raises(management.InterruptProcessingException):
            export(mixture, mode=mode, strength=2.0, if_exists="replace")
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == [name]


def test_refused_mixtures_are_said_in_the_users_words(host, mixture, export, tmp_path):
    with pytest.raises(host.core.LoRWebError, match="of 3 analogies"):
        export(mixture.with_table(mixture.table[:, None].repeat(1, 3, 1)))
    basis = host.core.load_basis(parity.write_activation_checkpoint(tmp_path, "aa'bb'", "avg"))
    with pytest.raises(host.core.LoRWebError, match="no coefficients"):
        export(basis.route(None))
    assert not list((host.models / "loras").iterdir())
    assert torch.isfinite(mixture.table).all()
