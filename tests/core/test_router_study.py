"""The study of better routers: its free points, its regression, and how its results are written down."""

from __future__ import annotations

import pytest
import torch
from training_world import PARTS, Q, TinyBase

from lorweb_core.config import BasisConfig
from lorweb_core.training.trainable_basis import TrainableBasis
from small_world import router_study
from small_world.reach_study import SEEDS
from small_world.router_study import (
    FITTED,
    MEASURED,
    POINTS,
    REGRESSED,
    ROWS,
    SHARPNESS,
    TRAINED,
    jobs,
    places,
    table,
    told,
)
from small_world.worlds import FAMILIES

EDITS = [("a",), ("b", "c"), ("d",)]


def test_each_edit_has_logits_of_its_own():
    torch.manual_seed(0)
    config = BasisConfig(linear=1, loras_num=4, lora_keys_dim=8, query_projection_type="none")
    basis = TrainableBasis({Q: (6, 6)}, config, len(EDITS))
    asked = told(places([EDITS[2], EDITS[0]], EDITS), len(EDITS))
    (layer,) = basis.layers
    expected = (SHARPNESS * layer.keys[:, [2, 0]]).softmax(0).T
    torch.testing.assert_close(basis.route(asked)[Q], expected)


@pytest.mark.parametrize("network", [0, 16])
@pytest.mark.parametrize("mixed", [False, True])
def test_regression_gives_queries_the_points_that_another_router_has(network, mixed, monkeypatch):
    monkeypatch.setattr(router_study, "REGRESSION_STEPS", 200)
    monkeypatch.setattr(router_study, "REGRESSION_RATE", 2e-2)
    base, config = TinyBase(), BasisConfig(linear=2, loras_num=3, lora_keys_dim=4)
    asked = torch.randn(400, PARTS, 4, generator=torch.Generator().manual_seed(2))
    wanted = asked.flatten(1)[:, :3].mul(2).softmax(-1).expand(len(base.shapes), -1, -1)
    torch.manual_seed(3)
    basis = TrainableBasis(base.shapes, BasisConfig(**{**vars(config), "query_network": network}), PARTS * 4)
    loras = [layer.down.clone() for layer in basis.layers]

    def off() -> float:
        return (torch.stack(list(basis.route(asked).values())) - wanted).abs().mean().item()

    before = off()
    router_study.regress(basis, asked, wanted, mixed, seed=0)
    assert off() < before / 3, (off(), before)
    assert all(torch.equal(layer.down, was) for layer, was in zip(basis.layers, loras, strict=True))


def test_workers_share_all_ways_and_those_of_the_same_points_follow_each_other():
    shares = [jobs([], worker, 2) for worker in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted((way, seed) for way in ROWS for seed in SEEDS)
    for ways in ((POINTS, *REGRESSED), ("plain", FITTED)):
        for share in shares:
            seeds = [seed for way, seed in share if way in ways]
            assert seeds == sorted(seeds) and all(seeds.count(seed) == len(ways) for seed in seeds)


def test_what_is_done_is_not_done_again():
    done = [("plain", 1), (POINTS, 2)]
    assert set(jobs([])) - set(jobs(done)) == set(done)


def test_the_kinds_measured_are_all_of_the_world():
    assert set(MEASURED) == set(FAMILIES.measured)


def test_the_ways_ask_for_what_they_are_called():
    config = {name: variant.config(FAMILIES) for name, variant in TRAINED.items()}
    assert config["query_network 256"].query_network == 256 and config["lora_heads 4"].lora_heads == 4
    assert TRAINED["query_dropout 0.1"].settings.query_dropout == 0.1
    assert TRAINED["coefficient_entropy -0.02"].settings.coefficient_entropy == -0.02
    assert {name: variant.settings.steps for name, variant in TRAINED.items() if "steps" in name} == {
        "plain, 400 steps": 400
    }


def test_the_table_has_shares_of_copying_with_their_spread():
    def row(way: str, seed: int, error: float, kinds: tuple[str, ...]) -> dict:
        return {"way": way, "seed": seed, "seconds": 10} | {kind: {"error": error, "copying": 0.1} for kind in kinds}

    lines = table([row(POINTS, 0, 0.01, ("seen",)), row("plain", 0, 0.02, MEASURED), row("plain", 1, 0.04, MEASURED)])
    plain, points = lines.splitlines()[2:]
    assert plain == "| plain | " + " | ".join(["0.300 ± 0.141"] * len(MEASURED)) + " | 10 |"
    assert points == f"| {POINTS} | 0.100 ± 0.000 |" + "  |" * (len(MEASURED) - 1) + " 10 |"
