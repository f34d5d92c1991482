"""Broken files of mixtures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from . import plain
from .basis import SIZES, N, basis_tensors
from .case import Case
from .mutations import BYTES, OBSTACLES, in_place_of, odd_name, words
from .plain import Stored
from .tensors import CONTAINERS, HEADERS, TENSORS, Tensors

PICTURES = ("a", "a_prime", "b")


def mixture_tensors(random: Random) -> Tensors:
    """A valid mixture of one analogy or of three, with thumbnails or without."""
    values = np.random.default_rng(random.getrandbits(32))
    analogies = random.choice((0, 3))
    shape = (analogies, N) if analogies else (N,)
    tensors = {f"coefficients.{layer}": plain.stored(values.normal(size=shape)) for layer in SIZES}
    if random.random() < 0.5:
        tensors |= {f"origin.{layer}": plain.stored(values.normal(size=shape)) for layer in SIZES}
    for index in range(max(1, analogies) if random.random() < 0.8 else 0):
        for picture in PICTURES:
            pixels = values.integers(0, 256, (random.choice((20, 128)), 30, 3))
            tensors[f"thumbnail.{index}.{picture}"] = plain.stored(pixels, "U8")
    return tensors


def _coefficients(random: Random, tensors: Tensors) -> str:
    return random.choice([name for name in tensors if name.startswith("coefficients.")])


def coefficients_of_another_shape(random: Random, tensors: Tensors) -> None:
    name = _coefficients(random, tensors)
    shape = random.choice([(), (1,), (N + 1,), (1, N), (2, N), (3, N, 1), (N, 1), (0,), (0, N), (N, N), (3, 1)])
    tensors[name] = plain.stored(np.full(shape, 0.25))


def all_coefficients_of_another_shape(random: Random, tensors: Tensors) -> None:
    shape = random.choice([(), (1,), (N + 1,), (1, N), (2, N), (3, N, 1), (0,), (0, N), (3, 1), (200_000, N)])
    for layer in SIZES:
        tensors[f"coefficients.{layer}"] = plain.stored(np.full(shape, 0.25))


def coefficients_of_another_dtype(random: Random, tensors: Tensors) -> None:
    for name in random.choice(([_coefficients(random, tensors)], [f"coefficients.{layer}" for layer in SIZES])):
        dtype = random.choice(("F64", "F16", "BF16", "I64", "U8"))
        tensors[name] = plain.stored(plain.numbers(tensors[name]).clip(0, 1), dtype)


def coefficients_that_overflow(random: Random, tensors: Tensors) -> None:
    name = _coefficients(random, tensors)
    tensors[name] = plain.stored(np.full(tensors[name].shape, random.choice((3e38, 1e30, -3e38))))


def a_thumbnail_of_another_kind(random: Random, tensors: Tensors) -> None:
    name = f"thumbnail.0.{random.choice(PICTURES)}"
    shape = random.choice(
        [(20, 30), (20, 30, 4), (0, 30, 3), (0, 0, 3), (20, 30, 1), (1, 20, 30, 3), (3,), (), (129, 5, 3)]
    )
    shape = random.choice([shape, (4000, 4000, 3)])
    tensors[name] = plain.stored(np.ones(shape), random.choice(("U8", "F32", "I64", "F16")))


def a_thumbnail_missing(random: Random, tensors: Tensors) -> None:
    for index in range(random.choice((1, 3))):
        tensors.pop(f"thumbnail.{index}.{random.choice(PICTURES)}", None)


def thumbnails_misnumbered(random: Random, tensors: Tensors) -> None:
    number = random.choice(("1", "7", "-1", "00", "x", "1e9", ""))
    for picture in PICTURES:
        tensors[f"thumbnail.{number}.{picture}"] = plain.stored(np.ones((20, 20, 3)), "U8")
        tensors.pop(f"thumbnail.0.{picture}", None)


def metadata_that_lies(random: Random, metadata: dict) -> None:
    key = random.choice(sorted(metadata))
    metadata[key] = random.choice(
        [
            "",
            "x",
            "lorweb mixture 2",
            "\ud800",
            "\0",
            "0" * 64,
            "a" * 1_000_000,
            None,
            1,
            [],
            {"a": "b"},
            "\x1b[31m",
            "{" * 1000,
        ]
    )


def metadata_missing(random: Random, metadata: dict) -> None:
    for key in random.sample(sorted(metadata), random.choice((1, 2, 4))):
        del metadata[key]


MIXTURES = [
    coefficients_of_another_shape,
    all_coefficients_of_another_shape,
    coefficients_of_another_dtype,
    coefficients_that_overflow,
    a_thumbnail_of_another_kind,
    a_thumbnail_missing,
    thumbnails_misnumbered,
]
METADATA = [metadata_that_lies, metadata_missing]


def make(seed: int, folder: Path) -> Case:
    """See Case. The basis beside it is whole."""
    from lorweb_core import load_basis
    from lorweb_core.space.fingerprint import fingerprint

    random = Random(seed)
    whole = basis_tensors(Random(seed % 3))
    (folder / "basis.safetensors").write_bytes(plain.file(plain.header(whole), whole))
    basis = load_basis(folder / "basis.safetensors")
    metadata = {"format": "lorweb mixture 1", "basis": basis.name, "fingerprint": fingerprint(basis), "config": "{}"}
    path, tensors = folder / odd_name(random, "fuzzed.safetensors"), mixture_tensors(random)

    ways = [*MIXTURES, *MIXTURES, *METADATA, *TENSORS[:-1], *HEADERS, *CONTAINERS, *BYTES, *OBSTACLES]
    operator = ways[seed % len(ways)]
    if operator in MIXTURES or operator in TENSORS:
        operator(random, tensors)
    if operator in METADATA:
        operator(random, metadata)
    entries = plain.header(tensors, metadata)
    if operator in HEADERS:
        operator(random, entries)
    content = plain.file(entries, tensors)
    path.write_bytes(operator(random, content) if operator in BYTES or operator in CONTAINERS else content)
    if operator in OBSTACLES:
        in_place_of(path, operator)
    return Case(words(operator), ("fuzzed",), lambda: _load(path, basis), lambda mixture: _check(path, mixture, basis))


def _load(path: Path, basis):
    from lorweb_core.space.mixture_file import load_mixture

    return load_mixture(path, basis)


def _check(path: Path, mixture, basis) -> None:
    """A coefficient for each LoRA of each layer, the pictures as they are in the file, and nothing left over."""
    from lorweb_core.space.fingerprint import fingerprint

    held, metadata = plain.read(path.read_bytes())
    assert metadata["format"] == "lorweb mixture 1" and metadata["fingerprint"] == fingerprint(basis)
    assert set(mixture.coefficients) == set(SIZES)
    shapes = {held[f"coefficients.{layer}"].shape for layer in SIZES}
    (shape,) = shapes
    assert shape[-1] == N and len(shape) in (1, 2) and 0 not in shape, f"coefficients of the shape {shape}"
    for layer in SIZES:
        stored: Stored = held.pop(f"coefficients.{layer}")
        assert stored.dtype == "F32", f"coefficients of {layer} are {stored.dtype}"
        assert np.array_equal(mixture.coefficients[layer].double().numpy(), plain.numbers(stored))
        assert np.isfinite(plain.numbers(stored)).all()
        few = replace(mixture, coefficients={layer: mixture.coefficients[layer][:8]})  # of thousands it has no room
        assert (mixture if len(shape) == 1 else few).delta(layer).isfinite().all(), f"ΔW of {layer} is not finite"
        if mixture.origin:
            no_edit = held.pop(f"origin.{layer}")
            assert no_edit.dtype == "F32" and no_edit.shape == shape
            assert np.array_equal(mixture.origin.coefficients[layer].double().numpy(), plain.numbers(no_edit))
            assert np.isfinite(plain.numbers(no_edit)).all()
    for index, thumbnails in enumerate(mixture.thumbnails):
        for picture in PICTURES:
            stored = held.pop(f"thumbnail.{index}.{picture}")
            assert stored.dtype == "U8" and len(stored.shape) == 3 and stored.shape[-1] == 3 and 0 not in stored.shape
            assert np.array_equal(getattr(thumbnails, picture).numpy(), plain.numbers(stored))
    assert not held, f"not looked at: {sorted(held)[:3]}"
    _shown(mixture)


def _shown(mixture) -> None:
    """The pictures are laid out by the nodes that save and load a mixture."""
    from lorweb_core.pictures.thumbnails import contact_sheet

    if mixture.thumbnails:
        assert contact_sheet(mixture.thumbnails).isfinite().all()
