"""What can be wrong with a safetensors file: in its tensors, and in the header that describes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from . import plain
from .plain import Stored

Tensors = dict[str, Stored]
Entries = list[tuple[str, Any]]


def one(random: Random, tensors: Tensors) -> str:
    return random.choice(sorted(tensors))


def a_value_that_is_not_finite(random: Random, tensors: Tensors) -> None:
    name = one(random, tensors)
    values = plain.numbers(tensors[name]).copy()
    values.flat[random.randrange(values.size)] = random.choice((math.nan, math.inf, -math.inf))
    kept = tensors[name].dtype
    tensors[name] = plain.stored(values, kept if kept in ("F16", "F32", "BF16") else "F32")


def huge_values(random: Random, tensors: Tensors) -> None:
    """Finite ones, whose products need not be."""
    name = one(random, tensors)
    dtype, size = random.choice((("F16", 65504.0), ("F32", 3e38), ("F64", 1e300), ("BF16", 3e38)))
    tensors[name] = plain.stored(np.full(tensors[name].shape, size), dtype)


def another_dtype(random: Random, tensors: Tensors) -> None:
    """The same number of values, of a type that may not go there."""
    name = one(random, tensors)
    count = math.prod(tensors[name].shape)
    widths = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "I32": 4, "F99": 4, "f32": 4, "": 4}
    dtype = random.choice([*widths, "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4"])
    tensors[name] = Stored(dtype, tensors[name].shape, b"\1" * (widths.get(dtype, 1) * count))


def another_shape(random: Random, tensors: Tensors) -> None:
    name = one(random, tensors)
    shape = list(tensors[name].shape) or [1]
    axis = random.randrange(len(shape))
    resized = [[*shape[:axis], side, *shape[axis + 1 :]] for side in (0, 1, shape[axis] + 1)]
    changed = random.choice([shape[::-1], [1, *shape], shape[1:], [math.prod(shape)], [], *resized])
    tensors[name] = plain.stored(np.ones(changed), "F16")


def a_tensor_missing(random: Random, tensors: Tensors) -> None:
    del tensors[one(random, tensors)]


def a_layer_missing(random: Random, tensors: Tensors) -> None:
    layer = one(random, tensors).removesuffix(".weight").rpartition(".")[0]
    for name in [name for name in tensors if name.startswith(layer)]:
        del tensors[name]


def all_of_a_kind_missing(random: Random, tensors: Tensors) -> None:
    kind = one(random, tensors).removesuffix(".weight").rpartition(".")[2]
    for name in [name for name in tensors if kind in name]:
        del tensors[name]


def a_foreign_tensor(random: Random, tensors: Tensors) -> None:
    names = ["vae.conv.weight", "x", "", ".", "..lora_A", "lora_A", "coefficients.", "thumbnail.9.b", "thumbnail.x.b"]
    names += ["\ud800", "a\0b", "é" * 3000, "transformer.blocks.7.lora_keys", "thumbnail.0.c", "__metadata"]
    tensors[random.choice(names)] = plain.stored(np.ones((2, 2)), "F32")


def a_layer_renamed(random: Random, tensors: Tensors) -> None:
    layer = one(random, tensors).removesuffix(".weight").rpartition(".")[0]
    name = random.choice(["\ud800", "a\nb", "\x1b[31m", "", "x" * 5000, "transformer.blocks.99", "../..", "..", "ß"])
    for old in [name for name in tensors if name.startswith(layer)]:
        tensors[name + old[len(layer) :]] = tensors.pop(old)


def a_second_spelling(random: Random, tensors: Tensors) -> None:
    name = one(random, tensors)
    for known, other in {
        "lora_A": "lora_down.weight",
        "lora_B": "lora_up.weight",
        "lora_keys": "lora_keys.weight",
    }.items():
        if known in name:
            tensors[name.replace(known, other)] = tensors[name]


TENSORS: list[Callable[[Random, Tensors], None]] = [
    a_value_that_is_not_finite,
    huge_values,
    another_dtype,
    another_shape,
    a_tensor_missing,
    a_layer_missing,
    all_of_a_kind_missing,
    a_foreign_tensor,
    a_layer_renamed,
    a_second_spelling,
]


def _entry(random: Random, entries: Entries) -> tuple[int, dict[str, Any]]:
    index = random.choice([index for index, (name, _) in enumerate(entries) if name != "__metadata__"])
    return index, dict(entries[index][1])


def offsets_that_lie(random: Random, entries: Entries) -> None:
    index, entry = _entry(random, entries)
    start, end = entry["data_offsets"]
    moved = [
        [-1, end],
        [end, start],
        [start + 2, end],
        [start, end + 2],
        [start, end - 2],
        [0, end - start],
        [start, start],
    ]
    huge = [[0, 2**63], [2**64, 2**65], [2**63 - 1, 2**63 + end - start - 1], [10**30, 10**30 + end - start]]
    kinds = [[start], [], [start, end, end], None, "0,8", [float(start), float(end)], [str(start), end]]
    entry["data_offsets"] = random.choice([*moved, *huge, *kinds])
    entries[index] = (entries[index][0], entry)


def shapes_that_lie(random: Random, entries: Entries) -> None:
    index, entry = _entry(random, entries)
    shape = entry["shape"]
    sizes = [[*shape, 1], [*shape, 2], shape[:-1], [-side for side in shape], [2**32, 2**32], [2**63], [2**64], [0]]
    kinds = [None, "8", [float(side) for side in shape], [[side] for side in shape], [True] * len(shape)]
    entry["shape"] = random.choice([*sizes, *kinds, [1] * 100 + shape, shape[::-1]])
    entries[index] = (entries[index][0], entry)


def dtypes_that_lie(random: Random, entries: Entries) -> None:
    index, entry = _entry(random, entries)
    names = ["F32", "F16", "BF16", "F64", "BOOL", "C64", "F8_E4M3", "F0", "f16", ""]
    entry["dtype"] = random.choice([*names, None, 16, ["F16"]])
    entries[index] = (entries[index][0], entry)


def overlapping_tensors(random: Random, entries: Entries) -> None:
    index, entry = _entry(random, entries)
    entry["data_offsets"] = _entry(random, entries)[1]["data_offsets"]
    entries[index] = (entries[index][0], entry)


def a_name_twice(random: Random, entries: Entries) -> None:
    index, entry = _entry(random, entries)
    other = random.randrange(len(entries))
    entries.append((entries[index][0], random.choice([entry, entries[other][1], None, {"dtype": "F16"}])))


def an_entry_of_another_kind(random: Random, entries: Entries) -> None:
    index, entry = _entry(random, entries)
    deep: Any = 1
    for _ in range(random.choice((10, 500))):
        deep = [deep]
    del entry[random.choice(sorted(entry))]
    entries[index] = (entries[index][0], random.choice([None, 1, "x", [], {}, deep, entry, {**entry, "more": 1}]))


def metadata_of_another_kind(random: Random, entries: Entries) -> None:
    kinds = [None, 1, "x", [], {"format": 1}, {"format": None}, {"a": {"b": "c"}}, {"": ""}, {"x": "y" * 10**6}]
    others = [(name, entry) for name, entry in entries if name != "__metadata__"]
    entries[:] = [*others, ("__metadata__", random.choice([*kinds, {"\ud800": "\ud800"}]))]


HEADERS: list[Callable[[Random, Entries], None]] = [
    offsets_that_lie,
    shapes_that_lie,
    dtypes_that_lie,
    overlapping_tensors,
    a_name_twice,
    an_entry_of_another_kind,
    metadata_of_another_kind,
]


def header_length_lies(random: Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    lies = [0, 1, 2, length - 1, length + 1, length + 8, len(content) - 8, len(content) - 7, 100_000_000, 100_000_001]
    return random.choice([*lies, 2**31, 2**32, 2**63, 2**64 - 1]).to_bytes(8, "little") + content[8:]


def header_not_json(random: Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length]
    others = [b"[" * 5000, b'{"a":' * 2000, b"null", b"{}", b"[]", b'"x"', b"NaN", b'{"a": 1e999}', b"{" + b" " * 100]
    nearly = [text[:-20], text.replace(b'"', b"'", 1), text.replace(b"F", b"\xff", 1), text + b"x"]
    broken = random.choice([*others, *nearly, text.decode().encode("utf-16")])
    return len(broken).to_bytes(8, "little") + broken + content[8 + length :]


CONTAINERS = [header_length_lies, header_not_json]
