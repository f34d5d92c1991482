"""Image encoders against transformers' own models and image processors."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorweb_core import LoRWebError, VisionEncoder, encode_query
from lorweb_core.encoder import check_encoder, load_encoder

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TINY = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP, SIGLIP = "openai/clip-vit-large-patch14", "google/siglip2-base-patch16-224"


def build(name: str, **settings):
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, f"{name.split('Model')[0]}Config")(**TINY, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model.eval()


@pytest.fixture
def models() -> dict:
    return {
        "clip": build("CLIPVisionModelWithProjection", projection_dim=12, image_size=224, patch_size=32),
        "siglip": build("SiglipVisionModel", image_size=224, patch_size=16),
        "siglip2": build("Siglip2VisionModel", num_patches=196, patch_size=16),
    }


def processor(name: str, **settings):
    """The one on Pillow, which releases of transformers before 5 call by the plain name."""
    pytest.importorskip("PIL", reason="Pillow is not installed")
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def smooth(height: int, width: int, seed: int) -> torch.Tensor:
    """8-bit levels, (height, width, 3), uint8."""
    small = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")[0].clamp(0, 1)
    return (image.movedim(0, -1) * 255).round().byte()


def test_siglip_is_preprocessed_and_pooled_as_transformers_does(models):
    """With the settings of google/siglip2-base-patch16-224's preprocessor_config.json."""
    images = [smooth(90, 300, 0), smooth(400, 250, 1), smooth(224, 224, 2)]
    process = processor("SiglipImageProcessor")(size={"height": 224, "width": 224}, resample=2)
    inputs = process([image.numpy() for image in images], return_tensors="pt")
    with torch.no_grad():
        expected = models["siglip"](**inputs).pooler_output
    encoder = VisionEncoder.from_transformers(models["siglip"])
    query = encode_query(encoder, *(image / 255 for image in images), "cat-aa'b")
    assert query.shape == (1, 3, 24)
    assert (query[0] - expected).norm() / expected.norm() < 5e-3


def test_siglip2_of_flexible_resolution_sees_the_patches_of_its_own_processor(models):
    image = smooth(300, 300, 3)
    process = processor("Siglip2ImageProcessor")(patch_size=16, max_num_patches=196)
    inputs = process([image.numpy()], return_tensors="pt")
    with torch.no_grad():
        expected = models["siglip2"](**inputs).pooler_output
    encoder = VisionEncoder.from_transformers(models["siglip2"])
    assert encoder.image_size == 224
    got = encoder.embed([image / 255])[:, 0]
    assert (got - expected).norm() / expected.norm() < 5e-3


def test_clip_is_preprocessed_as_transformers_does(models):
    image = smooth(90, 300, 4)
    inputs = processor("CLIPImageProcessor")()([image.numpy()], return_tensors="pt")
    with torch.no_grad():
        expected = models["clip"](**inputs, output_hidden_states=True)
    encoder = VisionEncoder.from_transformers(models["clip"])
    for got, wanted in [
        (encoder.embed([image / 255])[:, 0], expected.image_embeds),
        (encoder.embed([image / 255], (-1,)), expected.last_hidden_state),
        (
            encoder.embed([image / 255], (-2, -1)),
            torch.cat([expected.hidden_states[-2], expected.last_hidden_state], 1),
        ),
    ]:
        assert got.shape == wanted.shape
        assert (got - wanted).norm() / wanted.norm() < 5e-3


def test_encoders_of_one_size_are_told_apart(models):
    clip, siglip = VisionEncoder.from_transformers(models["clip"]), VisionEncoder.from_transformers(models["siglip"])
    check_encoder(clip, CLIP)
    check_encoder(siglip, SIGLIP)
    with pytest.raises(LoRWebError, match=f"is a clip.*{SIGLIP}"):
        check_encoder(clip, SIGLIP)
    with pytest.raises(LoRWebError, match=f"is a siglip.*{CLIP}"):
        check_encoder(siglip, CLIP)
    with pytest.raises(LoRWebError, match="384 pixels.*224"):
        check_encoder(VisionEncoder(clip.tower, 384, "clip"), CLIP)


def test_a_model_that_cannot_embed_is_named(models):
    for model in (transformers.CLIPVisionModel(models["clip"].config), torch.nn.Linear(1, 1)):
        with pytest.raises(
            LoRWebError, match=f"A {type(model).__name__} cannot be the image encoder.*SiglipVisionModel"
        ):
            VisionEncoder.from_transformers(model)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_an_encoder_from_its_folder(models, tmp_path, kind):
    models[kind].save_pretrained(tmp_path)
    image = [smooth(64, 64, 5) / 255]
    loaded = VisionEncoder.from_transformers(load_encoder(tmp_path, local_files_only=True))
    assert torch.equal(loaded.embed(image), VisionEncoder.from_transformers(models[kind]).embed(image))


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_a_whole_checkpoint_with_its_text_encoder(tmp_path, name):
    text = {**TINY, "vocab_size": 20, "max_position_embeddings": 8}
    config = getattr(transformers, name.replace("Model", "Config"))(
        text_config=text, vision_config={**TINY, "image_size": 224, "patch_size": 32}
    )
    whole = getattr(transformers, name)(config).eval()
    whole.save_pretrained(tmp_path)
    image = smooth(224, 224, 6) / 255
    encoder = VisionEncoder.from_transformers(load_encoder(tmp_path, local_files_only=True))
    with torch.no_grad():
        mean, std = ((0.5, 0.5, 0.5),) * 2
        if name == "CLIPModel":
            mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        pixels = ((image - torch.tensor(mean)) / torch.tensor(std)).movedim(-1, 0)[None]
        out = whole.vision_model(pixel_values=pixels)
        expected = whole.visual_projection(out.pooler_output) if name == "CLIPModel" else out.pooler_output
    torch.testing.assert_close(encoder.embed([image])[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_file_that_lacks_tensors_is_refused(models, tmp_path):
    models["siglip"].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lacking = next(name for name in weights if "head.mlp.fc2.weight" in name)
    del weights[lacking]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoRWebError, match=r"no whole image encoder: it has no .*fc2\.weight"):
        load_encoder(tmp_path)


def test_tensors_of_other_sizes_than_the_config_says_are_refused(models, tmp_path):
    models["clip"].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "projection_dim": 16}))
    with pytest.raises(LoRWebError, match="config.json and its tensors do not fit"):
        load_encoder(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    transformers.ViTConfig(**TINY).save_pretrained(tmp_path)
    with pytest.raises(LoRWebError, match="is a vit model, not a CLIP or SigLIP image encoder"):
        load_encoder(tmp_path)
