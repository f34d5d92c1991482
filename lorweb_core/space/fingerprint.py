"""What tells one basis from another, wherever its file lies and whatever it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..basis import LoRABasis
from ..checkpoint import BasisLayer
from ..query_network import network_tensors

_known: WeakKeyDictionary[LoRABasis, str] = WeakKeyDictionary()


def fingerprint(basis: LoRABasis) -> str:
    """Compute the SHA-256, in hexadecimal, of all names and values, in whatever files they lie."""
    if basis not in _known:
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            digests = dict(zip(basis.layers, pool.map(_digest, basis.layers.values()), strict=True))
        if basis.query_network:
            digests["query_network"] = _digest_tensors(network_tensors(basis.query_network))
        whole = hashlib.sha256()
        for name in sorted(digests):
            whole.update(f"{name}\n".encode() + digests[name])
        _known[basis] = whole.hexdigest()
    return _known[basis]


def _digest(layer: BasisLayer) -> bytes:
    held = {field: getattr(layer, field) for field in ("A", "B", "keys", "projection")}
    tensors = {field: values for field, values in held.items() if values is not None}
    return _digest_tensors(tensors, f"{layer.scale!r}\n")


def _digest_tensors(tensors: Mapping[str, Tensor], before: str = "") -> bytes:
    digest = hashlib.sha256(before.encode())
    for name, values in tensors.items():
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
