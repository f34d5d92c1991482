from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import load_file

from lorweb_core import LoRWebError, VisionEncoder, encode_queries, encode_query
from lorweb_core.encoder import ENCODERS, centre_square, whole_square
from lorweb_core.query import QUERY_MODES, lay_out
from lorweb_core.triplet import Triplet, triplets

FIXTURE = Path(__file__).parent.parent / "fixtures" / "query.safetensors"
PUBLISHED = sorted(name.removeprefix("query.") for name in load_file(FIXTURE) if name.startswith("query."))


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


def fixture_images(fixture: dict) -> list[torch.Tensor]:
    return [fixture[f"image.{name}"].float() / 255 for name in ("a", "a_prime", "b")]


@pytest.fixture
def colours() -> tuple[VisionEncoder, list]:
    """An encoder whose embedding is the mean colour, with its passes; its tokens are the rows of pixels."""
    passes = []

    def tower(squares: torch.Tensor) -> torch.Tensor:
        passes.append(tuple(squares.shape))
        return squares.mean((2, 3))

    def states(squares: torch.Tensor, layers: tuple[int, ...]) -> torch.Tensor:
        passes.append(tuple(squares.shape))
        return torch.cat([squares.mean(3).mT - layer for layer in layers], 1)

    return VisionEncoder(tower, 8, "clip", states), passes


@pytest.mark.parametrize("mode", PUBLISHED)
def test_the_query_is_the_published_one(published, mode):
    encoder, fixture = published
    query, expected = encode_query(encoder, *fixture_images(fixture), mode), fixture[f"query.{mode}"]
    assert query.shape == expected.shape
    assert query.dtype == torch.float32
    assert (query - expected).norm() / expected.norm() < (1e-2 if "-ca" in mode else 5e-3)


def test_all_published_modes_are_there():
    assert len(PUBLISHED) == 11
    assert QUERY_MODES.keys() >= set(PUBLISHED)


@pytest.mark.parametrize(
    ("mode", "clip", "siglip"),
    [("cat-aa'b", 2304, 2304), ("ca'-ca", 768, 768), ("aa'bb'", 768, 768), ("paa'b", 1024, None)],
)
def test_the_width_of_a_modes_query(mode, clip, siglip):
    released = ENCODERS["openai/clip-vit-large-patch14"], ENCODERS["google/siglip2-base-patch16-224"]
    assert [QUERY_MODES[mode].width(spec) for spec in released] == [clip, siglip]


@pytest.mark.parametrize("mode", QUERY_MODES)
def test_images_go_through_the_encoder_in_one_pass_and_each_once(colours, mode):
    encoder, passes = colours
    a, a_prime, b = torch.rand(1, 40, 30, 3), torch.rand(1, 17, 90, 3), torch.rand(5, 64, 64, 3)
    queries = encode_queries(encoder, triplets(a, a_prime, b), mode)
    seen = {"aa'bb'": 5, "caa'bb'": 5, "caa'b": 5, "caa'": 1, "paa'b": 5, "paa'b3": 5, "ca'-ca": 2}.get(mode, 7)
    assert passes == [(seen, 3, 8, 8)]
    alone = [encode_query(encoder, a[0], a_prime[0], image, mode) for image in b]
    torch.testing.assert_close(queries, torch.cat(alone))


def test_an_image_shown_as_a_and_as_b_is_encoded_once(colours):
    encoder, passes = colours
    image = torch.rand(20, 20, 3)
    encode_query(encoder, image, torch.rand(20, 20, 3), image, "cat-aa'b")
    assert passes == [(2, 3, 8, 8)]


def test_several_demonstrations_give_the_mean_of_their_queries(colours):
    encoder, passes = colours
    a, a_prime, b = torch.rand(4, 24, 24, 3), torch.rand(4, 24, 24, 3), torch.rand(1, 24, 24, 3)
    query = encode_queries(encoder, triplets(a, a_prime, b), "cat-aa'b")
    assert (query.shape, passes) == ((1, 3, 3), [(9, 3, 8, 8)])
    each = [encode_query(encoder, *pair, b[0], "cat-aa'b") for pair in zip(a, a_prime)]
    torch.testing.assert_close(query, torch.stack(each).mean(0))


def test_what_each_mode_shows_and_how_it_combines(colours):
    """With mean colours as embeddings, modes are sums that one can write down."""
    encoder, _ = colours
    red, green, blue = (torch.tensor(colour).expand(24, 24, 3) for colour in ([0.8, 0, 0], [0, 0.6, 0], [0, 0, 0.4]))

    def query(mode: str) -> list:
        return [[round(value, 2) for value in row] for row in encode_query(encoder, red, green, blue, mode)[0].tolist()]

    assert query("cat-aa'b") == [[0.8, 0, 0], [0, 0.6, 0], [0, 0, 0.4]]
    assert query("ca'-ca") == [[-0.8, 0.6, 0]]
    assert query("ca'-ca+cb") == [[-0.8, 0.6, 0.4]]
    assert query("aa'bb'") == query("caa'bb'") == [[0.2, 0.15, 0.2]]
    assert query("caa'b") == [[0.2, 0.15, 0.1]]
    assert query("caa'") == [[0.4, 0.3, 0]]


def test_patch_modes_give_every_token_of_every_state(colours):
    encoder, _ = colours
    images = [torch.rand(24, 24, 3) for _ in range(3)]
    shapes = {"paa'b": (1, 8, 3), "paa'b3": (1, 24, 3), "cat-paa'b": (1, 24, 3), "cat-paa'b3": (1, 72, 3)}
    assert {mode: tuple(encode_query(encoder, *images, mode).shape) for mode in shapes} == shapes


def test_a_grid_has_as_shape_and_is_bounded():
    a, a_prime, b = torch.rand(40, 60, 3), torch.rand(30, 30, 3), torch.rand(90, 20, 3)
    grid = lay_out([a, a_prime, b, None])
    assert grid.shape == (80, 120, 3)
    assert torch.equal(grid[:40, :60], a)
    assert not grid[40:, 60:].any()
    big = lay_out([torch.rand(16, 16, 3).expand(4000, 1000, 16, 16, 3)[:, :, 0, 0], a_prime])
    assert big.shape == (1024, 512, 3)


def test_patch_tokens_are_not_taken_from_an_encoder_without_them():
    encoder = VisionEncoder(lambda squares: squares.mean((2, 3)), 8, "siglip")
    with pytest.raises(LoRWebError, match="siglip.*patch tokens"):
        encode_query(encoder, *[torch.rand(16, 16, 3)] * 3, "paa'b")


def test_an_encoder_with_too_few_layers_is_named(published):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, projection_dim=4, num_hidden_layers=2, num_attention_heads=1
    )
    encoder = VisionEncoder.from_transformers(transformers.CLIPVisionModelWithProjection(config))
    with pytest.raises(LoRWebError, match="too few layers.*-16"):
        encode_queries(encoder, [Triplet([(torch.rand(16, 16, 3),) * 2], torch.rand(16, 16, 3))], "paa'b3")


def test_an_unknown_mode_is_named():
    with pytest.raises(LoRWebError, match="'sideways'.*cat-aa'b"):
        encode_query(VisionEncoder(lambda x: x, 8), *[torch.rand(8, 8, 3)] * 3, "sideways")


@settings(max_examples=40)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    seed=st.integers(0, 99),
    coarse=st.booleans(),
    prepare=st.sampled_from([centre_square, whole_square]),
)
def test_preprocessing_is_pillows_to_the_bit(height, width, seed, coarse, prepare):
    """Pillow resizes in 8 bits, and is what CLIP's own preprocessing and the published code use.

    Columns before rows: each is a call of its own here, as Pillow 13 takes the rows first where that is quicker.
    """
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, *((4, 4) if coarse else (height, width)), generator=generator)
    image = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0].movedim(0, -1)
    size, short = 32, min(height, width)
    crops = prepare is centre_square
    scaled = (size * width // short, size * height // short) if crops else (size, size)
    how = image_module.Resampling.BICUBIC if crops else image_module.Resampling.BILINEAR
    pixels = (image * 255).round().byte().numpy()
    pillow = image_module.fromarray(pixels).resize((scaled[0], height), how).resize(scaled, how)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    cropped = pillow.crop((left, top, left + size, top + size))
    expected = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8).view(size, size, 3)
    assert torch.equal((prepare(image, size).movedim(0, -1) * 255).round().byte(), expected)
