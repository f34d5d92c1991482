from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorweb_core import LoRWebError, load_basis
from lorweb_core.pictures.similarity_picture import similarity_picture
from lorweb_core.space.similarity import Similarity, basis_similarity, compare_loras, similar_together


def dense(weights: dict, *having: str) -> torch.Tensor:
    """The changes of the 4 LoRAs over the layers with one of these in their names, (4, …)."""
    layers = [name.removesuffix(".lora_A") for name in weights if name.endswith(".lora_A")]
    return torch.cat(
        [
            (weights[f"{layer}.lora_A"].double() @ weights[f"{layer}.lora_B"].double()).flatten(1)
            for layer in layers
            if not having or any(part in layer for part in having)
        ],
        1,
    )


@pytest.fixture
def basis(weights, save):
    return load_basis(save(weights))


def test_it_is_the_cosine_of_the_dense_changes_of_all_layers_together(weights, basis):
    changes = dense(weights)
    directions = changes / changes.norm(dim=1, keepdim=True)
    torch.testing.assert_close(basis_similarity(basis), directions @ directions.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(compare_loras(basis).sizes, changes.norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("chosen", "having", "count"),
    [
        ({"blocks": "single"}, [".single_"], 6),
        ({"kind": "MLP"}, [".ff", "proj_mlp", "proj_out"], 6),
        ({"kind": "attention", "stream": "text"}, ["add_"], 4),
    ],
)
def test_it_may_be_over_some_layers_only(weights, basis, chosen, having, count):
    changes = dense(weights, *having)
    directions = changes / changes.norm(dim=1, keepdim=True)
    torch.testing.assert_close(basis_similarity(basis, **chosen), directions @ directions.T, rtol=0, atol=1e-6)
    assert compare_loras(basis, **chosen).layers == count


def test_alike_opposite_and_empty_loras_are_seen_as_such(weights, save):
    for name, tensor in weights.items():
        if name.endswith("lora_B"):
            tensor[1] = 2 * tensor[0]
            tensor[3] = 0
        if name.endswith("lora_A"):
            tensor[1] = -tensor[0]
    cosines = basis_similarity(load_basis(save(weights)))
    assert float(cosines[0, 1]) == pytest.approx(-1)
    assert cosines.diagonal()[:3].tolist() == pytest.approx([1, 1, 1])
    assert not cosines[3].any()
    similarity = compare_loras(load_basis(save(weights, name="again")))
    assert similarity.sizes[3] == 0
    assert similarity_picture(similarity).isfinite().all()


def test_families_lie_together_in_the_order():
    families = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0])
    order = similar_together((families[:, None] == families).double())
    ordered = families[order].tolist()
    assert sum(a != b for a, b in itertools.pairwise(ordered)) == 2


@given(st.permutations(range(9)))
def test_what_lies_on_a_line_comes_back_in_line(places):
    angles = torch.tensor([0.0, 0.3, 0.5, 0.6, 0.65, 0.85, 1.2, 1.25, 1.5], dtype=torch.float64)[places]
    order = similar_together((angles[:, None] - angles).cos())
    assert [places[i] for i in order] in (list(range(9)), list(range(8, -1, -1)))


@given(st.integers(1, 20), st.integers(0, 2**31))
def test_the_order_has_every_lora_once(n, seed):
    rows = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    assert sorted(similar_together((rows @ rows.T).double())) == list(range(n))


def test_the_json_is_strict_and_in_the_order_of_the_indices(basis):
    similarity = compare_loras(basis, blocks="double")
    said = json.loads(similarity.to_json())
    assert (said["basis"], said["loras"], said["layers"]) == ("basis.safetensors", 4, 14)
    assert said["order"] == similarity.order
    for row, expected in zip(said["cosines"], similarity.cosines.tolist()):
        assert row == pytest.approx(expected, rel=1e-6)
    assert said["sizes"] == pytest.approx(similarity.sizes.tolist(), rel=1e-6)


@pytest.mark.parametrize("n", [1, 4, 64, 200])
def test_pictures_are_of_sensible_sizes_and_differ(n):
    rows = torch.nn.functional.normalize(torch.randn(n, 9).double(), dim=1)
    cosines = rows @ rows.T
    dark, light, other = (
        similarity_picture(Similarity("basis", 5, values, torch.ones(n), similar_together(cosines)), theme)
        for values, theme in ((cosines, "dark"), (cosines, "light"), (cosines * torch.eye(n), "dark"))
    )
    for size in dark.shape[:2]:
        assert 380 <= size <= 1600
    assert light.mean() > dark.mean()
    assert torch.equal(dark, other) == (n == 1)


def test_bad_choices_are_said(basis):
    with pytest.raises(LoRWebError, match=r"blocks is 'triple'"):
        basis_similarity(basis, blocks="triple")
    with pytest.raises(LoRWebError, match=r"The basis has no layer of blocks 'double 7'"):
        basis_similarity(basis, blocks="double 7")
    with pytest.raises(LoRWebError, match=r"theme is 'pink'"):
        similarity_picture(compare_loras(basis), "pink")
