"""Which pictures are taken for one, and which mixtures for made of what the model is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import standins
import torch
from safetensors.torch import save_file
from windows import window

from lorweb_core.basis import LoRABasis, load_basis
from lorweb_core.grid import Size, resize
from lorweb_core.likeness import are_alike, likeness, likenesses, looks_same
from lorweb_core.shown_check import find_other
from lorweb_core.space.blend import blend
from lorweb_core.triplet import Triplet


def test_a_picture_in_two_sizes_is_one_and_another_is_not():
    picture = window()
    smaller = resize(picture[None], Size(100, 150))[0]
    assert are_alike(likeness(picture), likeness(smaller))
    assert not are_alike(likeness(picture), likeness(window(40, 40)))
    changed = picture.clone()
    changed[:30, :40] = 0
    assert not are_alike(likeness(picture), likeness(changed))


def test_a_likeness_is_the_mean_of_its_cells():
    picture = torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(1))
    means = picture.reshape(16, 2, 16, 3, 3).mean((1, 3))
    assert likeness(picture).shape == (16, 16, 3)
    assert (likeness(picture) / 255 - means).abs().max() <= 0.5 / 255 + 1e-6


def test_small_changes_are_changes_but_rounding_is_not():
    picture = window()
    assert looks_same(picture, (picture * 255).round() / 255)
    changed = picture.clone()
    changed[100:110, 100:110] = 0
    assert not looks_same(picture, changed)


@pytest.fixture
def basis(tmp_path):
    """Load a basis whose query is of this mode."""

    def basis(mode: str = "cat-aa'b") -> LoRABasis:
        path = tmp_path / "small.safetensors"
        save_file(standins.basis(standins.block_linears(16, 1, 1), n=4, rank=2, keys=8, query=24), path)
        path.with_suffix(".yaml").write_text(
            f'config: {{process: [{{network: {{network_kwargs: {{query_mode: "{mode}"}}}}}}]}}'
        )
        return load_basis(path)

    return basis


def analogy(shade: float = 0.5, b: int = 60) -> Triplet:
    return Triplet([(window(), window() * shade)], window(b, b))


def mixture(basis: LoRABasis, *analogies: Triplet):
    queries = torch.rand(len(analogies), 1, 24, generator=torch.Generator().manual_seed(1))
    return replace(basis.route(queries), seen=likenesses(analogies))


def test_a_mixture_of_what_is_shown_is_right(basis):
    assert find_other([mixture(basis(), analogy())], likenesses([analogy()])) is None


def test_one_pair_of_several_is_enough(basis):
    several = Triplet([*analogy(0.3).pairs, *analogy().pairs], analogy().b)
    assert find_other([mixture(basis(), several)], likenesses([analogy()])) is None


def test_another_pair_and_another_b_are_told_apart(basis):
    assert find_other([mixture(basis(), analogy(0.2))], likenesses([analogy()])) == "another a or a'"
    assert find_other([mixture(basis(), analogy(b=-60))], likenesses([analogy()])) == "another b"


def test_b_counts_only_where_the_query_sees_it(basis):
    assert find_other([mixture(basis("ca'-ca"), analogy(b=-60))], likenesses([analogy()])) is None
    assert find_other([mixture(basis("caa'"), analogy(b=-60))], likenesses([analogy()])) is None
    assert find_other([mixture(basis("caa'b"), analogy(b=-60))], likenesses([analogy()])) == "another b"


def test_a_batch_is_held_against_a_batch(basis):
    both = analogy(), analogy(b=-60)
    small = basis()
    assert find_other([mixture(small, *both)], likenesses(both)) is None
    assert find_other([mixture(small, *both)], likenesses(both[::-1])) == "another b"
    assert find_other([mixture(small, *both)], likenesses(both[:1])) == "a batch of 2, and not 1, analogies"
    assert find_other([mixture(small, both[0])], likenesses(both)) == "another b"
    assert find_other([mixture(small, *both).split()[1]], likenesses(both[1:])) is None


def test_of_several_mixtures_one_is_enough_and_blends_may_be_used_for_anything(basis):
    small = basis()
    right, wrong = mixture(small, analogy()), mixture(small, analogy(0.2))
    assert find_other([wrong, right], likenesses([analogy()])) is None
    assert find_other([blend([wrong, right], [1.0, 0.5])], likenesses([analogy()])) is None
    assert find_other([wrong.with_table(wrong.table * 2)], likenesses([analogy()])) == "another a or a'"
    assert find_other([], likenesses([analogy()])) is None
