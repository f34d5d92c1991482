"""What is said of an analogy's pictures, and what is not."""

from __future__ import annotations

import pytest
import torch
from windows import window

from lorweb_core.analogy import Analogy, match_up
from lorweb_core.analogy_notes import align_pairs, look_at


def analogy(a=None, a_prime=None, b=None, **settings) -> Analogy:
    a, b = window() if a is None else a, window(60, 60) if b is None else b
    return Analogy(match_up([(a, a * 0.5 if a_prime is None else a_prime)], b), **settings)


def test_nothing_is_said_of_what_is_right():
    assert look_at(analogy()) == ()


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_pair_without_a_change_is_said(noise):
    """Also where saving it has left its noise."""
    a = window()
    (note,) = look_at(analogy(a, a + noise * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))))
    assert note.startswith("The pair shows no change: a and a' are the same picture.")


def test_a_small_edit_is_a_change():
    a_prime = window().clone()
    a_prime[100:120, 100:120] = 0
    assert look_at(analogy(a_prime=a_prime)) == ()


def test_a_displaced_pair_is_said_and_align_cuts_it():
    given = analogy(a_prime=window(12, -16))
    (note,) = look_at(given)
    assert note.startswith("The pair seems not to lie on itself: a' is 5.0% further left and 5.0% further down.")
    triplets, cut = align_pairs(given.triplets)
    assert cut == ("The pair is cut to what both show: a' is 5.0% further left and 5.0% further down.",)
    (a, a_prime) = triplets[0].pairs[0]
    assert (a - a_prime).abs().mean() < 0.01
    assert "shows no change" in look_at(analogy(a, a_prime))[0]


def test_pairs_that_lie_on_themselves_stay_as_they_are():
    given = analogy()
    triplets, cut = align_pairs(given.triplets)
    assert cut == ()
    assert triplets[0].pairs[0][0] is given.triplets[0].pairs[0][0]


def test_one_of_several_pairs_is_told_apart_and_said_once():
    a = window()[None].repeat(3, 1, 1, 1)
    a_prime = torch.stack([window() * 0.5, window(), window() * 0.4])
    (note,) = look_at(Analogy(match_up([(a, a_prime)], window(60, 60)[None].repeat(3, 1, 1, 1))))
    assert note.startswith("Pair 2 of 3 shows no change")


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, True), ({"fit": "pad"}, False), ({"fit": "crop"}, False), ({"layout": "sequence"}, False)],
)
def test_a_b_of_another_shape_is_said_where_it_is_stretched(settings, said):
    b = window(height=320, width=200)  # a is 4 : 3
    notes = look_at(analogy(b=b, **settings), "Kontext")
    expected = "b is stretched by 2.1, into the shape of a. Set fit to pad or crop, or layout to sequence, on Kontext."
    assert notes == ((expected,) if said else ())


def test_a_pair_of_two_shapes_is_said():
    notes = look_at(analogy(a_prime=window(height=320, width=200) * 0.5))
    assert [note[:44] for note in notes] == ["A picture of the example is stretched by 2.1"]


def enlarged(rows: int, columns: int) -> torch.Tensor:
    """Paint so many squares at random into 1500 × 2000 pixels."""
    squares = torch.rand(rows, columns, 3, generator=torch.Generator().manual_seed(1))
    return squares.repeat_interleave(1500 // rows, 0).repeat_interleave(2000 // columns, 1)


def test_a_b_much_larger_than_its_cell_is_said():
    (note,) = look_at(analogy(b=enlarged(750, 1000), megapixels=0.25))  # a quarter of 512 × 512 pixels, 4 : 3
    assert note.startswith("b has 2000×1500 pixels, and b' is sampled at 288×208: what is finer is lost.")
    assert look_at(analogy(b=enlarged(750, 1000), megapixels=1.0)) != ()
    assert look_at(analogy(b=enlarged(750, 1000), megapixels=4.0)) == ()


def test_a_large_b_without_fine_detail_loses_nothing():
    assert look_at(analogy(b=enlarged(3, 4), megapixels=0.25)) == ()
