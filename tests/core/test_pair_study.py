"""The pairs that docs/pairs.md is measured with: what each of them does to a good one."""

import pytest
import torch

from small_world.pair_study import GOOD, PAIRS, draw, tasks_of
from small_world.world.plain.scenes import SIDE

EDITS = [("orange", "face"), ("winter",), ("gray",)]


@pytest.fixture(scope="module")
def drawn() -> dict[str, torch.Tensor]:
    return draw(EDITS, seed=1)


def test_every_kind_shows_the_same_a_but_those_that_swap_or_replace_it(drawn):
    a, a_prime = drawn[GOOD].unbind(1)
    for way in PAIRS.keys() - {"the same, and b's scene in a", "a and a' swapped"}:
        assert torch.equal(drawn[way][:, 0], a), way
    assert torch.equal(drawn["a and a' swapped"], torch.stack([a_prime, a], 1))
    assert torch.equal(drawn["a' = a"][:, 1], a)


def test_only_bad_pairs_have_another_a_prime(drawn):
    a_prime = drawn[GOOD][:, 1]
    for way in ("a' moved by an eighth", "a' cropped to three quarters", "a second change", "a' of another scene"):
        assert (drawn[way][:, 1] != a_prime).flatten(1).any(1).all(), way


def test_a_moved_a_prime_is_the_good_one_an_eighth_to_the_right_and_up(drawn):
    good, moved = drawn[GOOD][:, 1], drawn["a' moved by an eighth"][:, 1]
    eighth = SIDE // 8
    assert torch.equal(moved[..., : SIDE - eighth, eighth:], good[..., eighth:, : SIDE - eighth])


def test_the_pictures_to_edit_are_the_same_for_every_pair_and_change():
    b, b_prime = tasks_of(EDITS, seed=1).unbind(1)
    assert torch.equal(tasks_of(EDITS, seed=1)[:, 0], b)
    assert (b != b_prime).flatten(1).any(1).all()
