"""The nodes as the host sees and calls them, with the stock loaders' models."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import parity
import pytest
import standins
import torch
from safetensors.torch import load_file, save_file

QUERY = Path(parity.FILE).with_name("query.safetensors")


@pytest.fixture
def basis_file(host):
    """A checkpoint in models/lorweb that the loader lists."""
    path = host.models / "lorweb" / "small.safetensors"
    save_file(standins.basis(standins.block_linears(128, 1, 1), n=4, rank=2, keys=8, query=72), path)
    yield path
    for file in path.parent.iterdir():
        file.unlink()


@pytest.fixture
def vae(host):
    import comfy.sd

    return comfy.sd.VAE(sd=standins.autoencoder())


def pictures() -> list[torch.Tensor]:
    scenes = (False, "house"), (True, "house"), (False, "tree")
    return [standins.picture(*scene, size=(128, 96))[None] for scene in scenes]


PICTURES = ["a", "a_prime", "b"]

SPEED = ["speed", "mixture"]

CHOSEN = ["mask", "softness", "unwanted_a", "unwanted_a_prime"]

SOCKETS = {
    "LoRWeBBasisLoader": ("LoRWeB Basis Loader", ["basis_name", "config_name"], ["LORWEB_BASIS"]),
    "LoRWeBAnalogy": (
        "Analogy",
        [*PICTURES, "more_a", "more_a_prime", "fit", "layout", "megapixels", "speed", "demonstrations", "align"],
        ["LORWEB_ANALOGY"],
    ),
    "LoRWeBAnalogyEncoder": (
        "Analogy Encoder",
        ["basis", "analogy", "a", "a_prime", "b", "clip_vision", "demonstrations"],
        ["LORWEB_MIXTURE"],
    ),
    "LoRWeBMixedLoRAApply": (
        "Mixed LoRA Apply",
        ["model", "mixture", "strength", "method", "run_time_rank", "run_time_error"],
        ["MODEL"],
    ),
    "LoRWeBExtendedAttention": (
        "Kontext Extended-Attention Conditioning",
        ["positive", "vae", "analogy", *PICTURES, "megapixels", "fit", "negative", "layout", "demonstrations", *SPEED],
        ["CONDITIONING", "CONDITIONING", "LATENT", "IMAGE"],
    ),
    "LoRWeBAnalogyResult": (
        "Analogy Result",
        ["image", "b", "fit", "layout", "pairs", "sampled", "mixture", "analogy"],
        ["IMAGE"],
    ),
    "LoRWeBAnalogyAttention": (
        "Analogy Attention",
        ["model", "example_weight", "b_weight", "layout", "pairs", "analogy"],
        ["MODEL"],
    ),
    "LoRWeBChooseEdit": (
        "Choose Edit",
        ["basis", "analogy", *PICTURES, *CHOSEN, "clip_vision", "fit_steps", "model", "vae", "positive"],
        ["LORWEB_MIXTURE", "LORWEB_ANALOGY", "IMAGE", "IMAGE"],
    ),
    "LoRWeBKeepReferences": ("Keep References", ["model", "every", "shares", "stored", "place"], ["MODEL"]),
}


@pytest.mark.parametrize("node_id", SOCKETS)
def test_nodes_have_the_names_and_sockets_others_lean_on(host, node_id):
    name, inputs, outputs = SOCKETS[node_id]
    schema = host.node(node_id).GET_SCHEMA()
    assert schema.display_name == name
    assert [i.id for i in schema.inputs] == inputs
    assert [o.io_type for o in schema.outputs] == outputs
    assert all(i.tooltip for i in schema.inputs)
    optional = {"clip_vision", "negative", "fit", "layout", "demonstrations", "pairs", "method", "speed", "sampled"}
    optional |= {
        "shares",
        "stored",
        "place",
        "run_time_rank",
        "run_time_error",
        "analogy",
        "more_a",
        "more_a_prime",
        "align",
    }
    shows_or_cuts = {
        "LoRWeBAnalogyEncoder": {*PICTURES},
        "LoRWeBChooseEdit": {*PICTURES, *CHOSEN, "fit_steps", "model", "vae", "positive"},
        "LoRWeBExtendedAttention": {"mixture", *PICTURES},
        "LoRWeBAnalogyResult": {"b", "mixture"},
    }
    assert {i.id for i in schema.inputs if i.optional} == set(inputs) & optional | shows_or_cuts.get(node_id, set())


def test_the_loader_lists_only_checkpoints_and_configs(host, basis_file):
    (basis_file.parent / "config.yaml").write_text("config: {process: [{network: {linear: 2}}]}")
    (basis_file.parent / "notes.txt").write_text("")
    inputs = {i.id: i for i in host.node("LoRWeBBasisLoader").define_schema().inputs}
    assert inputs["basis_name"].options == ["small.safetensors"]
    assert inputs["config_name"].options == ["auto", "config.yaml"]


def test_a_changed_file_is_read_again(host, basis_file):
    loader = host.node("LoRWeBBasisLoader")
    first = loader.fingerprint_inputs("small.safetensors", "auto")
    assert loader.fingerprint_inputs("small.safetensors", "auto") == first
    os.utime(basis_file, ns=(1, 1))
    second = loader.fingerprint_inputs("small.safetensors", "auto")
    basis_file.with_suffix(".yaml").write_text("config: {process: [{network: {linear: 2}}]}")
    third = loader.fingerprint_inputs("small.safetensors", "auto")
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("basis_name", "config_name", "words"),
    [
        ("small.safetensors", "../../extra.yaml", "'../../extra.yaml' is not a .yaml file in"),
        ("../small.safetensors", "auto", "'../small.safetensors' is not a .safetensors file in"),
        ("/etc/hostname", "auto", "'/etc/hostname' is not"),
        ("auto", "auto", "'auto' is not"),
        ("small.safetensors", "small.safetensors", "'small.safetensors' is not a .yaml file in"),
    ],
)
def test_names_outside_the_folder_are_refused(host, basis_file, basis_name, config_name, words):
    (host.models.parent / "extra.yaml").write_text("config: {process: [{network: {linear: 2}}]}")
    loader = host.node("LoRWeBBasisLoader")
    with pytest.raises(host.core.LoRWebError, match=re.escape(words)):
        loader.execute(basis_name, config_name)
    if "yaml" not in words:
        assert words in loader.validate_inputs(basis_name)


def test_a_bad_file_is_said_when_the_prompt_is_queued(host, basis_file):
    basis_file.write_bytes(basis_file.read_bytes()[:999])
    assert "small.safetensors is cut short" in host.node("LoRWeBBasisLoader").validate_inputs(basis_file.name)


def test_nan_in_the_file_is_said_by_the_loader(host, basis_file):
    weights = load_file(basis_file)
    broken = {name: t.clone() for name, t in weights.items()}
    broken["transformer.transformer_blocks.0.ff.net.2.lora_B"][0, 0, 0] = float("nan")
    save_file(broken, basis_file)
    with pytest.raises(
        host.core.LoRWebError, match=r"B of layer transformer\.transformer_blocks\.0\.ff\.net\.2 has NaN"
    ):
        host.node("LoRWeBBasisLoader").execute(basis_file.name, "auto")


def test_the_published_query_through_the_hosts_clip_vision(host, clip_vision):
    fixture = load_file(QUERY)
    encoder = host.encoder.encoder_from_clip_vision(clip_vision())
    images = [fixture[f"image.{name}"].float() / 255 for name in ("a", "a_prime", "b")]
    query = host.core.encode_query(encoder, *images, "cat-aa'b")
    assert parity.relative_error(query, fixture["query.cat-aa'b"]) < 2e-2


def test_the_encoder_routes_by_all_three_images_of_any_size_and_alpha(host, basis_file, clip_vision):
    (basis,) = host.node("LoRWeBBasisLoader").execute(basis_file.name, "auto").result
    encode, images = host.node("LoRWeBAnalogyEncoder").execute, pictures()
    (first,) = encode(basis, *images, clip_vision=clip_vision()).result
    layer = next(iter(basis.layers))
    for changed in range(3):
        others = list(images)
        others[changed] = torch.rand(1, 33, 180, 4)
        (second,) = encode(basis, *others, clip_vision=clip_vision()).result
        assert not torch.equal(first.coefficients[layer], second.coefficients[layer])


def test_an_encoder_of_another_width_is_named(host, basis_file, clip_vision):
    (basis,) = host.node("LoRWeBBasisLoader").execute(basis_file.name, "auto").result
    with pytest.raises(host.core.LoRWebError, match=r"96 values.*small\.safetensors takes 72.*clip-vit-large-patch14"):
        host.node("LoRWeBAnalogyEncoder").execute(basis, *pictures(), clip_vision=clip_vision(32))


def test_without_clip_vision_the_encoder_comes_from_its_folder(host, basis_file, clip_vision, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (basis,) = host.node("LoRWeBBasisLoader").execute(basis_file.name, "auto").result
    encode = host.node("LoRWeBAnalogyEncoder").execute
    folder = host.models / "clip_vision" / "clip-vit-large-patch14"
    with pytest.raises(
        host.core.LoRWebError, match=r"clip-vit-large-patch14 is not on this.*Load CLIP Vision.*clip_vision"
    ):
        encode(basis, *pictures())
    standins.image_encoder(folder, width=24)
    (mixture,) = encode(basis, *pictures()).result
    assert set(mixture.coefficients) == set(basis.layers)

    # The same tower through the host's own CLIP, which keeps it in float16 on the CPU too.
    import comfy.clip_vision

    tower = comfy.clip_vision.ClipVisionModel(str(folder / "config.json"))
    tower.load_sd(load_file(folder / "model.safetensors"))
    encoders = (
        host.encoder._load_encoder(basis.config.external_query_model),
        host.encoder.encoder_from_clip_vision(tower),
    )
    own, stock = (host.core.encode_query(encoder, *(p[0] for p in pictures())) for encoder in encoders)
    assert parity.relative_error(own, stock) < 1e-2
    assert parity.relative_error(own[:, 0], stock[:, 1]) > 1e-1


def test_an_encoder_folder_that_lacks_tensors_is_not_filled_with_random_ones(host, basis_file):
    (basis,) = host.node("LoRWeBBasisLoader").execute(basis_file.name, "auto").result
    folder = standins.image_encoder(host.models / "clip_vision" / "openai" / "clip-vit-large-patch14", width=24)
    shutil.rmtree(host.models / "clip_vision" / "clip-vit-large-patch14", ignore_errors=True)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(host.core.LoRWebError, match=r"cannot be loaded from .*it has no visual_projection\.weight"):
        host.node("LoRWeBAnalogyEncoder").execute(basis, *pictures())
    shutil.rmtree(folder)


@pytest.mark.parametrize("node_id", ["LoRWeBAnalogyEncoder", "LoRWeBExtendedAttention"])
@pytest.mark.parametrize(
    ("image", "words"),
    [(torch.rand(3, 64, 64, 3), "a_prime .*of 3"), (torch.rand(1, 8, 64, 3), "64×8 pixels")],
)
def test_images_that_cannot_be_used_are_named(host, vae, mixture, node_id, image, words):
    a, _, b = pictures()
    before = (mixture.basis,) if node_id == "LoRWeBAnalogyEncoder" else ([[torch.zeros(1, 1, 8), {}]], vae)
    with pytest.raises(host.core.LoRWebError, match=words):
        host.node(node_id).execute(*before, a, image, b)


def test_the_grid_goes_to_both_conditionings_and_the_result_comes_back_as_b(host, vae):
    """With a model that would hand the reference back, b' is b in the autoencoder's resolution, 8 pixels."""
    a, a_prime, _ = pictures()
    b = standins.picture(False, "tree", size=(240, 480))[None]
    positive, negative = ([[torch.ones(1, 4, 8), {"guidance": 2.5}]] for _ in range(2))
    for fit in ("stretch", "pad"):
        output = host.node("LoRWeBExtendedAttention").execute(positive, vae, a, a_prime, b, 0.25, fit, negative)
        with_grid, without, latent, grid = output.result
        for conditioning in (with_grid, without):
            (reference,) = conditioning[0][1]["reference_latents"]
            assert reference.shape == (1, 16, grid.shape[1] // 8, grid.shape[2] // 8)
            assert conditioning[0][1]["guidance"] == 2.5
        assert latent["samples"].shape[1] == 16
        assert not latent["samples"].any()
        (back,) = host.node("LoRWeBAnalogyResult").execute(vae.decode(reference), b, fit).result
        assert back.shape == b.shape
        assert (back - b).abs().mean() < 0.06
    assert "reference_latents" not in positive[0][1]


def test_without_a_negative_the_positive_is_zeroed(host, vae):
    positive = [[torch.ones(1, 4, 8), {"pooled_output": torch.ones(1, 8)}]]
    _, negative, _, _ = host.node("LoRWeBExtendedAttention").execute(positive, vae, *pictures(), 0.1).result
    assert not negative[0][0].any()
    assert not negative[0][1]["pooled_output"].any()
    assert "reference_latents" in negative[0][1]


def test_a_reference_set_before_stays(host, vae):
    other = torch.zeros(1, 16, 4, 4)
    positive = [[torch.ones(1, 4, 8), {"reference_latents": [other]}]]
    with_grid, *_ = host.node("LoRWeBExtendedAttention").execute(positive, vae, *pictures(), 0.1).result
    assert with_grid[0][1]["reference_latents"][0] is other
    assert len(with_grid[0][1]["reference_latents"]) == 2
