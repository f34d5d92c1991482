"""What the study of a basis's reach measures, which rows it has, and how it is written down."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch

from lorweb_core.encoder import VisionEncoder
from small_world import reach_report, reach_study, study
from small_world.reach_report import CHARTS, ERROR, bars, by_row, table, values
from small_world.reach_study import KINDS, ROWS, SEEDS, VARIANTS, jobs, means, select, spread_over
from small_world.world.drawn_analogies import Analogies, judge
from small_world.world.drawn_grids import Grids, floats
from small_world.worlds import FAMILIES

SIDE = 64


@pytest.fixture
def colours() -> VisionEncoder:
    """Make an encoder whose embedding is a picture's mean colour."""
    return VisionEncoder(lambda squares: squares.mean((2, 3)), SIDE)


def analogies(*changes: torch.Tensor) -> Analogies:
    """Make analogies whose a and b are of level 60, and whose a' and b' add a change, (3, SIDE, SIDE), to these."""
    before = torch.full((len(changes), 3, SIDE, SIDE), 60, dtype=torch.uint8)
    pairs = torch.stack([before, before + torch.stack(changes)], 1)
    latents = torch.arange(len(changes))[:, None]
    return Analogies(FAMILIES, [(f"edit {i}",) for i in range(len(changes))], pairs, pairs, Grids(latents, -latents))


def levels(level: int, rows: slice) -> torch.Tensor:
    """Make a change of so many levels in the rows."""
    change = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    change[:, rows] = level
    return change


TOP, ALL = slice(0, SIDE // 2), slice(0, SIDE)


def test_half_of_a_change_is_half_along_and_nothing_beside(colours):
    asked = analogies(levels(102, TOP))
    b, b_prime = floats(asked.tasks).unbind(1)
    solved = judge(asked, (b + b_prime) / 2, colours)
    assert solved.copying.tolist() == pytest.approx([0.08])
    assert solved.error.tolist() == pytest.approx([0.02])
    assert solved.along.tolist() == pytest.approx([0.5])
    assert solved.beside.tolist() == pytest.approx([0])
    assert solved.follows.tolist() == pytest.approx([1], abs=1e-4)


def test_a_change_where_none_is_wanted_is_beside_and_not_along(colours):
    asked = analogies(levels(102, TOP))
    made = floats(asked.tasks)[:, 0].clone()
    made[:, :, SIDE // 2 :] -= 0.1
    solved = judge(asked, made, colours)
    assert solved.along.tolist() == pytest.approx([0])
    assert solved.beside.tolist() == pytest.approx([0.01])
    assert solved.follows.tolist() == pytest.approx([-1], abs=1e-4)


def test_what_cannot_be_measured_is_left_out_of_the_mean(colours):
    everywhere, hardly = levels(102, ALL), levels(5, slice(0, 1))
    asked = analogies(levels(102, TOP), everywhere, hardly)
    b, b_prime = floats(asked.tasks).unbind(1)
    solved = judge(asked, b + 0.25 * (b_prime - b), colours)
    assert [math.isnan(share) for share in solved.along] == [False, False, True]
    assert [math.isnan(change) for change in solved.beside] == [False, True, False]
    assert means(solved)["along"] == pytest.approx(0.25)
    alone = judge(analogies(everywhere), b_prime[1:2], colours)
    assert means(alone)["beside"] is None


def test_workers_share_all_rows_and_each_row_is_one_workers():
    shares = [jobs([], worker, 2) for worker in range(2)]
    assert sorted(chain(*shares)) == sorted((name, seed) for name in ROWS for seed in SEEDS)
    first, second = ({name for name, _ in share} for share in shares)
    assert not first & second


def test_what_is_done_is_not_done_again():
    done = [("16 × 1", 0), ("16 × 1", 2)]
    assert set(jobs([])) - set(jobs(done)) == set(done)


def test_analogies_are_spread_over_all_of_a_kind():
    assert spread_over(40, 16).tolist() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37]
    assert spread_over(3, 16).tolist() == [0, 1, 2]


def test_chosen_analogies_keep_what_belongs_together():
    asked = analogies(*(levels(level, TOP) for level in (10, 20, 30)))
    chosen = select(asked, torch.tensor([2, 0]))
    assert chosen.edits == [("edit 2",), ("edit 0",)]
    assert chosen.tasks[:, 1, 0, 0, 0].tolist() == chosen.examples[:, 1, 0, 0, 0].tolist() == [90, 70]
    assert chosen.grids.target.flatten().tolist() == [2, 0]
    assert chosen.grids.reference.flatten().tolist() == [-2, 0]


def test_bases_of_one_size_have_as_many_values_of_loras():
    sizes = {name: variant.n * variant.rank for name, variant in VARIANTS.items()}
    assert {name for name, size in sizes.items() if size != 16} == {"32 × 1", "1 × 64"}
    assert {(variant.steps, variant.batch) for variant in VARIANTS.values()} == {(300, 32)}


def row(name: str, seed: int, error: float, **others: float | None) -> dict:
    of_kind = {"error": error, "copying": 0.1, "follows": 0.5, "along": 0.75, "beside": 0.002, **others}
    return {"row": name, "seed": seed, "loras": 1000, "router": 20} | {kind: of_kind for kind in KINDS}


def test_the_table_has_shares_of_copying_with_their_spread_in_the_order_of_rows():
    found = by_row([row("16 × 1", 0, 0.02), row("4 × 4", 0, 0.05), row("16 × 1", 1, 0.04, beside=None)])
    lines = table(found).splitlines()
    assert lines[3] == "| 4 × 4 | 1,000 + 20 | 1 | " + " | ".join(["0.50"] * len(KINDS)) + " |"
    assert lines[4] == "| 16 × 1 | 1,000 + 20 | 2 | " + " | ".join(["0.30 ± 0.14"] * len(KINDS)) + " |"
    assert lines[-2] == "| 16 × 1 | 1,000 + 20 | 2 | " + " | ".join(["2.00"] * len(KINDS)) + " |"
    assert (
        lines[-1] == "| **error of copying b, of what bases solve** | | | " + " | ".join(["0.1000"] * len(KINDS)) + " |"
    )


def test_errors_are_shares_of_copying_and_changes_beside_are_in_thousandths():
    seeds = [row("16 × 1", 0, 0.02)]
    assert values(seeds, "whole", ERROR) == pytest.approx([0.2])
    assert values(seeds, "whole", "beside") == pytest.approx([2])


def test_every_plot_shows_rows_that_there_are_and_all_rows_are_shown():
    assert {name for chart in CHARTS for name in chart.rows} == set(ROWS)
    found = by_row([row("16 × 1", 0, 0.02), row("16 × 1", 1, 0.04)])
    groups = bars(found, CHARTS[0])
    assert groups == {"16 x 1": {label: pytest.approx((0.3, 0.02**0.5)) for label in reach_report.LABELS.values()}}


def test_the_page_has_the_table_of_what_was_measured():
    assert table(by_row(study.read(reach_study.RESULTS))) in reach_report.PAGE.read_text(encoding="utf-8")
