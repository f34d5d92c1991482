"""What the study of chosen edits asks, and how it judges what came out."""

import pytest
import torch

from lorweb_core.training.run_state import read_state
from small_world import choices, study, study_report
from small_world.choices import Asked, Choice, ask, judge
from small_world.choose_study import AS_IT_IS, CEILING, table
from small_world.models import other_basis, stored
from small_world.models.one_cycle import Kept
from small_world.study import Variant
from small_world.world.benchmark import open_benchmark
from small_world.world.drawn_grids import floats
from small_world.world.plain import edits
from small_world.worlds import PLAIN


@pytest.fixture(scope="module")
def asked() -> Asked:
    return ask(Choice([("sun", "orange"), ("autumn", "stripes")]), 0, stored.load_autoencoder(PLAIN).encode)


def test_all_that_is_made_is_judged_as_wanted_and_unwanted_change(asked):
    b, wanted = floats(asked.analogies.tasks).unbind(1)
    assert judge(wanted, asked)[:3] == pytest.approx((0, 1, 0), abs=1e-5)
    assert judge(asked.all_made, asked)[1:3] == pytest.approx((1, 1), abs=1e-5)
    assert judge(b, asked)[1:] == (0, 0, 2)


def test_a_blend_is_judged_by_its_weights(asked):
    b, wanted = floats(asked.analogies.tasks).unbind(1)
    made = b + 0.75 * (wanted - b) + 0.25 * (asked.all_made - wanted)
    assert judge(made, asked)[1:3] == pytest.approx((0.75, 0.25), abs=1e-5)
    assert judge(made, asked).error == pytest.approx((made - wanted).square().mean().item())


def test_of_wanted_changes_alone_nothing_unwanted_is_made():
    both = ask(Choice([("sun", "orange")], wanted=2), 0, stored.load_autoencoder(PLAIN).encode)
    b, wanted = floats(both.analogies.tasks).unbind(1)
    assert judge(b + 0.75 * (wanted - b), both)[1:] == pytest.approx((0.75, 0, 1), abs=1e-5)


def test_a_masked_example_shows_the_wanted_change_alone(asked):
    for whole, masked in zip(asked.whole, asked.masked, strict=True):
        ((a, a_prime),), ((kept, chosen),) = whole.pairs, masked.pairs
        assert torch.equal(kept, a)
        assert (chosen != a).any()
        assert (chosen != a_prime).any()
    ((a, chosen),) = asked.masked[0].pairs
    middle = slice(24, 40)
    assert torch.equal(chosen[middle, middle], a[middle, middle])  # the sun is far from there
    assert (chosen[:16, 48:] != a[:16, 48:]).any()


def test_edits_that_a_mask_parts_are_new_pairs_in_both_orders():
    parted = choices.parted_pairs()
    assert {tuple(sorted(edit)) for edit in parted} <= {tuple(sorted(edit)) for edit in edits.split()[1]}
    assert {edit[::-1] for edit in parted} == set(parted)


def test_triples_set_three_attributes_that_the_basis_knows():
    known = {edit[0] for edit in edits.split()[0] if len(edit) == 1}
    for triple in choices.triples():
        assert len({edits.SINGLE[name][0] for name in triple}) == 3
        assert set(triple) <= known


def test_the_table_holds_errors_against_the_ceiling():
    row = {"basis": "ca'-ca", "question": "one of two", "seed": 0, "wanted": 0.5, "unwanted": 0.25}
    rows = [{**row, "way": CEILING, "error": 0.01}, {**row, "way": AS_IT_IS, "error": 0.03}]
    assert table(rows).splitlines()[-1].endswith("| 0.0300 | 3.00 | 0.50 | 0.25 |")


def test_a_page_has_tables_of_several_names(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table -->\n1\n<!-- end of table -->\n<!-- choices -->\n2\n<!-- end of choices -->\n")
    study_report.write_table(page, "3\n", "choices")
    assert (
        page.read_text() == "<!-- table -->\n1\n<!-- end of table -->\n<!-- choices -->\n3\n<!-- end of choices -->\n"
    )


def test_a_training_that_was_interrupted_comes_to_the_same_basis(tmp_path, monkeypatch):
    monkeypatch.setattr(other_basis, "OTHER", Variant(2, 1, "cat-aa'b", steps=2))
    monkeypatch.setattr(study, "EACH", 1)
    benchmark = open_benchmark(PLAIN)
    few = benchmark.analogies("new_edits")
    benchmark = benchmark._replace(analogies=lambda *_: few)
    monkeypatch.setattr(other_basis, "CACHE", tmp_path / "whole")
    whole = other_basis.other_basis(benchmark)

    def interrupted(kept, state):
        write(kept, state)
        raise KeyboardInterrupt

    write = Kept.write
    monkeypatch.setattr(other_basis, "CACHE", tmp_path / "parts")
    monkeypatch.setattr(Kept, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        other_basis.other_basis(benchmark)
    (kept,) = (tmp_path / "parts").iterdir()
    assert read_state(kept).state["done"] == 1
    monkeypatch.setattr(Kept, "write", write)
    resumed = other_basis.other_basis(open_benchmark(PLAIN)._replace(analogies=lambda *_: few))
    for name, layer in whole.layers.items():
        assert torch.equal(layer.A, resumed.layers[name].A)
        assert torch.equal(layer.B, resumed.layers[name].B)
