from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lorweb_core import LoRWebError, Mixture, load_basis
from lorweb_core.space.blend import blend
from lorweb_core.space.mixture_map import lora_shares, map_mixtures, mixture_view, principal_coordinates


@pytest.fixture
def basis(weights, save):
    weights["transformer.transformer_blocks.0.attn.to_q.alpha"] = torch.tensor(6.0)
    return load_basis(save(weights, lora_softmax=False, query_mode="cat-aa'b"))


@pytest.fixture
def mixtures(basis):
    generator = torch.Generator().manual_seed(1)
    return [basis.route(torch.randn(12, generator=generator)) for _ in range(5)]


def change(mixture: Mixture) -> torch.Tensor:
    """ΔW of all layers as one vector."""
    return torch.cat([mixture.delta(layer).double().flatten() for layer in mixture.basis.layers])


def distances(points: torch.Tensor) -> torch.Tensor:
    return torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")


def test_three_mixtures_are_as_far_apart_as_their_changes(mixtures):
    points, seen = map_mixtures(mixtures[:3])
    expected = distances(torch.stack([change(mixture) for mixture in mixtures[:3]]))
    torch.testing.assert_close(distances(points), expected, rtol=1e-4, atol=1e-7)
    assert seen == pytest.approx(1)


def test_more_mixtures_lie_as_the_best_plane_through_their_changes_has_them(mixtures):
    points, seen = map_mixtures(mixtures)
    changes = torch.stack([change(mixture) for mixture in mixtures])
    u, s, _ = torch.linalg.svd(changes - changes.mean(0), full_matrices=False)
    torch.testing.assert_close(distances(points), distances(u[:, :2] * s[:2]), rtol=1e-3, atol=1e-6)
    assert seen == pytest.approx(float(s[:2].square().sum() / s.square().sum()), rel=1e-4)
    assert (points.gather(0, points.abs().argmax(0, keepdim=True)) > 0).all()


def test_a_blend_lies_where_its_weights_say(mixtures):
    weights = [0.3, 0.5, 0.2]
    points, _ = map_mixtures([*mixtures[:3], blend(mixtures[:3], weights)])
    torch.testing.assert_close(points[3], torch.tensor(weights, dtype=torch.float64) @ points[:3], rtol=0, atol=1e-6)


def test_a_batch_lies_at_its_mean(mixtures, basis):
    batch = replace(
        mixtures[0], coefficients={k: torch.stack([m.coefficients[k] for m in mixtures[:2]]) for k in basis.layers}
    )
    points, _ = map_mixtures([*mixtures[:2], batch])
    torch.testing.assert_close(points[2], points[:2].mean(0), rtol=0, atol=1e-6)
    means = torch.stack([lora_shares(mixture) for mixture in mixtures[:2]]).mean(0)
    torch.testing.assert_close(lora_shares(batch), means)


def test_shares_are_of_the_sizes_of_the_changes(mixtures, basis):
    for mixture in mixtures:
        sizes = []
        for n in range(4):
            alone = {k: c * (torch.arange(4) == n) for k, c in mixture.coefficients.items()}
            sizes.append(change(replace(mixture, coefficients=alone)).norm())
        sizes = torch.stack(sizes)
        torch.testing.assert_close(lora_shares(mixture), sizes / sizes.sum(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_points_that_are_all_the_same_lie_in_the_middle(n):
    points, seen = principal_coordinates(torch.ones(n, n))
    torch.testing.assert_close(points, torch.zeros(n, 2, dtype=torch.float64), rtol=0, atol=1e-7)
    assert 0 <= seen <= 1


def test_a_view_is_strict_json_with_the_point_of_weights_of_0(mixtures):
    view = mixture_view(mixtures[:2])
    json.dumps(view, allow_nan=False)
    nothing = torch.zeros_like(change(mixtures[0]))
    expected = distances(torch.stack([*(change(mixture) for mixture in mixtures[:2]), nothing]))
    torch.testing.assert_close(distances(torch.tensor(view["points"])), expected, rtol=1e-3, atol=1e-5)
    assert [len(shares) for shares in view["shares"]] == [4, 4]
    assert view["seen"] == 1

    from_origin = [replace(mixture, origin=mixtures[4]) for mixture in mixtures[:2]]
    expected = distances(torch.stack([change(mixture) for mixture in (*mixtures[:2], mixtures[4])]))
    points = torch.tensor(mixture_view(from_origin, "no edit")["points"])
    torch.testing.assert_close(distances(points), expected, rtol=1e-3, atol=1e-5)


def test_mixtures_of_two_bases_have_no_map(mixtures, weights, save):
    other = load_basis(save({k: t + 1 for k, t in weights.items()}, name="other", query_mode="cat-aa'b"))
    with pytest.raises(LoRWebError, match="of two bases"):
        map_mixtures([mixtures[0], other.route(torch.ones(12))])
