from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import load_file

from lorweb_core import LoRWebError, VisionEncoder, encode_query
from lorweb_core.encoder import centre_square

FIXTURE = Path(__file__).parent.parent / "fixtures" / "query.safetensors"


@pytest.fixture(scope="module")
def published() -> tuple[VisionEncoder, dict]:
    """The fixture's small CLIP tower, and its images and queries."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    with safe_open(FIXTURE, "pt") as file:
        config = transformers.CLIPVisionConfig.from_dict(json.loads(file.metadata()["clip_config"]))
    tensors = load_file(FIXTURE)
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    model.load_state_dict({k.removeprefix("clip."): t.float() for k, t in tensors.items() if k.startswith("clip.")})
    return VisionEncoder.from_transformers(model), tensors


def test_the_query_is_the_published_one(published):
    encoder, fixture = published
    images = [fixture[f"image.{name}"].float() / 255 for name in ("a", "a_prime", "b")]
    query, expected = encode_query(encoder, *images, "cat-aa'b"), fixture["query.cat-aa'b"]
    assert query.shape == expected.shape
    assert (query - expected).norm() / expected.norm() < 5e-3


def test_the_triplet_goes_through_the_encoder_in_one_pass():
    passes = []

    def tower(squares: torch.Tensor) -> torch.Tensor:
        passes.append(squares.shape)
        return squares.mean((2, 3))

    shapes = ((40, 30), (17, 90), (64, 64))
    query = encode_query(VisionEncoder(tower, 32), *(torch.rand(*shape, 3) for shape in shapes), "cat-aa'b")
    assert passes == [(3, 3, 32, 32)]
    assert query.shape == (1, 3, 3)


def test_an_unknown_mode_is_named():
    with pytest.raises(LoRWebError, match="'sideways'.*cat-aa'b"):
        encode_query(VisionEncoder(lambda x: x, 8), *[torch.rand(8, 8, 3)] * 3, "sideways")


@settings(max_examples=25, deadline=None)
@given(height=st.integers(16, 300), width=st.integers(16, 300), seed=st.integers(0, 99))
def test_preprocessing_is_pillows_to_a_level_of_grey(height, width, seed):
    """Pillow resizes in 8 bits, and is what CLIP's own preprocessing and the published code use."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    generator = torch.Generator().manual_seed(seed)
    # Smooth, as pictures are; noise has no meaningful resampling to compare.
    small = torch.rand(1, 3, 4, 4, generator=generator)
    image = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")[0].movedim(0, -1)
    image = (image * 255).round() / 255
    size, short = 32, min(height, width)
    scaled = (size * width // short, size * height // short)
    pillow = image_module.fromarray((image * 255).byte().numpy()).resize(scaled, image_module.Resampling.BICUBIC)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    cropped = pillow.crop((left, top, left + size, top + size))
    expected = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8).view(size, size, 3)
    difference = (centre_square(image, size).movedim(0, -1) * 255 - expected).abs()
    assert difference.max() <= 2
    assert difference.mean() < 0.3
