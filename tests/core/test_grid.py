from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lorweb_core import LoRWebError
from lorweb_core.grid import KONTEXT_SIZES, Size, cut_result, grid_sizes, reference_grid

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


@given(height=sides, width=sides, megapixels=st.floats(0.1, 16), pairs=st.integers(2, 6))
def test_grids_of_more_pairs_have_cells_of_whole_tokens_in_as_shape(height, width, megapixels, pairs):
    sampled, reference = grid_sizes(Size(height, width), megapixels, pairs)
    assert sampled == reference
    cell = Size(sampled.height // (pairs + 1), sampled.width // 2)
    assert (sampled.height, sampled.width) == ((pairs + 1) * cell.height, 2 * cell.width)
    assert cell.height % 16 == cell.width % 16 == 0
    area = megapixels * 1024**2 / (2 * (pairs + 1))
    for side, exact in zip(cell, ((area * height / width) ** 0.5, (area * width / height) ** 0.5)):
        assert exact - 17 < side < exact + 1 or side == 16


def flat(colour: tuple[float, float, float], height: int, width: int) -> torch.Tensor:
    return torch.tensor(colour).expand(height, width, 3)


RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@settings(max_examples=30)
@given(shape=st.tuples(st.integers(16, 200), st.integers(16, 200)), fit=st.sampled_from(["stretch", "crop"]))
def test_the_grid_holds_a_a_prime_b_b_in_its_quarters(shape, fit):
    pair = flat(RED, 64, 64), flat(GREEN, *shape)
    grid = reference_grid([pair], flat(BLUE, *shape), Size(96, 96), Size(128, 160), fit)
    assert grid.shape == (128, 160, 3)
    quarters = [grid[y : y + 64, x : x + 80] for y in (0, 64) for x in (0, 80)]
    for quarter, colour in zip(quarters, (RED, GREEN, BLUE, BLUE)):
        torch.testing.assert_close(quarter, flat(colour, 64, 80))


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_several_pairs_are_rows_above_bs_and_b_prime_is_the_last_cell(fit):
    """Every cell is what it is in the grid of its pair alone; a model that hands the reference back gives b."""
    pairs = [(torch.rand(40, 60, 3), torch.rand(50, 60, 3)) for _ in range(3)]
    b = smooth(70, 50)
    sampled, reference = grid_sizes(Size(40, 60), 0.2, pairs=3)
    cell = Size(sampled.height // 4, sampled.width // 2)
    grid = reference_grid(pairs, b, sampled, reference, fit)
    assert grid.shape == (*reference, 3)
    alone = Size(2 * cell.height, 2 * cell.width)
    for row, pair in enumerate(pairs):
        one = reference_grid([pair], b, alone, alone, fit)
        assert torch.equal(grid[row * cell.height :][: cell.height], one[: cell.height])
        assert torch.equal(grid[3 * cell.height :], one[cell.height :])
    assert torch.equal(cut_result(grid[None], fit=fit, pairs=3)[0], grid[3 * cell.height :, cell.width :])
    assert torch.equal(cut_result(grid[None], Size(70, 50), fit, pairs=3), cut_result(one[None], Size(70, 50), fit))


def test_padding_centres_the_picture_on_black():
    red = flat(RED, 32, 64)
    wide = reference_grid([(red, red)], red, Size(128, 128), Size(128, 128), "pad")[:64, :64]
    assert wide[16:48].eq(torch.tensor(RED)).all()
    assert not wide[:16].any()
    assert not wide[48:].any()


def smooth(height: int, width: int) -> torch.Tensor:
    """A picture whose pixels say where they are."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, x * y], -1)


@settings(max_examples=40)
@given(
    b=st.tuples(st.integers(64, 300), st.integers(64, 300)),
    a=st.tuples(st.integers(100, 300), st.integers(100, 300)),
    fit=st.sampled_from(["stretch", "pad"]),
    pairs=st.integers(1, 3),
)
def test_the_result_undoes_the_fit(a, b, fit, pairs):
    """A perfect model that hands b back: its grid, cut, is b again, but for resampling."""
    picture = smooth(*b)
    sampled, _ = grid_sizes(Size(*a), 0.25 * (pairs + 1), pairs)
    grid = reference_grid([(smooth(*a), smooth(*a))] * pairs, picture, sampled, sampled, fit)[None]
    back = cut_result(grid, Size(*b), fit, pairs)
    assert back.shape == (1, *b, 3)
    assert (back[0] - picture)[4:-4, 4:-4].abs().mean() < 0.02


def test_a_crop_comes_back_at_bs_scale():
    b = smooth(100, 300)
    grid = reference_grid([(smooth(100, 100), smooth(100, 100))], b, Size(400, 400), Size(400, 400), "crop")[None]
    back = cut_result(grid, Size(100, 300), "crop")
    assert back.shape == (1, 100, 100, 3)
    torch.testing.assert_close(back[0], b[:, 100:200], atol=0.02, rtol=0)


def test_without_b_the_quarter_is_cut_as_it_is():
    grids = torch.rand(2, 96, 64, 3)
    assert torch.equal(cut_result(grids), grids[:, 48:, 32:])


@pytest.mark.parametrize("megapixels", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("pairs", [1, 2])
def test_an_area_that_is_none(megapixels, pairs):
    with pytest.raises(LoRWebError, match="megapixels"):
        grid_sizes(Size(64, 64), megapixels, pairs)


def test_an_unknown_fit():
    with pytest.raises(LoRWebError, match="'shrink'.*stretch, pad, crop"):
        cut_result(torch.rand(1, 32, 32, 3), Size(16, 16), "shrink")
