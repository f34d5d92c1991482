"""The Analogy Encoder with every encoder and query mode, through the host's own vision towers and from folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import parity
import pytest
import standins
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

QUERY = Path(parity.FILE).with_name("query.safetensors")
MODES = [name.removeprefix("query.") for name in load_file(QUERY) if name.startswith("query.")]
SIGLIP = "google/siglip2-base-patch16-224"


@pytest.fixture
def clip_vision(host, tmp_path):
    """The query fixture's CLIP tower as the host's CLIP_VISION, counting its passes."""
    import comfy.clip_vision

    with safe_open(QUERY, "pt") as file:
        (tmp_path / "clip.json").write_text(file.metadata()["clip_config"])
    tower = comfy.clip_vision.ClipVisionModel(str(tmp_path / "clip.json"))
    missing, _ = tower.load_sd({name[5:]: t for name, t in load_file(QUERY).items() if name.startswith("clip.")})
    assert not missing
    tower.passes = []
    tower.model.register_forward_pre_hook(
        lambda _, args, kwargs: tower.passes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    return tower


@pytest.fixture
def clip_folder(host):
    """The same tower in the folder that the Analogy Encoder looks in."""
    folder = host.models / "clip_vision" / "clip-vit-large-patch14"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with safe_open(QUERY, "pt") as file:
        (folder / "config.json").write_text(file.metadata()["clip_config"])
    weights = {name[5:]: t.float() for name, t in load_file(QUERY).items() if name.startswith("clip.")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    host.encoder._encoder_from_folder.cache_clear()
    yield folder
    host.encoder._encoder_from_folder.cache_clear()
    shutil.rmtree(folder)


@pytest.fixture
def siglip_folder(host):
    """A small SigLIP2 of fixed resolution, stored as published: with a text encoder beside the image encoder."""
    import transformers

    folder = host.models / "clip_vision" / "siglip2-base-patch16-224"
    torch.manual_seed(0)
    tiny = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**tiny, "vocab_size": 20, "max_position_embeddings": 8},
        vision_config={**tiny, "image_size": 224, "patch_size": 16},
    )
    with torch.inference_mode(False):
        transformers.SiglipModel(config).save_pretrained(folder)
    host.encoder._encoder_from_folder.cache_clear()
    yield folder
    host.encoder._encoder_from_folder.cache_clear()
    shutil.rmtree(folder)


def images(n: int = 1) -> torch.Tensor:
    return torch.rand(n, 64, 64, 3)


def fixture_images() -> list[torch.Tensor]:
    return [load_file(QUERY)[f"image.{name}"].float()[None] / 255 for name in ("a", "a_prime", "b")]


@pytest.mark.parametrize("mode", MODES)
def test_every_published_query_through_the_hosts_tower_and_from_a_folder(host, clip_vision, clip_folder, mode):
    expected = load_file(QUERY)[f"query.{mode}"]
    difference = "-ca" in mode
    # The host keeps its own tower in float16, which differences of like embeddings magnify.
    encoders = [
        (host.encoder.encoder_from_clip_vision(clip_vision), 5e-2 if difference else 2e-2),
        (host.encoder._load_encoder("openai/clip-vit-large-patch14"), 1e-2 if difference else 5e-3),
    ]
    for encoder, tolerance in encoders:
        query = host.core.encode_query(encoder, *(image[0] for image in fixture_images()), mode)
        assert query.shape == expected.shape
        assert parity.relative_error(query, expected) < tolerance


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_routes_all_images_in_one_pass(host, basis, clip_vision, mode):
    width = {"cat-aa'b": 72}.get(mode, 32 if "p" in mode else 24)
    encode = host.node("LoRWeBAnalogyEncoder").execute
    (mixture,) = encode(basis(width, query_mode=mode), *fixture_images(), clip_vision=clip_vision).result
    assert len(clip_vision.passes) == 1
    assert all(c.shape == (4,) for c in mixture.coefficients.values())
    (batch,) = encode(basis(width, query_mode=mode), images(), images(), images(3), clip_vision=clip_vision).result
    assert len(clip_vision.passes) == 2
    assert all(c.shape == (3, 4) for c in batch.coefficients.values())


def test_several_pairs_for_one_b(host, basis, clip_vision):
    encode, routed = host.node("LoRWeBAnalogyEncoder").execute, basis(72)
    a, a_prime, b = images(3), images(3), images(1)
    before, after = (
        encode(routed, a, a_prime, b, clip_vision, demonstrations=way).result[0].coefficients
        for way in ("mean of queries", "mean of coefficients")
    )
    assert clip_vision.passes == [7, 7]
    each = [encode(routed, *pair, b, clip_vision).result[0].coefficients for pair in zip(a, a_prime)]
    for layer in before:
        torch.testing.assert_close(after[layer], torch.stack([c[layer] for c in each]).mean(0), rtol=1e-2, atol=1e-3)
        assert before[layer].shape == (4,)


def test_an_activation_routed_basis_needs_no_encoder_but_images(host, basis, monkeypatch):
    monkeypatch.setattr(host.encoder, "load_encoder", pytest.fail)
    routed, encode = basis(None, external_query=False, query_mode="caa'b"), host.node("LoRWeBAnalogyEncoder").execute
    (mixture,) = encode(routed, images(), images(), images()).result
    assert mixture.coefficients == {}
    with pytest.raises(host.core.LoRWebError, match="a_prime of 2"):
        encode(routed, images(), images(2), images())


def test_siglip2_from_its_folder(host, basis, siglip_folder):
    import transformers

    routed = basis(72, external_query_model=SIGLIP)
    a, a_prime, b = (torch.rand(1, 224, 224, 3).mul(255).round() / 255 for _ in range(3))
    (mixture,) = host.node("LoRWeBAnalogyEncoder").execute(routed, a, a_prime, b).result
    model = transformers.SiglipVisionModel.from_pretrained(siglip_folder).eval()
    embeddings = model(pixel_values=torch.cat([a, a_prime, b]).movedim(-1, 1) * 2 - 1).pooler_output
    expected = routed.route(embeddings)
    for layer, coefficients in mixture.coefficients.items():
        torch.testing.assert_close(coefficients, expected.coefficients[layer], rtol=1e-3, atol=1e-4)


def test_a_siglip2_that_is_not_there_is_asked_for_in_its_folder(host, basis, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    routed = basis(72, external_query_model=SIGLIP)
    with pytest.raises(host.core.LoRWebError) as error:
        host.node("LoRWeBAnalogyEncoder").execute(routed, images(), images(), images())
    folder = str(host.models / "clip_vision" / "siglip2-base-patch16-224")
    for words in (SIGLIP, "not on this machine", "Put config.json and model.safetensors from", folder):
        assert words in str(error.value)


def test_the_hosts_tower_of_another_family_is_refused(host, basis, clip_vision, siglip_folder, tmp_path):
    import comfy.clip_vision

    encode = host.node("LoRWeBAnalogyEncoder").execute
    with pytest.raises(host.core.LoRWebError, match=f"is a clip.*{SIGLIP}"):
        encode(basis(72, external_query_model=SIGLIP), images(), images(), images(), clip_vision)

    vision = json.loads((siglip_folder / "config.json").read_text())["vision_config"]
    vision |= {"model_type": "siglip_vision_model", "num_channels": 3, "hidden_act": "gelu_pytorch_tanh"}
    (tmp_path / "siglip.json").write_text(json.dumps(vision))
    stock = comfy.clip_vision.ClipVisionModel(str(tmp_path / "siglip.json"))
    stock.load_sd(load_file(siglip_folder / "model.safetensors"))
    with pytest.raises(host.core.LoRWebError, match="is a siglip.*openai/clip-vit-large-patch14"):
        encode(basis(72), images(), images(), images(), stock)
    with pytest.raises(host.core.LoRWebError, match="without its pooling head.*Leave clip_vision open"):
        encode(basis(72, external_query_model=SIGLIP), images(), images(), images(), stock)


def test_the_loader_lists_and_reads_a_basis_in_several_files(host):
    folder = host.models / "lorweb"
    weights = standins.basis(standins.block_linears(16, 1, 1), n=4, rank=2, keys=8, query=72)
    where = {name: f"big-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for file in set(where.values()):
        save_file({name: weights[name] for name in weights if where[name] == file}, folder / file)
    index = folder / "big.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    loader = host.node("LoRWeBBasisLoader")
    try:
        (names,) = [i.options for i in loader.define_schema().inputs if i.id == "basis_name"]
        assert names == [index.name]
        assert loader.validate_inputs(index.name) is True
        (loaded,) = loader.execute(index.name, "auto").result
        assert len(loaded.layers) == len(weights) // 4
        first = loader.fingerprint_inputs(index.name, "auto")
        (folder / "big-00001-of-00002.safetensors").touch()
        assert loader.fingerprint_inputs(index.name, "auto") != first
        (folder / "big-00001-of-00002.safetensors").unlink()
        assert "big-00001-of-00002.safetensors" in loader.validate_inputs(index.name)
    finally:
        for file in folder.glob("big*"):
            file.unlink()
