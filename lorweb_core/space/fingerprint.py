"""What tells one basis from another, wherever its file lies and whatever it is called."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..basis import LoRABasis
from ..checkpoint import BasisLayer

_known: WeakKeyDictionary[LoRABasis, str] = WeakKeyDictionary()


def fingerprint(basis: LoRABasis) -> str:
    """Compute the SHA-256, in hexadecimal, of all layers' names and values, in whatever files they lie."""
    if basis not in _known:
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            digests = dict(zip(basis.layers, pool.map(_digest, basis.layers.values()), strict=True))
        whole = hashlib.sha256()
        for name in sorted(digests):
            whole.update(f"{name}\n".encode() + digests[name])
        _known[basis] = whole.hexdigest()
    return _known[basis]


def _digest(layer: BasisLayer) -> bytes:
    digest = hashlib.sha256(f"{layer.scale!r}\n".encode())
    for field in ("A", "B", "keys", "projection"):
        values: Tensor | None = getattr(layer, field)
        if values is not None:
            digest.update(f"{field} {values.dtype} {tuple(values.shape)}\n".encode())
            digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
