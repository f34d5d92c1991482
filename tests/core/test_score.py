from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorweb_core import LoRWebError, VisionEncoder
from lorweb_core.pictures.score_picture import score_picture
from lorweb_core.score import Score, one_analogy, rank, score

PROJECTION = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).double()


class MeanColours(VisionEncoder):
    """Embeds the mean colour, so that embeddings of plain pictures can be worked out by hand; counts its passes."""

    def __init__(self):
        super().__init__(lambda squares: squares.mean((2, 3)) @ PROJECTION.float(), 224)
        self.passes: list[int] = []

    def embed(self, images, states=()):
        self.passes.append(len(images))
        return super().embed(images, states)


@pytest.fixture
def encoder() -> MeanColours:
    return MeanColours()


def plain(*colour: float, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Colours of whole 8-bit levels, which preprocessing keeps."""
    return (torch.tensor(colour) * 255).round().expand(*size, 3).clone() / 255


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of what two changes of the mean colour do to the embedding."""
    x, y = ((change.double() @ PROJECTION).numpy() for change in (x, y))
    return float(x @ y / numpy.sqrt((x @ x) * (y @ y)))


def half_changed() -> tuple[torch.Tensor, torch.Tensor]:
    """A pair of which the left half is repainted."""
    a = plain(0.8, 0.4, 0.2)
    a_prime = a.clone()
    a_prime[:, :16] = plain(0.1, 0.4, 0.9)[:, :16]
    return a, a_prime


def test_follows_is_the_cosine_of_the_changes_in_the_embedding(encoder):
    a, a_prime, b = plain(0.8, 0.4, 0.2), plain(0.2, 0.4, 0.8), plain(0.5, 0.5, 0.5)
    results = [plain(0.1, 0.5, 0.9), plain(0.9, 0.5, 0.1), plain(0.5, 0.9, 0.4)]
    got = [s.follows for s in score(encoder, a, a_prime, b, results)]
    expected = [cosine((a_prime - a)[0, 0], (result - b)[0, 0]) for result in results]
    assert got == pytest.approx(expected, abs=1e-5)
    assert got[0] == pytest.approx(1, abs=1e-4)
    assert got[1] == pytest.approx(-1, abs=1e-4)


def test_kept_is_the_likeness_where_the_pair_is_the_same(encoder):
    a, a_prime = half_changed()
    b = torch.rand(32, 32, 3)
    result = torch.rand(32, 32, 3)
    (got,) = score(encoder, a, a_prime, b, [result])
    expected = 1 - numpy.abs(result.numpy()[:, 16:] - b.numpy()[:, 16:]).mean()
    assert got.kept == pytest.approx(expected, abs=1e-6)
    result[:, :16] = 0  # where the pair changes, b' may be anything
    assert score(encoder, a, a_prime, b, [result])[0].kept == pytest.approx(expected, abs=1e-6)
    assert got.total == pytest.approx(got.follows * expected if got.follows > 0 else got.follows)


def test_the_noise_of_an_autoencoder_is_no_change_and_a_faint_tint_is_one(encoder):
    a, b = plain(0.5, 0.5, 0.5), plain(0.3, 0.4, 0.5)
    noisy = a + 0.04 * torch.where(torch.rand(a.shape) < 0.5, 1.0, -1.0)
    assert score(encoder, a, noisy, b, [b])[0].kept == pytest.approx(1)
    assert score(encoder, a, a + 0.06, b, [b])[0].kept is None


def test_a_pair_that_changes_everywhere_leaves_nothing_to_keep(encoder):
    a, b = plain(0.8, 0.4, 0.2, size=(40, 40)), plain(0.5, 0.5, 0.5, size=(40, 40))
    a_prime = 1 - a
    a_prime[0, :15] = a[0, :15]  # 15 of 1600 pixels are less than 1 %
    (got,) = score(encoder, a, a_prime, b, [1 - b * 0.4])
    assert got.kept is None
    assert got.total == got.follows
    a_prime[0, :16] = a[0, :16]
    assert score(encoder, a, a_prime, b, [b])[0].kept == 1


def test_of_several_pairs_the_mean_edit_counts_and_what_none_of_them_changes(encoder):
    a, first = half_changed()
    second = a.clone()
    second[:, 8:24] = plain(0.9, 0.9, 0.1)[:, 8:24]
    b, result = torch.rand(32, 32, 3), plain(0.3, 0.6, 0.1)
    (got,) = score(encoder, torch.stack([a, a]), torch.stack([first, second]), b, [result])
    assert got.kept == pytest.approx(1 - (result - b)[:, 24:].abs().mean().item(), abs=1e-6)
    levels = [(image * 255).round() / 255 for image in (b, first, second)]
    shown = (levels[1] + levels[2]).mean((0, 1)) / 2 - a.mean((0, 1))
    # Preprocessing rounds to 8 bits, which moves the mean of random pixels a little.
    assert got.follows == pytest.approx(cosine(shown, (result - levels[0]).mean((0, 1))), abs=1e-2)


def test_pairs_in_lists_may_differ_in_size(encoder):
    a, a_prime = half_changed()
    big = [image.repeat_interleave(2, 0).repeat_interleave(3, 1) for image in (a, a_prime)]
    b, result = torch.rand(32, 32, 3), torch.rand(32, 32, 3)
    (one,) = score(encoder, a, a_prime, b, [result])
    (two,) = score(encoder, [a, big[0]], [a_prime, big[1]], b, [result])
    assert two.kept == pytest.approx(one.kept, abs=0.02)  # the edge between the halves is drawn anew
    assert two.follows == pytest.approx(one.follows, abs=0.02)


@pytest.mark.parametrize("size", [(32, 32), (50, 20), (96, 160)])
def test_a_perfect_analogue_scores_one_and_an_untouched_b_follows_nothing(encoder, size):
    a, a_prime = half_changed()
    b, b_prime = (image.repeat(5, 5, 1)[: size[0], : size[1]] for image in (a, a_prime))
    perfect, untouched = score(encoder, b, b_prime, b, [b_prime, b])
    assert perfect.follows == pytest.approx(1, abs=1e-5)
    assert perfect.kept == pytest.approx(1, abs=1e-6)
    assert untouched[:2] == (0.0, 1.0)


def test_a_pair_without_a_change_and_pairs_that_cancel_out_show_no_direction(encoder):
    a, a_prime = half_changed()
    b, result = plain(0.5, 0.5, 0.5), plain(0.1, 0.2, 0.3)
    assert score(encoder, a, a, b, [result])[0].follows == 0
    assert score(encoder, [a, a_prime], [a_prime, a], b, [result])[0].follows == 0


def test_a_result_of_another_size_is_compared_at_bs(encoder):
    a, a_prime = half_changed()
    b = plain(0.2, 0.6, 0.4, size=(48, 64))
    b[:24] = plain(0.7, 0.1, 0.1, size=(24, 64))
    small = b[::2, ::2]
    same, other = score(encoder, a, a_prime, b, [small, small.flip(0)])
    assert same.kept > 0.97
    assert other.kept < 0.7


def test_all_images_go_through_the_encoder_in_one_pass(encoder):
    a, a_prime = half_changed()
    score(encoder, a, a_prime, a, torch.rand(7, 32, 32, 3))
    assert encoder.passes == [2 + 1 + 7]


def test_alpha_and_half_precision_change_nothing(encoder):
    a, a_prime = half_changed()
    b, result = torch.rand(32, 32, 3), torch.rand(32, 32, 4)
    (plainly,) = score(encoder, a, a_prime, b, [result[..., :3]])
    (got,) = score(encoder, a.half(), a_prime.half(), b.half(), [result.half()])
    assert got.follows == pytest.approx(plainly.follows, abs=1e-2)
    assert got.kept == pytest.approx(plainly.kept, abs=1e-3)


@settings(max_examples=20)
@given(order=st.permutations(range(5)), by=st.sampled_from(["both", "follows", "kept"]))
def test_scores_and_ranking_do_not_depend_on_the_order_of_the_results(order, by):
    a, a_prime = half_changed()
    b = plain(0.5, 0.5, 0.5)
    results = [plain(0.5 - i / 20, 0.5 + (i - 2) ** 2 / 20, 0.3 + i / 10) for i in range(5)]
    scores = score(MeanColours(), a, a_prime, b, results)
    shuffled = score(MeanColours(), a, a_prime, b, [results[i] for i in order])
    for i, got in zip(order, shuffled):
        assert got.follows == pytest.approx(scores[i].follows, abs=1e-6)
        assert got.kept == pytest.approx(scores[i].kept, abs=1e-6)
    assert [order[i] for i in rank(shuffled, by)] == rank(scores, by)


def test_ranked_by_each_figure_ties_in_the_order_given():
    scores = [Score(0.1, 0.9), Score(0.9, 0.2), Score(0.6, 0.7), Score(0.6, 0.7)]
    assert rank(scores) == [2, 3, 1, 0]  # 0.65 twice, 0.55, 0.5
    assert rank(scores, "follows") == [1, 2, 3, 0]
    assert rank(scores, "kept") == [0, 2, 3, 1]
    assert rank([Score(0.9, 0.9, 0.3), Score(0.1, 0.1, 0.1), Score(0.5, 0.5, 0.2)], "expected") == [1, 2, 0]
    assert rank([Score(-0.5, None), Score(0.2, None)], "kept") == [1, 0]
    with pytest.raises(LoRWebError, match="rank_by is 'best'; expected one of: both, follows, kept, expected"):
        rank(scores, "best")


def test_the_distance_is_from_the_results_mean_and_halfway_to_what_is_expected():
    greys = [0.2, 0.4, 0.9]
    results = [torch.full((32, 32, 3), grey) for grey in greys]
    got = [s.distance for s in score(MeanColours(), *half_changed(), results[0], results)]
    assert got == pytest.approx([(grey - 0.5) ** 2 for grey in greys], abs=1e-6)
    told = score(MeanColours(), *half_changed(), results[0], results, torch.zeros(16, 16, 3))
    assert [s.distance for s in told] == pytest.approx([(grey - 0.25) ** 2 for grey in greys], abs=1e-6)
    assert rank(told, "expected") == [0, 1, 2]


def test_results_of_other_sizes_have_a_distance_at_bs_size():
    b = plain(0.5, 0.5, 0.5, size=(32, 48))
    results = [plain(0.2, 0.2, 0.2), plain(0.6, 0.6, 0.6, size=(64, 20))]
    got = [s.distance for s in score(MeanColours(), *half_changed(), b, results)]
    assert got == pytest.approx([0.04, 0.04], abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"a": torch.rand(2, 32, 32, 3)}, "2 a's and 1 a_primes"),
        ({"b": torch.rand(2, 32, 32, 3)}, "2 b's; results can be compared if they are all of one"),
        ({"b_primes": [torch.rand(32, 32, 3), torch.rand(1, 4, 9, 3)]}, "b_prime is 9×4 pixels"),
        ({"b_primes": []}, "b_prime is an empty list"),
        ({"b_primes": torch.rand(2, 32, 32)}, r"b_prime has the shape \(1, 2, 32, 32\)"),
        ({"b_primes": torch.full((3, 32, 32, 3), torch.nan)}, "Image 1 of 3 in b_prime has NaN.*fp32-vae"),
        ({"a": torch.full((32, 32, 3), torch.inf)}, "Image 1 of 1 in a has NaN or infinite"),
    ],
)
def test_images_that_cannot_be_scored_are_named(encoder, changed, words):
    images = {name: torch.rand(32, 32, 3) for name in ("a", "a_prime", "b", "b_primes")}
    with pytest.raises(LoRWebError, match=words):
        score(encoder, **images | changed)
    assert encoder.passes == []


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize(("count", "size"), [(1, (32, 32)), (4, (24, 90)), (12, (200, 20)), (20, (60, 50))])
def test_the_picture_shows_every_result_and_frames_the_best(theme, count, size):
    a, a_prime = half_changed()
    b = plain(0.5, 0.5, 0.5, size=size)
    # The first shade is the best one's.
    shades = [((i * 7 + 3) % 256 / 255, 0.9, 0.1) for i in range(count)]
    results = [plain(*shade, size=size) for shade in shades]
    scores = [Score(1 - i / 10, None if count == 1 else 1 - i / 20) for i in range(count)]
    image = score_picture(one_analogy(a, a_prime, b), results, scores, rank(scores), theme)
    levels = (image * 255).round().to(torch.uint8).reshape(-1, 3)
    drawn = {tuple(level) for level in levels.unique(dim=0).tolist()}
    for shade in shades:
        assert tuple(round(255 * value) for value in shade) in drawn
    assert image.shape[1] < 2600
    frame = torch.tensor({"dark": (110, 200, 120), "light": (20, 128, 60)}[theme], dtype=torch.uint8)
    down, right = (levels.view(*image.shape) == frame).all(-1).nonzero().unbind(1)
    assert right.min() < 12  # the first place is at the left
    assert down.max() < image.shape[0] - 40
