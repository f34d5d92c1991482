from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lorweb_core import LoRWebError
from lorweb_core.grid import KONTEXT_SIZES, Size, cut_result, grid_sizes, reference_grid, rgb_image

sides = st.integers(16, 4000)


@given(height=sides, width=sides, megapixels=st.floats(0.01, 16))
def test_sizes_are_multiples_of_16_of_about_the_asked_area_and_as_shape(height, width, megapixels):
    sampled, reference = grid_sizes(Size(height, width), megapixels)
    for size in (*sampled, *reference):
        assert size % 16 == 0
        assert size > 0
    area = megapixels * 1024**2
    assert (sampled.height - 1 < (area * height / width) ** 0.5) or sampled.height == 16
    assert (area * height / width) ** 0.5 < sampled.height + 17


@pytest.mark.parametrize(
    ("a", "sampled", "reference"),
    [  # height, width; worked out by hand from section 5
        ((1024, 1024), (1024, 1024), (1024, 1024)),
        ((512, 512), (1024, 1024), (1024, 1024)),
        ((1500, 2000), (880, 1168), (880, 1184)),
        ((2000, 1500), (1168, 880), (1184, 880)),
        ((100, 1000), (320, 3232), (672, 1568)),
    ],
)
def test_published_sizes(a, sampled, reference):
    assert grid_sizes(Size(*a)) == (sampled, reference)


@given(height=sides, width=sides)
def test_the_reference_is_the_nearest_kontext_size(height, width):
    _, reference = grid_sizes(Size(height, width))
    assert (reference.width, reference.height) in KONTEXT_SIZES
    error = abs(width / height - reference.width / reference.height)
    assert all(error <= abs(width / height - w / h) for w, h in KONTEXT_SIZES)


def flat(colour: tuple[float, float, float], height: int, width: int) -> torch.Tensor:
    return torch.tensor(colour).expand(height, width, 3)


RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@settings(deadline=None, max_examples=30)
@given(shape=st.tuples(st.integers(16, 200), st.integers(16, 200)), fit=st.sampled_from(["stretch", "crop"]))
def test_the_grid_holds_a_a_prime_b_b_in_its_quarters(shape, fit):
    images = flat(RED, 64, 64), flat(GREEN, *shape), flat(BLUE, *shape)
    grid = reference_grid(*images, Size(96, 96), Size(128, 160), fit)
    assert grid.shape == (128, 160, 3)
    quarters = [grid[y : y + 64, x : x + 80] for y in (0, 64) for x in (0, 80)]
    for quarter, colour in zip(quarters, (RED, GREEN, BLUE, BLUE)):
        torch.testing.assert_close(quarter, flat(colour, 64, 80))


def test_padding_centres_the_picture_on_black():
    wide = reference_grid(*[flat(RED, 32, 64)] * 3, Size(128, 128), Size(128, 128), "pad")[:64, :64]
    assert wide[16:48].eq(torch.tensor(RED)).all()
    assert not wide[:16].any()
    assert not wide[48:].any()


def smooth(height: int, width: int) -> torch.Tensor:
    """A picture whose pixels say where they are."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, x * y], -1)


@settings(deadline=None, max_examples=40)
@given(
    b=st.tuples(st.integers(64, 300), st.integers(64, 300)),
    a=st.tuples(st.integers(100, 300), st.integers(100, 300)),
    fit=st.sampled_from(["stretch", "pad"]),
)
def test_the_result_undoes_the_fit(a, b, fit):
    """A perfect model that hands b back: its grid, cut, is b again, but for resampling."""
    picture = smooth(*b)
    sampled, _ = grid_sizes(Size(*a), 0.5)
    grid = reference_grid(smooth(*a), smooth(*a), picture, sampled, sampled, fit)[None]
    back = cut_result(grid, Size(*b), fit)
    assert back.shape == (1, *b, 3)
    assert (back[0] - picture)[4:-4, 4:-4].abs().mean() < 0.02


def test_a_crop_comes_back_at_bs_scale():
    b = smooth(100, 300)
    grid = reference_grid(*[smooth(100, 100)] * 2, b, Size(400, 400), Size(400, 400), "crop")[None]
    back = cut_result(grid, Size(100, 300), "crop")
    assert back.shape == (1, 100, 100, 3)
    torch.testing.assert_close(back[0], b[:, 100:200], atol=0.02, rtol=0)


def test_without_b_the_quarter_is_cut_as_it_is():
    grids = torch.rand(2, 96, 64, 3)
    assert torch.equal(cut_result(grids), grids[:, 48:, 32:])


@pytest.mark.parametrize("shape", [(20, 30, 3), (1, 20, 30, 3), (20, 30, 4), (1, 20, 30, 4)])
def test_one_image_rgb_or_rgba_is_taken(shape):
    assert rgb_image(torch.rand(shape), "a").shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 20, 30, 3), "a_prime is a batch of 2"),
        ((20, 30, 1), "a_prime has the shape"),
        ((20, 30), "a_prime has the shape"),
        ((15, 30, 3), "a_prime is 30×15 pixels"),
        ((1, 30, 15, 3), "a_prime is 15×30 pixels"),
        ((0, 20, 30, 3), "a_prime is a batch of 0"),
    ],
)
def test_other_images_are_refused_by_name(shape, words):
    with pytest.raises(LoRWebError, match=words):
        rgb_image(torch.rand(shape), "a_prime")


@pytest.mark.parametrize("megapixels", [0.0, -1.0, float("inf"), float("nan")])
def test_an_area_that_is_none(megapixels):
    with pytest.raises(LoRWebError, match="megapixels"):
        grid_sizes(Size(64, 64), megapixels)


def test_an_unknown_fit():
    with pytest.raises(LoRWebError, match="'shrink'.*stretch, pad, crop"):
        cut_result(torch.rand(1, 32, 32, 3), Size(16, 16), "shrink")
