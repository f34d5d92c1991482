"""Safetensors written and read with json and numpy alone, independent of what is tested."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
READABLE = {*TYPES, "BF16", "F8_E4M3", "F8_E5M2"}


class Stored(NamedTuple):
    """A tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


def stored(values: Any, dtype: str = "F32") -> Stored:
    """Store numbers in one of TYPES, or as BF16 by cutting float32."""
    if dtype == "BF16":
        array = np.asarray(values, "<f4")
        return Stored(dtype, array.shape, (array.view("<u4") >> 16).astype("<u2").tobytes())
    with np.errstate(over="ignore"):
        array = np.asarray(values, TYPES[dtype])
    return Stored(dtype, array.shape, array.tobytes())


def numbers(tensor: Stored) -> np.ndarray:
    """Read a tensor's values as float64. Raises KeyError for types that are no numbers of one part."""
    if tensor.dtype == "BF16":
        bits = np.frombuffer(tensor.content, "<u2").astype("<u4") << 16
        values = bits.view("<f4").astype("f8")
    elif tensor.dtype in ("F8_E4M3", "F8_E5M2"):
        table = np.array([float8(bits, 3 if tensor.dtype == "F8_E4M3" else 2) for bits in range(256)])
        values = table[np.frombuffer(tensor.content, "u1")]
    else:
        values = np.frombuffer(tensor.content, TYPES[tensor.dtype]).astype("f8")
    return values.reshape(tensor.shape)


def float8(bits: int, mantissa: int) -> float:
    """Read a float of 8 bits with 3 (E4M3, finite but for NaN) or 2 (E5M2) bits of mantissa."""
    sign, low = (-1) ** (bits >> 7), bits & 0x7F
    exponent, fraction = low >> mantissa, (low & ((1 << mantissa) - 1)) / (1 << mantissa)
    bias = 7 if mantissa == 3 else 15
    if mantissa == 3 and low == 0x7F:
        return float("nan")
    if mantissa == 2 and exponent == 31:
        return sign * (float("inf") if fraction == 0 else float("nan"))
    return sign * (2.0 ** (1 - bias) * fraction if exponent == 0 else 2.0 ** (exponent - bias) * (1 + fraction))


def header(tensors: Mapping[str, Stored], metadata: Any = None) -> list[tuple[str, Any]]:
    """The entries of the header, in a list: a broken one may have a name twice."""
    entries: list[tuple[str, Any]] = [] if metadata is None else [("__metadata__", metadata)]
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.content)
        entries.append((name, {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}))
        offset = end
    return entries


def file(entries: Sequence[tuple[str, Any]], tensors: Mapping[str, Stored]) -> bytes:
    """A whole file with this header in front of the tensors' bytes."""
    text = "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries) + "}"
    encoded = text.encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + b"".join(tensor.content for tensor in tensors.values())


def read(content: bytes) -> tuple[dict[str, Stored], dict[str, str]]:
    """Tensors and metadata of a whole file. Raises ValueError, KeyError, TypeError for what is none."""
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length].decode())
    metadata, data = entries.pop("__metadata__", {}), content[8 + length :]
    tensors = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        tensors[name] = Stored(entry["dtype"], tuple(entry["shape"]), data[start:end])
        assert len(tensors[name].content) == end - start, f"{name} is not all in the file"
    return tensors, metadata
