from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lorweb_core import LoRWebError
from lorweb_core.grid import Size, area_size, cut_result, grid_sizes, reference_grid
from lorweb_core.layout import LAYOUTS, attention_bias, find_layout
from lorweb_core.triplet import Triplet

sides = st.integers(16, 300)
shapes = st.tuples(sides, sides)


def triplet(pairs: int = 1, a=(40, 60), a_prime=(50, 60), b=(90, 70)) -> Triplet:
    return Triplet([(torch.rand(*a, 3), torch.rand(*a_prime, 3)) for _ in range(pairs)], torch.rand(*b, 3))


@pytest.mark.parametrize("pairs", [1, 3])
def test_the_layout_grid_is_the_grid(pairs):
    analogy = triplet(pairs)
    sampled, reference = grid_sizes(Size(40, 60), 0.1, pairs)
    shown = LAYOUTS["grid"].show(analogy, 0.1, "pad")
    (grid,) = shown.references
    assert shown.sampled == sampled
    assert torch.equal(grid, reference_grid(analogy.pairs, analogy.b, sampled, reference, "pad"))
    assert torch.equal(shown.overview, grid)
    decoded = torch.rand(2, *sampled, 3)
    back = LAYOUTS["grid"].result(decoded, Size(90, 70), "pad", pairs)
    assert torch.equal(back, cut_result(decoded, Size(90, 70), "pad", pairs))


@settings(max_examples=40)
@given(a=shapes, b=shapes, fit=st.sampled_from(["stretch", "pad", "crop"]), pairs=st.integers(1, 3))
def test_b_prime_alone_is_sampled_where_b_stands_in_the_grid_shown(a, b, fit, pairs):
    shown = LAYOUTS["grid"].show(triplet(pairs, a, a, b), 0.1, fit, "result")
    (grid,) = shown.references
    height, width = shown.sampled
    assert grid.shape == ((pairs + 1) * height, 2 * width, 3)
    assert height % 16 == width % 16 == 0
    assert (16 * shown.place.row, 16 * shown.place.column) == (pairs * height, width)
    below = grid[pairs * height :]
    torch.testing.assert_close(below[:, :width], below[:, width:])
    # What comes out of the cell is what comes out of a grid that has it in its place.
    made = torch.rand(1, height, width, 3)
    whole = torch.cat([grid[None, : pairs * height], torch.cat([below[None, :, :width], made], 2)], 1)
    for size in (None, Size(*b)):
        alone = LAYOUTS["grid"].result(made, size, fit, pairs, "result")
        assert torch.equal(alone, cut_result(whole, size, fit, pairs))


def test_of_a_sequence_b_prime_is_all_there_is():
    whole, alone = (LAYOUTS["sequence"].show(triplet(), 0.1, "pad", sampled) for sampled in ("grid", "result"))
    assert (alone.sampled, alone.place) == (whole.sampled, (0, 0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_something_else_to_sample_is_refused(layout):
    with pytest.raises(LoRWebError, match="sampled is 'b'; expected one of: grid, result"):
        LAYOUTS[layout].show(triplet(), 0.1, "pad", "b")
    with pytest.raises(LoRWebError, match="sampled is 'b'"):
        LAYOUTS[layout].result(torch.rand(1, 32, 32, 3), None, "pad", 1, "b")


@settings(max_examples=40)
@given(a=shapes, a_prime=shapes, b=shapes, fit=st.sampled_from(["stretch", "pad", "crop"]), pairs=st.integers(1, 3))
def test_a_sequence_is_b_at_the_sampled_size_then_the_pairs_in_as_shape(a, a_prime, b, fit, pairs):
    shown = LAYOUTS["sequence"].show(triplet(pairs, a, a_prime, b), 0.05, fit)
    first, *examples = shown.references
    assert first.shape == (*shown.sampled, 3)
    assert shown.sampled == area_size(Size(*b), 0.05)
    assert [e.shape for e in examples] == [(*area_size(Size(*a), 0.05), 3)] * (2 * pairs)
    assert all(side % 16 == 0 for side in (*shown.sampled, *examples[0].shape[:2]))
    assert shown.overview.shape[0] == min(reference.shape[0] for reference in shown.references)
    back = LAYOUTS["sequence"].result(first[None], Size(*b), fit, pairs)
    assert back.shape == (1, *b, 3)


def test_frame_indices_of_a_sequence_go_from_b_to_the_first_pair_to_the_last():
    """Index = place in the list: b 1, a' 2, a 3. Of flat images only the colour counts."""
    red, green, blue, yellow, white = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]]).float()
    colours = {"a": red, "a'": green, "c": blue, "c'": yellow, "b": white}
    image = {name: colour.expand(32, 32, 3) for name, colour in colours.items()}
    pairs = [(image["a"], image["a'"]), (image["c"], image["c'"])]
    shown = LAYOUTS["sequence"].show(Triplet(pairs, image["b"]), 0.01, "pad")
    for reference, name in zip(shown.references, ("b", "a'", "a", "c'", "c")):
        torch.testing.assert_close(reference, colours[name].expand_as(reference))
    across = shown.overview[0, :: shown.overview.shape[1] // 5]
    torch.testing.assert_close(across[:5], torch.stack([colours[name] for name in ("c", "c'", "a", "a'", "b")]))


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_images_of_one_shape_are_not_cut_or_bordered_in_a_sequence(fit):
    """A shape that multiples of 16 only come near to: a' is laid out exactly as a is."""
    same = torch.rand(33, 47, 3) * 0.5 + 0.5
    _, a_prime, a = LAYOUTS["sequence"].show(Triplet([(same, same)], same), 0.01, fit).references
    assert torch.equal(a_prime, a)


def test_without_b_a_sequences_result_is_what_was_sampled():
    image = torch.rand(2, 32, 48, 3)
    assert torch.equal(LAYOUTS["sequence"].result(image, None, "stretch", 1), image)


weights = st.floats(0.01, 100)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=3, max_size=3), example=weights, b=weights
)
def test_a_sequences_weights_are_per_reference(sizes, example, b):
    bias = attention_bias("sequence", [Size(*s) for s in sizes], 1, example, b)
    expected = [w for (rows, columns), w in zip(sizes, (b, example, example)) for _ in range(rows * columns)]
    torch.testing.assert_close(bias.exp(), torch.tensor(expected))


@given(rows=st.integers(1, 40), columns=st.integers(1, 9), pairs=st.integers(1, 4), example=weights, b=weights)
def test_a_grids_weights_change_at_the_row_where_b_begins(rows, columns, pairs, example, b):
    others = [Size(2, 3)]
    bias = attention_bias("grid", [*others, Size(rows, columns)], pairs, example, b)
    assert not bias[:6].any()
    per_row = bias[6:].view(rows, columns)
    assert torch.equal(per_row, per_row[:, :1].expand(rows, columns))
    for row, logit in enumerate(per_row[:, 0].tolist()):
        above = min(max(rows * pairs / (pairs + 1) - row, 0), 1)  # how much of the row shows pairs
        assert logit == pytest.approx(above * math.log(example) + (1 - above) * math.log(b), abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_weights_that_are_no_numbers_above_0(weight):
    for name, both in {"example_weight": (weight, 1.0), "b_weight": (1.0, weight)}.items():
        with pytest.raises(LoRWebError, match=f"{name} is {weight}; expected a number above 0"):
            attention_bias("grid", [Size(4, 4)], 1, *both)


@pytest.mark.parametrize(
    ("layout", "pairs", "references"), [("grid", 1, 0), ("sequence", 1, 2), ("sequence", 1, 4), ("sequence", 2, 3)]
)
def test_references_of_another_layout(layout, pairs, references):
    with pytest.raises(
        LoRWebError, match=f"given {references} reference images, but the layout '{layout}' with {pairs}"
    ):
        attention_bias(layout, [Size(4, 4)] * references, pairs, 2.0, 1.0)


def test_an_unknown_layout():
    with pytest.raises(LoRWebError, match="'row'; expected one of: .*grid, sequence"):
        find_layout("row")
