"""Broken basis files, in one file or in shards with an index."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from . import plain
from .case import Case
from .mutations import BYTES, OBSTACLES, in_place_of, odd_name, words
from .plain import Stored
from .tensors import CONTAINERS, HEADERS, TENSORS, Tensors

N, RANK, KEYS, QUERY, HIDDEN = 4, 2, 8, 12, 5
SIZES = {
    "transformer.single_transformer_blocks.0.attn.to_q": (16, 16),
    "transformer.single_transformer_blocks.0.proj_out": (80, 16),
    "transformer.transformer_blocks.0.ff.net.0.proj": (16, 64),
}
NETWORK = {
    "query_network.in.weight": (HIDDEN, QUERY),
    "query_network.in.bias": (HIDDEN,),
    "query_network.out.weight": (QUERY, HIDDEN),
    "query_network.out.bias": (QUERY,),
}
FLOATS = {"F64", "F32", "F16", "BF16"}


def basis_tensors(random: Random) -> Tensors:
    """A valid basis: with or without projections, alphas and a query network, in one of the dtypes and spellings."""
    values = np.random.default_rng(random.getrandbits(32))
    dtype, projected = random.choice(("F16", "F16", "BF16", "F32")), random.random() < 0.8
    A, B = random.choice((("lora_A", "lora_B"), ("lora_down.weight", "lora_up.weight")))
    alphas = random.random() < 0.5
    tensors: Tensors = {}
    if random.random() < 0.2:
        for name, shape in NETWORK.items():
            tensors[name] = plain.stored(values.normal(size=shape), dtype)
    for layer, (fan_in, fan_out) in SIZES.items():
        shapes = {A: (N, fan_in, RANK), B: (N, RANK, fan_out), "lora_keys": (N, KEYS if projected else QUERY)}
        if projected:
            shapes["att_lora_to_q.weight"] = (KEYS, QUERY)
        for part, shape in shapes.items():
            tensors[f"{layer}.{part}"] = plain.stored(values.normal(size=shape), dtype)
        if alphas:
            tensors[f"{layer}.alpha"] = plain.stored(random.choice((1.0, 2.0, 0.5)))
    return tensors


def an_absurd_alpha(random: Random, tensors: Tensors) -> None:
    absurd = (np.nan, np.inf, 1e38, 1e300, -1e300, 1e-300, 0.0, -1.0, 65504.0, 3e38)
    numbers = [plain.stored(value, dtype) for value in absurd for dtype in ("F64", "F32")]
    shapes = [plain.stored(value) for value in ([1.0, 2.0], [], [[1.0]], np.zeros(3_000_000))]
    eights = [Stored("F8_E4M3", (), b"\x38"), Stored("F8_E4M3", (), b"\x7f"), Stored("F8_E5M2", (), b"\x38")]
    others = [Stored("C64", (), b"\x38" * 8), Stored("BOOL", (), b"\1"), plain.stored(3, "I64")]
    layer = random.choice(sorted(SIZES))
    tensors[f"{layer}.alpha"] = random.choice([*numbers, *shapes, *eights, *eights, *others])


def make(seed: int, folder: Path) -> Case:
    """See Case. Seeds in a row go through all ways of breaking a file."""
    random = Random(seed)
    ways: list[Callable[[Random, Path, Callable], None]] = [
        *(_tensors_wrong(operator) for operator in (*TENSORS, an_absurd_alpha)),
        *(_header_wrong(operator) for operator in HEADERS),
        *(_bytes_wrong(operator) for operator in (*CONTAINERS, *BYTES)),
        *(_not_a_file(obstacle) for obstacle in OBSTACLES),
        *(_index_wrong(operator) for operator in INDICES),
    ]
    path, what = ways[seed % len(ways)](random, folder / odd_name(random, "fuzzed.safetensors"))
    query = np.random.default_rng(seed).normal(size=QUERY)
    return Case(what, ("fuzzed",), lambda: _load(path, query), lambda held: _check(path, held, query))


def _tensors_wrong(operator):
    def broken(random: Random, path: Path) -> tuple[Path, str]:
        tensors = basis_tensors(random)
        operator(random, tensors)
        path.write_bytes(plain.file(plain.header(tensors), tensors))
        return path, words(operator)

    return broken


def _header_wrong(operator):
    def broken(random: Random, path: Path) -> tuple[Path, str]:
        tensors = basis_tensors(random)
        entries = plain.header(tensors, {"format": "pt"})
        operator(random, entries)
        path.write_bytes(plain.file(entries, tensors))
        return path, words(operator)

    return broken


def _bytes_wrong(operator):
    def broken(random: Random, path: Path) -> tuple[Path, str]:
        tensors = basis_tensors(random)
        path.write_bytes(operator(random, plain.file(plain.header(tensors), tensors)))
        return path, words(operator)

    return broken


def _not_a_file(obstacle):
    def broken(random: Random, path: Path) -> tuple[Path, str]:
        in_place_of(path, obstacle)
        return path, words(obstacle)

    return broken


def _index_wrong(operator):
    def broken(random: Random, path: Path) -> tuple[Path, str]:
        """Two shards and their index, one of them broken."""
        tensors, held = basis_tensors(random), {}
        index, first, second = (
            path.with_name(name)
            for name in ("fuzzed.safetensors.index.json", "fuzzed-1.safetensors", "fuzzed-2.safetensors")
        )
        for shard, names in {first: sorted(tensors)[::2], second: sorted(tensors)[1::2]}.items():
            part = {name: tensors[name] for name in names}
            shard.write_bytes(plain.file(plain.header(part), part))
            held |= dict.fromkeys(names, shard.name)
        document = {"metadata": {"total_size": 1}, "weight_map": held}
        index.write_text(json.dumps(document))
        operator(random, index, document)
        return index, f"index: {words(operator)}"

    return broken


def names_that_lead_elsewhere(random: Random, index: Path, document: dict) -> None:
    name = random.choice(sorted(document["weight_map"]))
    outside = ["../fuzzed-1.safetensors", "/etc/passwd", "a\\b.safetensors", "C:x.safetensors", "~/x.safetensors", "."]
    odd = ["x\0.safetensors", "", "\ud800.safetensors", "x" * 5000, "x" * 300 + ".safetensors", "\n.safetensors"]
    kinds = ["fuzzed-3.safetensors", index.name, ".safetensors", None, 1, ["fuzzed-1.safetensors"]]
    document["weight_map"][name] = random.choice([*outside, *odd, *kinds])
    index.write_text(json.dumps(document))


def maps_that_are_wrong(random: Random, index: Path, document: dict) -> None:
    held = document["weight_map"]
    name = random.choice(sorted(held))
    other = next(shard for shard in held.values() if shard != held[name])
    wrong = [{**held, name: other}, {**held, "more.lora_A": other}, {key: held[key] for key in held if key != name}]
    index.write_text(
        json.dumps({"weight_map": random.choice([*wrong, {}, [], None, 1, "x", held | {"\ud800": other}])})
    )


def an_index_that_is_broken(random: Random, index: Path, document: dict) -> None:
    if random.random() < 0.7:
        index.write_bytes(random.choice(BYTES)(random, index.read_bytes()))
    else:
        index.write_text(
            random.choice(["[" * 100_000, '{"weight_map":' * 2000, "{}", "null", '{"weight_map": NaN}', "1" * 5000])
        )


def an_index_that_is_no_file(random: Random, index: Path, document: dict) -> None:
    in_place_of(index, random.choice(OBSTACLES))


def a_shard_that_is_no_file(random: Random, index: Path, document: dict) -> None:
    in_place_of(index.with_name("fuzzed-2.safetensors"), random.choice(OBSTACLES))


def a_shard_that_is_broken(random: Random, index: Path, document: dict) -> None:
    shard = index.with_name("fuzzed-2.safetensors")
    shard.write_bytes(random.choice((*CONTAINERS, *BYTES))(random, shard.read_bytes()))


INDICES = [
    names_that_lead_elsewhere,
    maps_that_are_wrong,
    an_index_that_is_broken,
    an_index_that_is_no_file,
    a_shard_that_is_no_file,
    a_shard_that_is_broken,
]


def _load(path: Path, query: np.ndarray):
    import torch

    from lorweb_core import load_basis

    basis = load_basis(path)
    mixture = basis.route(torch.from_numpy(query).float() if basis.config.external_query else None)
    return basis, mixture


def read_plain(path: Path) -> dict[str, Stored]:
    """All tensors of a basis, of an index those of its shards."""
    if not path.name.endswith(".index.json"):
        return plain.read(path.read_bytes())[0]
    where = json.loads(path.read_text())["weight_map"]
    parts = {shard: plain.read(path.with_name(shard).read_bytes())[0] for shard in set(where.values())}
    assert {name for part in parts.values() for name in part} == set(where)
    return {name: parts[shard][name] for name, shard in where.items()}


ROLES = {
    "lora_A": "A",
    "lora_down": "A",
    "lora_B": "B",
    "lora_up": "B",
    "lora_keys": "keys",
    "att_lora_to_q": "projection",
}


def through_network(query, inner, inner_bias, outer, outer_bias) -> np.ndarray:
    normed = (query - query.mean()) / np.sqrt(query.var() + 1e-5)
    hidden = inner @ normed + inner_bias
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    return query + outer @ hidden + outer_bias


def _check(path: Path, held, query: np.ndarray) -> None:
    """The layers are the file's, and coefficients and ΔW are what the formulas give for them in float64."""
    basis, mixture = held
    found: dict[str, dict[str, np.ndarray]] = {}
    tensors = read_plain(path)
    network = [tensors.pop(name, None) for name in NETWORK]
    if any(network):
        query = through_network(query, *map(plain.numbers, network))
    for name, tensor in tensors.items():
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        role = "alpha" if part == "alpha" else ROLES[part]
        assert role == "alpha" or tensor.dtype in FLOATS, f"{name} is {tensor.dtype}"
        assert role not in found.setdefault(layer, {}), f"{layer} has two tensors for its {role}"
        found[layer][role] = plain.numbers(tensor)
    assert set(basis.layers) == set(found)
    for name, read in found.items():
        layer = basis.layers[name]
        for role in ("A", "B", "keys", "projection"):
            loaded = getattr(layer, role)
            assert (loaded is None) == (role not in read)
            assert loaded is None or np.array_equal(loaded.double().numpy(), read[role])
            assert loaded is None or np.isfinite(read[role]).all(), f"{role} of {name} is not finite"
        scale = float(read["alpha"].item()) / read["A"].shape[-1] if "alpha" in read else 1.0
        assert np.isclose(layer.scale, scale, rtol=1e-6, atol=0), f"scale {layer.scale}, plainly {scale}"
        if not basis.config.external_query:
            continue
        projected = read["projection"] @ query if "projection" in read else query
        logits = read["keys"] @ projected / len(projected) ** 0.5
        coefficients = np.exp(logits - logits.max())
        coefficients /= coefficients.sum()
        assert np.allclose(mixture.coefficients[name], coefficients, atol=1e-4), f"coefficients of {name}"
        delta = scale * np.einsum("n,nir,nro->oi", coefficients, read["A"], read["B"])
        loaded = mixture.delta(name).double().numpy()
        assert np.isfinite(loaded).all(), f"ΔW of {name} is not finite"
        assert np.linalg.norm(loaded - delta) <= 1e-3 * np.linalg.norm(delta) + 1e-30, f"ΔW of {name}"
