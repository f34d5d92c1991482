"""An analogy as a whole: what it shows, and which picture can be its result."""

from __future__ import annotations

import pytest
import torch

from lorweb_core.analogy import Analogy, match_up
from lorweb_core.errors import LoRWebError
from lorweb_core.grid import Size


def pictures(n: int, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(n, height, width, 3, generator=torch.Generator().manual_seed(height))


def test_further_pairs_of_other_sizes_join_those_of_the_first_input():
    (one,) = match_up([(pictures(2), pictures(2)), (pictures(1, 48), pictures(1, 40))], pictures(1))
    assert [tuple(a.shape[:2]) for a, _ in one.pairs] == [(64, 96), (64, 96), (48, 96)]
    assert one.pairs[2][1].shape[0] == 40


def test_further_pairs_join_each_of_several_bs():
    several = match_up([(pictures(3), pictures(3)), (pictures(1, 48), pictures(1, 48))], pictures(3, 32))
    assert [len(triplet.pairs) for triplet in several] == [2, 2, 2]
    for triplet, a, b in zip(several, pictures(3), pictures(3, 32), strict=True):
        assert torch.equal(triplet.pairs[0][0], a)
        assert torch.equal(triplet.b, b)


@pytest.mark.parametrize(("demonstrations", "rows"), [("first pair", 2), ("all pairs", 4)])
def test_the_model_is_shown_the_first_pair_or_all(demonstrations, rows):
    analogy = Analogy(
        match_up([(pictures(3), pictures(3))], pictures(1)), megapixels=0.1, demonstrations=demonstrations
    )
    (shown,) = analogy.lay_out("grid")
    assert analogy.pairs == rows - 1
    assert shown.overview.shape[0] / shown.overview.shape[1] == pytest.approx(rows * 64 / (2 * 96), rel=0.1)


def test_what_was_sampled_is_known_by_its_size():
    # 1024² · 0.25 pixels of 96:64 are 627 × 418, a quarter of them 313 × 209; sides are multiples of 16.
    analogy = Analogy(match_up([(pictures(1), pictures(1))], pictures(1)), megapixels=0.25)
    assert analogy.find_sampled(Size(416, 624)) == "grid"
    assert analogy.find_sampled(Size(208, 304)) == "result"


def test_a_picture_of_another_size_is_refused():
    analogy = Analogy(match_up([(pictures(1), pictures(1))], pictures(1)), megapixels=0.25, sampled="result")
    with pytest.raises(LoRWebError, match=r"624×416 pixels, but this analogy is sampled at 304×208"):
        analogy.find_sampled(Size(416, 624))


@pytest.mark.parametrize(
    "settings", [{"fit": "squeeze"}, {"layout": "circle"}, {"sampled": "half"}, {"demonstrations": "none"}]
)
def test_settings_that_do_not_exist_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(LoRWebError, match=f"{name} is '{value}'; expected one of: "):
        Analogy(match_up([(pictures(1), pictures(1))], pictures(1)), **settings)
