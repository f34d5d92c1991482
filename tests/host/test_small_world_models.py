"""Small World Models: what a fresh ComfyUI without any model runs an analogy on."""

from __future__ import annotations

import sys

import pytest
import torch
from environment import ROOT

from lorweb_core.files.image_file import read_image
from small_world.models.files import SHIPPED

MEGAPIXELS = (2 * 64) ** 2 / 1024**2
"""Size of a grid of the small world's scenes."""


def first_analogy() -> dict:
    """Write the graph of an analogy on the small world's models and the first three example pictures."""

    def node(class_type: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": inputs}

    shown = {"a": ["a", 0], "a_prime": ["a_prime", 0], "b": ["b", 0]}
    sampling = {"seed": 1, "steps": 12, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return {
        "world": node("LoRWeBSmallWorld"),
        "a": node("LoadImage", image="lorweb_before.png"),
        "a_prime": node("LoadImage", image="lorweb_after.png"),
        "b": node("LoadImage", image="lorweb_picture.png"),
        "encode": node("LoRWeBAnalogyEncoder", basis=["world", 4], clip_vision=["world", 3], **shown),
        "apply": node("LoRWeBMixedLoRAApply", model=["world", 0], mixture=["encode", 0], strength=1.0),
        "show": node(
            "LoRWeBExtendedAttention", positive=["world", 1], vae=["world", 2], megapixels=MEGAPIXELS, **shown
        ),
        "sample": node(
            "KSampler",
            model=["apply", 0],
            positive=["show", 0],
            negative=["show", 1],
            latent_image=["show", 2],
            **sampling,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["world", 2]),
        "result": node("LoRWeBAnalogyResult", image=["decode", 0], b=["b", 0]),
        "save": node("SaveImage", images=["result", 0], filename_prefix="first"),
    }


@pytest.fixture(scope="module")
def loaded(host):
    """MODEL, positive, VAE, CLIP_VISION and basis."""
    return host.node("LoRWeBSmallWorld").execute().result


def test_the_image_encoder_embeds_as_transformers_embeds_with_its_files(loaded):
    import transformers

    pictures = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    shown = (pictures * 255).round().byte().numpy()
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor = kind(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(SHIPPED.encoder, dtype=torch.float32).eval()
    wanted = model(**processor(list(shown), return_tensors="pt")).image_embeds
    found = loaded[3].encode_image(pictures.mul(255).round() / 255)["image_embeds"]
    assert (found - wanted).abs().max() < 0.01 * wanted.std()


def test_the_autoencoder_keeps_a_drawn_scene(loaded):
    from small_world.world.plain.scenes import draw_scenes, render

    scenes = render(draw_scenes(4, torch.Generator().manual_seed(0))).movedim(1, -1)
    vae = loaded[2]
    assert (vae.decode(vae.encode(scenes)) - scenes).square().mean() < 0.003


def test_the_models_fit_together(host, loaded):
    model, _, vae, _, basis = loaded
    base = sys.modules[f"{host.core.__name__.rpartition('.')[0]}.nodes.host.training_model"].HostBase(model, vae)
    host.core.layer_check.check_layers(basis, base.shapes, "")
    assert basis.config.external_query_model == f"lorweb/{SHIPPED.encoder_name}"


@pytest.fixture(scope="module")
def fresh(comfyui, tmp_path_factory):
    """Run a ComfyUI that has no models, and one picture that a user called as an example's."""
    from comfy_server import ComfyServer

    base = tmp_path_factory.mktemp("fresh")
    (base / "input").mkdir()
    (base / "input" / "lorweb_after_2.png").write_bytes(b"a user's own")
    with ComfyServer(comfyui, sys.executable, base) as server:
        yield server


def test_a_fresh_comfyui_makes_an_analogy_that_no_model_has_seen(fresh):
    from small_world.example_pictures import as_picture, example_scenes

    (made,) = fresh.run(first_analogy())
    (found,) = (read_image(path) for path in made["save"])
    truth, copied = (as_picture(example_scenes()[name]) for name in ("truth", "picture"))
    assert found.shape == truth.shape
    assert (found - truth).square().mean() < (copied - truth).square().mean() / 3
    assert not [path for path in (fresh.base / "models").rglob("*.safetensors")]


def test_the_examples_are_in_the_input_folder_and_a_users_picture_stays(fresh):
    for path in (ROOT / "workflows" / "pictures").glob("*.png"):
        if path.name != "lorweb_after_2.png":
            assert (fresh.base / "input" / path.name).read_bytes() == path.read_bytes()
    assert (fresh.base / "input" / "lorweb_after_2.png").read_bytes() == b"a user's own"
