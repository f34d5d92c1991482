"""The world of families: what its edits change, what they are called, and what is held out."""

from __future__ import annotations

from hashlib import sha256

import pytest
import torch
import torch.nn.functional as F

from small_world.world.families.edits import (
    FAMILIES,
    NEVER_TOGETHER,
    SINGLE,
    TRAINED,
    UNTAUGHT,
    WHOLE,
    draw_pairs,
    draw_scene_versions,
    name_of,
    ranges,
    splits,
    taught_families,
)
from small_world.world.families.lessons import draw_lessons
from small_world.world.families.words import MOST, WIDTH, words_for, words_of

HELD_OUT = ("new_pairs", "inside", "outside", "whole", "untaught")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def families_of(edits: list[tuple[str, ...]]) -> set[str]:
    return {SINGLE[name][0] for edit in edits for name in edit}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_edit_of_a_family_shows_in_every_scene_that_is_drawn_for_it(family):
    edits = [(name_of(family, values),) for values in FAMILIES[family].single]
    before, after = draw_pairs(edits, 4, generator()).float().div(255).unbind(1)
    assert before.shape == after.shape == (4 * len(edits), 3, 64, 64)
    assert (after - before).abs().amax((1, 2, 3)).min() > 0.1


def test_a_basis_learns_from_at_least_120_single_edits_of_20_families():
    single = [edit for edit in splits()["trained"] if len(edit) == 1]
    assert len(single) >= 120
    assert len(families_of(single)) >= 20


def test_what_is_held_out_is_nowhere_else():
    edits = splits()
    lists = [set(edits[name]) for name in ("trained", *HELD_OUT)]
    assert len(set.union(*lists)) == sum(map(len, lists))
    trained = {name for edit in edits["trained"] for name in edit}
    assert not trained & {name for kind in HELD_OUT[1:] for edit in edits[kind] for name in edit}
    # Each part of a new pair is known by itself: only the two together are new.
    assert {name for edit in edits["new_pairs"] for name in edit} <= trained
    assert families_of(edits["trained"]) == set(TRAINED)
    assert families_of(edits["whole"]) == set(WHOLE)
    assert families_of(edits["untaught"]) == set(UNTAUGHT)


def test_values_inside_lie_between_those_that_are_known_and_those_outside_do_not():
    known = {family: torch.tensor(FAMILIES[family].known) for family in TRAINED}
    for kind, wanted in (("inside", True), ("outside", False)):
        for (name,) in splits()[kind]:
            family, values = SINGLE[name]
            low, high = known[family].amin(0), known[family].amax(0)
            assert bool(((low <= torch.tensor(values)) & (torch.tensor(values) <= high)).all()) == wanted, name


def test_what_is_held_out_is_always_the_same():
    # The models that are shipped were trained on these: a change here asks for new ones.
    assert sha256(repr(splits()).encode()).hexdigest()[:16] == "4919ed258fda080f"


def test_no_lesson_shows_what_the_base_is_not_to_see():
    taught = {frozenset(families) for families in taught_families()}
    assert not taught & {frozenset(pair) for pair in NEVER_TOGETHER}
    assert not set.union(*map(set, taught)) & set(UNTAUGHT)
    assert set.union(*map(set, taught)) == set(TRAINED + WHOLE)


def test_lessons_come_from_their_seed():
    (pairs, words), (again, words_again) = (draw_lessons(generator(5), 80) for _ in range(2))
    assert pairs.shape == (80, 2, 3, 64, 64)
    assert words.shape == (80, MOST, WIDTH)
    assert torch.equal(pairs, again) and torch.equal(words, words_again)


def test_versions_of_a_scene_stand_a_whole_number_of_scenes_apart():
    pictures = draw_scene_versions(16, 3, generator())
    assert pictures.shape == (48, 3, 64, 64)
    first, second, third = pictures.chunk(3)
    assert not torch.equal(first, second) and not torch.equal(second, third)


@pytest.mark.parametrize("family", [name for name in TRAINED if not FAMILIES[name].discrete])
def test_words_of_near_values_are_near_and_those_of_other_families_are_not(family):
    low, high = torch.tensor(ranges(family)).T
    middle = (low + high) / 2
    near = words_of([(family, torch.stack([middle, middle + 0.02 * (high - low)]))], 2)[:, 0]
    other = words_for([(name_of("vignette", (0.6,)),)])[0, 0]
    assert F.cosine_similarity(*near, dim=0) > 0.95
    assert F.cosine_similarity(near[0], other, dim=0).abs() < 0.2


def test_words_of_discrete_edits_have_nothing_in_common():
    words = words_for([("mirror 0",), ("mirror 1",), ("season winter",)])[:, 0]
    cosines = F.cosine_similarity(words[:, None], words, dim=-1) - torch.eye(3)
    assert cosines.abs().max() < 0.2


def test_a_pair_of_edits_has_the_words_of_both_and_a_single_one_zeros_beside_its_own():
    both = words_for([("hue 60", "sun 0"), ("sun 0",)])
    assert torch.equal(both[0, 1], both[1, 0])
    assert not both[1, 1].any()
