from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorweb_core import LoRWebError
from lorweb_core.pictures.captions import ascii_text
from lorweb_core.pictures.strip import strip

DARK = (24, 26, 30)


def plain(red: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.tensor([red, 200, 100]).expand(*size, 3) / 255


def place(image: torch.Tensor, red: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the pixels of a plain picture."""
    levels = (image * 255).round().int()
    down, right = (levels == torch.tensor([red, 200, 100])).all(-1).nonzero().unbind(1)
    assert len(down), f"nothing of {red}"
    top, left = down.min().item(), right.min().item()
    height, width = down.max().item() - top + 1, right.max().item() - left + 1
    assert height * width == len(down)  # whole, nothing drawn over it
    return top, left, height, width


def test_pictures_stand_side_by_side_at_one_height_in_their_own_shapes():
    image = strip([plain(10, (100, 200)), plain(20, (50, 50)), plain(30, (300, 150))], height=120)
    places = [place(image, red) for red in (10, 20, 30)]
    assert {(top, height) for top, _, height, _ in places} == {(places[0][0], 120)}
    assert [width for *_, width in places] == [240, 120, 60]
    lefts = [left for _, left, _, _ in places]
    assert lefts == sorted(lefts)


def test_pictures_are_not_made_larger_than_the_highest():
    assert place(strip([plain(10, (64, 64)), plain(20, (32, 32))]), 20)[2:] == (64, 64)


def test_a_batch_is_its_pictures():
    batch = torch.stack([plain(10, (40, 40)), plain(20, (40, 40))])
    assert torch.equal(strip([batch, plain(30, (40, 40))]), strip([*batch, plain(30, (40, 40))]))


@pytest.mark.parametrize(("count", "rows"), [(1, [1]), (8, [8]), (9, [5, 4]), (17, [6, 6, 5])])
def test_many_pictures_go_into_rows_of_like_length_in_reading_order(count, rows):
    image = strip([plain(10 * i, (30, 40)) for i in range(count)])
    places = [place(image, 10 * i) for i in range(count)]
    assert [(top, left) for top, left, *_ in places] == sorted((top, left) for top, left, *_ in places)
    tops = [top for top, *_ in places]
    assert [tops.count(top) for top in dict.fromkeys(tops)] == rows


def test_captions_stand_below_their_pictures():
    pictures = [plain(10, (80, 120)), plain(20, (80, 120)), plain(30, (80, 120))]
    without, some = strip(pictures), strip(pictures, ["first", "", "third", "of none"])
    assert some.shape[0] > without.shape[0]
    assert some.shape[1] == without.shape[1]
    written = ((some * 255).round().int() - torch.tensor(DARK)).abs().sum(-1) > 60
    for red, expected in {10: True, 20: False, 30: True}.items():
        top, left, height, width = place(some, red)
        below = written[top + height :, left : left + width]
        assert below.any() == expected
    assert torch.equal(strip(pictures, ["", "", ""]), without)


def test_a_long_caption_does_not_run_into_its_neighbours():
    pictures = [plain(10, (80, 60)), plain(20, (80, 60))]
    image = strip(pictures, ["a night with stars " * 20, ""])
    top, left, height, width = place(image, 20)
    background = (image[top + height :, left : left + width] * 255).round().int()
    assert (background == torch.tensor(DARK)).all()
    assert strip(pictures, ["Donaudampfschifffahrtsgesellschaft" * 9]).shape[1] == image.shape[1]
    assert image.shape[0] < 80 + 100


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_any_caption_can_be_drawn(text):
    assert strip([plain(10, (64, 64))], [text]).shape[-1] == 3
    assert ascii_text(text).isascii()


def test_what_the_font_lacks_is_replaced():
    assert ascii_text("b′ – “été”\tœ × 日本 ½") == 'b\' - "ete" ? x ?? 1?2'
    assert ascii_text("a' = 0.5; 3/4") == "a' = 0.5; 3/4"


def test_themes_differ_around_the_pictures():
    light, dark = (strip([plain(10, (64, 64))], ["x"], theme) for theme in ("light", "dark"))
    assert light[0, 0].tolist() == [1, 1, 1]
    assert (dark[0, 0] * 255).round().tolist() == list(DARK)


@pytest.mark.parametrize("size", [(16, 900), (900, 16), (16, 16)])
def test_extreme_shapes_stay_of_a_size_that_can_be_looked_at(size):
    height, width, _ = strip([plain(10, size), plain(20, (64, 64))], ["one", "two"]).shape
    assert height < 1000
    assert width < 4 * 900 + 1000


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "images is an empty list"),
        ([torch.rand(8, 200, 3)], "images is 200×8 pixels"),
        ([torch.rand(64, 64)], r"images has the shape \(64, 64\)"),
    ],
)
def test_what_is_no_picture_is_named(images, words):
    with pytest.raises(LoRWebError, match=words):
        strip(images)


def test_a_wrong_theme_or_height_is_named():
    with pytest.raises(LoRWebError, match="theme is 'blue'; expected one of: dark, light"):
        strip([plain(10, (64, 64))], theme="blue")
    with pytest.raises(LoRWebError, match="height is 0 pixels"):
        strip([plain(10, (64, 64))], height=0)
