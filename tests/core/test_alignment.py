"""Shifts and scales between a and a', found in windows of one picture that are known to lie apart."""

from __future__ import annotations

import pytest
import torch
from windows import HEIGHT, WIDTH, window

from lorweb_core.alignment import ALIGNED, cut_to_common, find_displacement


def edits() -> dict:
    tint = torch.tensor([1.0, 0.7, 0.4])
    return {"none": lambda x: x, "tint": lambda x: x**2 * tint, "dark": lambda x: x * 0.3}


@pytest.mark.parametrize("edit", edits())
@pytest.mark.parametrize(("down", "right"), [(12, 0), (0, -16), (-24, 32)])
def test_shifts_are_found_through_edits(edit, down, right):
    found = find_displacement(window(), edits()[edit](window(down, right)))
    assert found == pytest.approx((1, down / HEIGHT, right / WIDTH), abs=0.004)


@pytest.mark.parametrize("seen", [0.8, 0.9, 1.1, 1.2])
def test_scales_are_found(seen):
    """Of a window that sees a part of what a sees, of the same shape, things are larger by the inverse."""
    part = window(height=round(HEIGHT * seen), width=round(WIDTH * seen))
    assert find_displacement(window(), part) == pytest.approx((1 / seen, 0, 0), abs=0.006)


@pytest.mark.parametrize("edit", edits())
def test_edits_that_move_nothing_are_aligned(edit):
    assert find_displacement(window(), edits()[edit](window())) is ALIGNED
    assert find_displacement(window(), 1 - window()) is ALIGNED


def test_other_pictures_are_taken_as_they_are():
    assert find_displacement(window(), window().flip(1)) is ALIGNED
    assert find_displacement(window(), torch.zeros(HEIGHT, WIDTH, 3)) is ALIGNED


def test_a_part_that_is_edited_is_no_shift():
    changed = window().clone()
    changed[60:180, 80:240] = window(20, 20)[60:180, 80:240]
    assert find_displacement(window(), changed) is ALIGNED


@pytest.mark.parametrize(("down", "right"), [(12, 0), (0, -16), (-24, 32)])
def test_a_cut_pair_lies_on_itself_in_as_size(down, right):
    a, a_prime = window(), window(down, right)
    one, other = cut_to_common(a, a_prime, find_displacement(a, a_prime))
    assert one.shape == other.shape == a.shape
    assert (one - other).abs().mean() < 0.01 < 0.05 < (a - a_prime).abs().mean()


def test_a_cut_takes_a_prime_of_another_size():
    a, part = window(), window(height=216, width=288)
    one, other = cut_to_common(a, part, find_displacement(a, part))
    assert one.shape == other.shape == a.shape
    assert (one - other).abs().mean() < 0.01
