"""Bases merged and pruned: against what each gives alone, and against dense sums over the LoRAs kept."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
import standins
import torch
import yaml
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from torch import nn

from lorweb_core import LoRABasis, LoRWebError, Mixture, load_basis
from lorweb_core.basis_file import is_written_basis
from lorweb_core.config import read_config
from lorweb_core.files.new_file import written_metadata
from lorweb_core.pictures.share_picture import draw_shares
from lorweb_core.routing import Tokens
from lorweb_core.runtime import LayerSlice, PackedBasis, RuntimeMixture
from lorweb_core.space.blend import blend
from lorweb_core.space.edit import Edit, edit
from lorweb_core.space.merging import merge_bases
from lorweb_core.space.pruning import carry_over, largest_shares, prune_basis, unused

TO_Q, FF = "transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.ff.net.2"
BLOCKS = {"transformer_blocks.0": {"attn.to_q": (16, 16), "ff.net.2": (24, 16)}}
SQUARE = {"transformer_blocks.0": {"attn.to_q": (16, 16), "attn.to_k": (16, 8)}}
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 1e-5}


def a_basis(
    path: Path,
    n: int = 4,
    rank: int = 2,
    keys: int = 8,
    query: int | None = 12,
    dtype: torch.dtype = torch.float16,
    alpha: float | None = None,
    projected: bool = True,
    blocks: dict = BLOCKS,
    seed: int = 0,
    **network_kwargs,
) -> LoRABasis:
    weights = standins.basis(blocks, n, rank, keys if projected else query or 16, query, seed=seed)
    weights = {name: t.to(dtype) for name, t in weights.items() if projected or "att_lora_to_q" not in name}
    if alpha is not None:
        weights |= {f"{name[:-7]}.alpha": torch.tensor(alpha) for name in weights if name.endswith(".lora_A")}
    save_file(weights, path)
    kwargs = {"query_mode": "aa'bb'", "external_query": query is not None, **network_kwargs}
    path.with_suffix(".yaml").write_text(
        yaml.safe_dump({"config": {"process": [{"network": {"network_kwargs": kwargs}}]}})
    )
    return load_basis(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def dense_delta(basis: LoRABasis, layer: str, coefficients: torch.Tensor, only: list[int] | None = None):
    part = basis.layers[layer]
    chosen = range(len(part.A)) if only is None else only
    return part.scale * sum(coefficients[n].double() * (part.A[n].double() @ part.B[n].double()).T for n in chosen)


parts = st.fixed_dictionaries(
    {
        "n": st.integers(1, 5),
        "rank": st.integers(1, 3),
        "keys": st.sampled_from([4, 8, 20]),
        "dtype": st.sampled_from(list(ROUNDING)),
        "alpha": st.sampled_from([None, 2.0, -3.0, 0.7]),
    }
)


@settings(max_examples=60)
@given(
    one=parts,
    other=parts,
    heads=st.sampled_from([1, 2, 4]),
    softmax=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    projected=st.booleans(),
    tokens=st.integers(1, 3),
)
def test_each_part_of_a_merged_basis_is_routed_as_alone_and_the_changes_add_up(
    one, other, heads, softmax, reduction, projected, tokens
):
    routing = {"lora_heads": heads, "lora_softmax": softmax, "mixing_coeffs_type": reduction}
    with tempfile.TemporaryDirectory() as folder:
        bases = [
            a_basis(Path(folder, f"{seed}.safetensors"), **part, **routing, projected=projected, seed=seed)
            for seed, part in enumerate((one, other))
        ]
        merged = merge_bases(*bases, Path(folder, "merged.safetensors"))
        query = torch.randn(1, tokens, 12)
        alone, together = [basis.route(query) for basis in bases], merged.route(query)
    for layer in merged.layers:
        expected = torch.cat([mixture.coefficients[layer] for mixture in alone])
        torch.testing.assert_close(together.coefficients[layer], expected, rtol=0, atol=1e-6)
        deltas = [dense_delta(basis, layer, m.coefficients[layer]) for basis, m in zip(bases, alone)]
        # With two scales one part's B was rounded again.
        scales = {basis.layers[layer].scale for basis in bases}
        error = 1e-5 if len(scales) == 1 else max(1e-5, *(ROUNDING[part["dtype"]] for part in (one, other)))
        size = sum(float(delta.norm()) for delta in deltas)
        assert (together.delta(layer).double() - sum(deltas)).norm() <= error * size + 1e-9


def test_a_merged_basis_merges_again_and_stays_in_its_parts(folder):
    bases = [a_basis(folder / f"{n}.safetensors", n=n, keys=4 * n, seed=n) for n in (2, 3, 4)]
    both = merge_bases(*bases[:2], folder / "both.safetensors")
    three = merge_bases(bases[2], both, folder / "three.safetensors")
    assert (both.config.lora_parts, three.config.lora_parts) == ((2, 3), (4, 2, 3))
    query = torch.randn(12)
    for layer, coefficients in three.route(query).coefficients.items():
        expected = torch.cat([bases[i].route(query).coefficients[layer] for i in (2, 0, 1)])
        torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(coefficients.sum(), torch.tensor(3.0))


def test_the_file_has_the_published_names_and_the_config_says_how_it_is_routed(folder):
    one = a_basis(folder / "one.safetensors", rank=2, lora_heads=2, mixing_coeffs_type="sum")
    other = a_basis(folder / "other.safetensors", n=3, rank=3, keys=4, lora_heads=2, mixing_coeffs_type="sum")
    merge_bases(one, other, folder / "merged.safetensors")
    shapes = {"lora_A": (7, 16, 3), "lora_B": (7, 3, 16), "lora_keys": (7, 12), "att_lora_to_q.weight": (12, 12)}
    held = load_file(folder / "merged.safetensors")
    assert len(held) == 2 * 4
    assert {name: tuple(held[f"{TO_Q}.{name}"].shape) for name in shapes} == shapes
    assert {name: held[f"{TO_Q}.{name}"].dtype for name in ("lora_A", "att_lora_to_q.weight", "lora_keys")} == {
        "lora_A": torch.float16,
        "att_lora_to_q.weight": torch.float16,
        "lora_keys": torch.float32,
    }
    assert read_config(folder / "merged.yaml") == {
        "linear": 3,
        "loras_num": 7,
        "lora_keys_dim": 12,
        "lora_heads": 2,
        "lora_softmax": True,
        "mixing_coeffs_type": "sum",
        "external_query": True,
        "external_query_model": "openai/clip-vit-large-patch14",
        "query_projection_type": "linear",
        "query_mode": "aa'bb'",
        "pooling_type": "avg",
        "lora_parts": (4, 3),
    }


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("softmax", [True, False])
def test_an_activation_routed_merged_basis_adds_what_both_add(folder, projected, softmax):
    inside = {"query": None, "projected": projected, "blocks": SQUARE, "lora_softmax": softmax, "dtype": torch.float32}
    bases = [a_basis(folder / f"{n}.safetensors", n=n, keys=4 * n, seed=n, **inside) for n in (2, 3)]
    merged = merge_bases(*bases, folder / "merged.safetensors")
    assert not merged.config.external_query
    x, outputs = torch.randn(2, 10, 16), []
    linear = nn.Linear(16, 24)
    for applied in (bases, [merged]):
        model = nn.Sequential(linear)
        with torch.no_grad(), ExitStack() as attached:
            for basis in applied:
                attached.enter_context(attach(model, basis))
            outputs.append(model(x))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs[0], linear(x), atol=1e-2)


def attach(model: nn.Module, basis: LoRABasis) -> AbstractContextManager[None]:
    starts = {"transformer.transformer_blocks.0.attn.to_q": 0, "transformer.transformer_blocks.0.attn.to_k": 16}
    packed = PackedBasis(basis, {"0": [LayerSlice(name, starts[name]) for name in basis.layers]}, torch.float32)
    return RuntimeMixture(Mixture(basis, {}), 1.0).attached(model, packed, 2, Tokens(0, 0))


@pytest.mark.parametrize("softmax", [True, False])
def test_what_is_done_to_logits_of_a_merged_basis_is_done_to_each_part(folder, softmax):
    bases = [a_basis(folder / f"{n}.safetensors", n=n, seed=n, lora_softmax=softmax) for n in (2, 3)]
    merged = merge_bases(*bases, folder / "merged.safetensors")
    queries = torch.randn(2, 12)

    def changed(basis: LoRABasis) -> torch.Tensor:
        x, y = (edit(basis.route(query), Edit(temperature=0.6)) for query in queries)
        return blend([x, y], [1.5, -0.4], "logits").table

    expected = torch.cat([changed(basis) for basis in bases], -1)
    torch.testing.assert_close(changed(merged), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_heads": 2}, "lora_heads is 1 in the first and 2 in the second"),
        ({"lora_softmax": False}, "lora_softmax is True in the first and False"),
        ({"mixing_coeffs_type": "sum"}, "mixing_coeffs_type is mean in the first and sum"),
        ({"query_mode": "caa'b"}, "query_mode is aa'bb' in the first and caa'b"),
        ({"query": 16}, "Q, the width of the query, of layer .*to_q is 12 in the first and 16"),
        ({"projected": False}, "query_projection_type is linear in the first and none"),
        ({"query": None}, "external_query is True in the first and False"),
        (
            {"external_query_model": "google/siglip2-base-patch16-224"},
            "external_query_model is openai/clip-vit-large-patch14 in the first and google",
        ),
        ({"blocks": SQUARE}, r"layer \S+attn.to_k is missing in the first and there"),
        (
            {"blocks": {"transformer_blocks.0": {"attn.to_q": (8, 16), "ff.net.2": (24, 16)}}},
            "width of the input of layer .*to_q is 16 in the first and 8",
        ),
        (
            {"blocks": {"transformer_blocks.0": {"attn.to_q": (16, 16), "ff.net.2": (24, 32)}}},
            "width of the output of layer .*ff.net.2 is 16 in the first and 32",
        ),
    ],
)
def test_bases_of_two_layouts_are_refused(folder, changes, words):
    one = a_basis(folder / "one.safetensors")
    other = a_basis(folder / "other.safetensors", **changes)
    with pytest.raises(LoRWebError, match=f"one.safetensors and other.safetensors cannot be merged: .*{words}"):
        merge_bases(one, other, folder / "merged.safetensors")
    assert not list(folder.glob("*merged*"))


def test_how_tokens_are_pooled_matters_only_where_they_are(folder):
    pooled = [{"pooling_type": pooling, "blocks": SQUARE} for pooling in ("avg", "max")]
    inside = [a_basis(folder / f"i{i}.safetensors", query=None, **p) for i, p in enumerate(pooled)]
    with pytest.raises(LoRWebError, match="pooling_type is avg in the first and max"):
        merge_bases(*inside, folder / "merged.safetensors")
    merge_bases(*(a_basis(folder / f"{i}.safetensors", **p) for i, p in enumerate(pooled)), folder / "m.safetensors")


@pytest.mark.parametrize("parts", [[4, 4], [9]])
def test_parts_that_are_not_all_loras_are_another_basiss(folder, parts):
    with pytest.raises(LoRWebError, match=r"basis.yaml says lora_parts: .* LoRAs in all, but basis.safetensors: .* 4"):
        a_basis(folder / "basis.safetensors", lora_parts=parts)


@pytest.mark.parametrize("parts", [[], 4, "4", [4, 0], [2.0, 2], [True, 3], {"a": 4}])
def test_parts_that_are_no_list_of_numbers(folder, parts):
    with pytest.raises(LoRWebError, match="basis.yaml: lora_parts is .*expected a list of whole numbers above 0"):
        a_basis(folder / "basis.safetensors", lora_parts=parts)


# --- dropping what is not used


def mixtures_of(basis: LoRABasis) -> list[Mixture]:
    """One of a single analogy and one of a batch of two; LoRA 1 is used by neither, and 2 hardly."""
    weak = torch.tensor([1.0, 0.0, 1e-3, 1.0])
    single = {layer: torch.rand(4) * weak for layer in basis.layers}
    return [Mixture(basis, single), Mixture(basis, {layer: torch.randn(2, 4) * weak for layer in basis.layers})]


def test_shares_are_those_of_dense_matrices(folder):
    basis = a_basis(folder / "basis.safetensors", alpha=3.0)
    mixtures = mixtures_of(basis)
    tables = [m for mixture in mixtures for m in mixture.split()]
    shares = []
    for mixture in tables:
        norms = [
            sum(dense_delta(basis, layer, c, [n]).norm() ** 2 for layer, c in mixture.coefficients.items()) ** 0.5
            for n in range(4)
        ]
        shares.append(torch.stack(norms) / sum(norms))
    expected = torch.stack(shares).amax(0)
    torch.testing.assert_close(largest_shares(mixtures), expected, rtol=1e-4, atol=1e-9)
    assert unused(mixtures, 0.01) == [1, 2]
    assert unused(mixtures, float(expected[2]) / 2) == [1]
    assert unused([Mixture(basis, {layer: torch.zeros(4) for layer in basis.layers})], 0.01) == [0, 1, 2, 3]


@pytest.mark.parametrize("softmax", [True, False])
def test_a_pruned_basis_keeps_what_its_mixtures_do(folder, softmax):
    basis = a_basis(folder / "basis.safetensors", alpha=3.0, lora_softmax=softmax, lora_heads=2, keys=6)
    mixtures = mixtures_of(basis)
    smaller, kept, shares = prune_basis(basis, mixtures, folder / "smaller.safetensors", 0.01)
    assert kept == [0, 3]
    assert len(shares) == 4
    assert (smaller.config.loras_num, smaller.config.lora_parts, smaller.config.lora_heads) == (2, None, 2)
    for mixture in mixtures[0], *mixtures[1].split():
        carried = carry_over(mixture, kept, smaller)
        assert carried.basis is smaller
        for layer, c in mixture.coefficients.items():
            expected = dense_delta(basis, layer, c, kept)
            torch.testing.assert_close(carried.delta(layer).double(), expected, rtol=1e-5, atol=1e-6)
    assert carry_over(mixtures[1], kept, smaller).analogies == 2
    origin = carry_over(replace(mixtures[0], origin=mixtures[1]), kept, smaller).origin
    assert torch.equal(origin.table, mixtures[1].table[..., kept])
    query = torch.randn(12)
    for layer, new in smaller.route(query).coefficients.items():
        old = basis.route(query).coefficients[layer][kept]
        if not softmax:
            torch.testing.assert_close(new, old)
        for name in ("A", "B", "keys"):
            assert torch.equal(getattr(smaller.layers[layer], name), getattr(basis.layers[layer], name)[kept])


def test_a_merged_basis_pruned_keeps_the_parts_that_are_left(folder):
    bases = [a_basis(folder / f"{n}.safetensors", n=n, seed=n) for n in (2, 1, 3)]
    merged = merge_bases(merge_bases(*bases[:2], folder / "two.safetensors"), bases[2], folder / "three.safetensors")
    used = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    mixture = Mixture(merged, dict.fromkeys(merged.layers, used))
    smaller, kept, _ = prune_basis(merged, [mixture], folder / "smaller.safetensors")
    assert kept == [1, 3, 5]
    assert smaller.config.lora_parts == (1, 2)
    coefficients = smaller.route(torch.randn(12)).coefficients[TO_Q]
    torch.testing.assert_close(coefficients[:1], torch.ones(1))
    torch.testing.assert_close(coefficients[1:].sum(), torch.tensor(1.0))


def test_pruning_that_cannot_be_done_says_why(folder):
    basis, path = a_basis(folder / "basis.safetensors"), folder / "smaller.safetensors"
    even = Mixture(basis, {layer: torch.ones(4) for layer in basis.layers})
    shares = largest_shares([even])
    with pytest.raises(LoRWebError, match=f"nothing to drop: .*basis.safetensors.*1.00%.*least.*{shares.min():.2%}"):
        prune_basis(basis, [even], path)
    with pytest.raises(LoRWebError, match=f"Nothing would be left: .*90.00%.*most used has {shares.max():.2%}"):
        prune_basis(basis, [even], path, 0.9)
    with pytest.raises(LoRWebError, match="no mixture to tell"):
        prune_basis(basis, [], path)
    for share in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(LoRWebError, match=f"share is {share}"):
            prune_basis(basis, [even], path, share)
    other = a_basis(folder / "other.safetensors", seed=1)
    with pytest.raises(LoRWebError, match=r"two bases, other.safetensors and basis.safetensors"):
        prune_basis(other, [even], path)
    with pytest.raises(LoRWebError, match="two bases"):
        prune_basis(basis, [even, other.route(torch.randn(12))], path)
    inside = a_basis(folder / "inside.safetensors", query=None)
    with pytest.raises(LoRWebError, match=r"inside.safetensors routes by each layer's own input"):
        prune_basis(inside, [inside.route(None)], path)
    assert not list(folder.glob("*smaller*"))


# --- files


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("older", [True, False])
def test_a_write_that_stops_leaves_both_files_as_they_were(folder, older):
    one, other = (a_basis(folder / f"{seed}.safetensors", seed=seed) for seed in (0, 1))
    path = folder / "merged.safetensors"
    if older:
        a_basis(path, n=8, seed=2)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        merge_bases(one, other, path, stop)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_config_that_cannot_be_replaced_is_known_before_the_tensors_are(folder):
    one, other = (a_basis(folder / f"{seed}.safetensors", seed=seed) for seed in (0, 1))
    path = folder / "merged.safetensors"
    path.write_bytes(b"older")
    path.with_suffix(".yaml").mkdir()
    with pytest.raises(LoRWebError, match=r"merged.yaml could not be written"):
        merge_bases(one, other, path)
    assert path.read_bytes() == b"older"
    assert not list(folder.glob(".*"))


def test_a_config_without_a_basis_of_its_name_is_not_replaced(folder):
    one = a_basis(folder / "one.safetensors")
    (folder / "shards.yaml").write_text("the config of shards.safetensors.index.json")
    with pytest.raises(LoRWebError, match=r"shards.yaml is in .* without shards.safetensors"):
        merge_bases(one, one, folder / "shards.safetensors")
    assert (folder / "shards.yaml").read_text().startswith("the config of")
    assert not (folder / "shards.safetensors").exists()


def test_what_is_written_is_known_as_ours_and_what_was_given_is_not(folder):
    one, other = (a_basis(folder / f"{seed}.safetensors", seed=seed) for seed in (0, 1))
    merge_bases(one, other, folder / "merged.safetensors")
    assert is_written_basis(written_metadata(folder / "merged.safetensors"))
    assert not is_written_basis(written_metadata(folder / "0.safetensors"))


def test_a_basis_is_replaced_together_with_its_config(folder):
    one, other = (a_basis(folder / f"{seed}.safetensors", seed=seed) for seed in (0, 1))
    path = folder / "merged.safetensors"
    a_basis(path, n=8, seed=2, lora_heads=4)
    merge_bases(one, other, path)
    again = load_basis(path)
    assert (again.config.lora_heads, again.config.lora_parts) == (1, (4, 4))


def test_values_that_are_not_finite_are_refused_before_anything_is_written(folder):
    weights = {**standins.basis(BLOCKS, 4, 2, 8, 12)}
    weights[f"{FF}.lora_B"][1, 0, 0] = float("nan")
    save_file(weights, folder / "broken.safetensors")
    one, broken = a_basis(folder / "one.safetensors"), load_basis(folder / "broken.safetensors")
    broken = LoRABasis(broken.layers, one.config, broken.identity)
    with pytest.raises(LoRWebError, match=f"broken.safetensors: B of layer {FF} has NaN"):
        merge_bases(one, broken, folder / "merged.safetensors")
    assert not list(folder.glob("*merged*"))


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("n", [1, 4, 64])
def test_the_picture_has_a_bar_for_each_lora(n, theme):
    shares = torch.linspace(1, 0, n, dtype=torch.float64)
    picture = draw_shares(shares, 0.25, theme)
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.shape[1] <= 1600
    assert not torch.equal(picture, draw_shares(shares.flip(0) / 2, 0.25, theme))


def test_what_was_sampled_in_training_is_kept_by_what_is_written(tmp_path):
    one, other = (a_basis(tmp_path / f"{name}.safetensors", seed=seed) for seed, name in enumerate(("one", "other")))
    alone = replace(other, config=replace(other.config, sampled="result"))
    assert merge_bases(alone, alone, tmp_path / "same.safetensors").config.sampled == "result"
    assert merge_bases(one, alone, tmp_path / "both.safetensors").config.sampled == "grid"
