"""A packed basis as a model of the host's own, whose memory management moves it."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from comfy.model_patcher import ModelPatcher

from ...lorweb_core import LoRABasis
from ...lorweb_core.light_mixture import LightMixture
from ...lorweb_core.runtime import PackedBasis
from .flux_layers import HostKeys, layers_by_linear
from .progress import progress_bar


class HostBasis(NamedTuple):
    """Hold a packed basis as a model of the host's own: loaded beside the one it runs in, and offloaded with it."""

    patcher: ModelPatcher
    copies: WeakSet[PackedBasis]
    """The patcher's own model, and those of its clones for further GPUs."""

    def on(self, device: torch.device) -> PackedBasis:
        """Find the copy that is on a device; where there is none, tensors are brought there as they are used."""
        there = (packed for packed in self.copies if next(packed.parameters()).device == device)
        return next(there, self.patcher.model)


_packed: WeakKeyDictionary[LoRABasis, dict[torch.dtype, HostBasis]] = WeakKeyDictionary()


def packed_basis(basis: LoRABasis, keys: HostKeys, model: ModelPatcher) -> HostBasis:
    """Pack a basis in the dtype that `model` computes in, once for all its mixtures."""
    kept = _packed.setdefault(basis, {})
    dtype = model.model.get_dtype_inference()
    if dtype not in kept:
        kept[dtype] = pack(basis, keys, model)
    return kept[dtype]


def pack(basis: LoRABasis, keys: HostKeys, model: ModelPatcher, light: LightMixture | None = None) -> HostBasis:
    """Pack a basis, or a mixture of it in a lower rank, in the dtype that `model` computes in."""
    linears = layers_by_linear(keys)
    dtype, layer = model.model.get_dtype_inference(), light.layer if light else None
    packed = PackedBasis(basis, linears, dtype, progress_bar(len(linears)), layer)
    made = HostBasis(ModelPatcher(packed, model.load_device, model.offload_device), WeakSet([packed]))
    # What the host clones the model by for several GPUs (comfy/model_patcher.py, deepclone_multigpu).
    made.patcher.cached_patcher_init = (_duplicate, (packed, made.copies, model.load_device, model.offload_device))
    return made


def _duplicate(
    packed: PackedBasis,
    copies: WeakSet[PackedBasis],
    load_device: torch.device,
    offload_device: torch.device,
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """Copy a packed basis into a model with tensors of its own. disable_dynamic: of the host's; this one never is."""
    duplicate = deepcopy(packed)
    copies.add(duplicate)
    return ModelPatcher(duplicate, load_device, offload_device)
