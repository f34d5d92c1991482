"""Safetensors written while they are made, one tensor after the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..basis import Progress
from .atomic import replacing

# As safetensors spells them.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}


class TensorSpec(NamedTuple):
    """Describe a tensor to be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_tensors(
    path: Path,
    entries: Mapping[str, TensorSpec],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> int:
    """Write a .safetensors file while its tensors are made, so that two of them are held at a time; returns its bytes.

    tensors: in the order of `entries`, as described there; one may be overwritten when the next but one is asked for.
    The safetensors package takes only all of them at once, and copies each. Raises LoRWebError as `replacing` does.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, entry in entries.items():
        end = offset + entry.bytes
        header[name] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    total = 8 + len(encoded) + offset
    with replacing(path, total) as file, ThreadPoolExecutor(1) as writer:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        # The disk writes one tensor while the next is made.
        writing: Future | None = None
        for done, ((name, entry), tensor) in enumerate(zip(entries.items(), tensors, strict=True)):
            if (tensor.dtype, tuple(tensor.shape)) != (entry.dtype, tuple(entry.shape)):
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, described as {entry}")
            if progress:
                progress(done, len(entries))
            if writing:
                writing.result()
            writing = writer.submit(file.write, _bytes(tensor))
        if writing:
            writing.result()
        if progress:
            progress(len(entries), len(entries))
    return total


def write_all(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Write a .safetensors file of tensors that are there already, as `write_tensors` does."""
    entries = {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    return write_tensors(path, entries, tensors.values(), metadata)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
