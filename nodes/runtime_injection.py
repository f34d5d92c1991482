"""Run-time application through the host: its injections put the hooks on and take them off, its memory management
moves the basis.
"""

from __future__ import annotations

import inspect
from uuid import uuid4
from weakref import WeakKeyDictionary

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import nn

from ..lorweb_core import LoRABasis, Mixture
from ..lorweb_core.routing import Tokens
from ..lorweb_core.runtime import Attachment, PackedBasis
from .host_layers import HostKeys, fused
from .progress import progress_bar

_packed: WeakKeyDictionary[LoRABasis, dict[torch.dtype, ModelPatcher]] = WeakKeyDictionary()


def inject_mixture(model: ModelPatcher, mixture: Mixture, strength: float, keys: HostKeys) -> None:
    """Let `model`, a clone made for it, add the mixture in its forward pass whenever the host has it loaded.

    keys: layer of the basis → the host's weight key, or (key, (dim, offset, size)).
    """
    packed = _packed_basis(mixture.basis, keys, model)
    runtime = RuntimeInjection(mixture, packed.model, strength)
    # Hosts take two clones of a model with injections of the same names for the same model: hence a name of its own.
    model.set_injections(f"lorweb-{uuid4()}", [PatcherInjection(runtime.inject, runtime.eject)])
    model.set_additional_models(f"lorweb-{id(packed.model)}", [packed])


class RuntimeInjection:
    """What a patched model and its clones share. Each model that the host injects gets an Attachment."""

    def __init__(self, mixture: Mixture, packed: PackedBasis, strength: float):
        self.mixture = mixture
        self.packed = packed
        self.strength = strength
        self._attached: WeakKeyDictionary[nn.Module, Attachment] = WeakKeyDictionary()

    def inject(self, patcher: ModelPatcher) -> None:
        model = patcher.model.diffusion_model
        if model not in self._attached:
            self._attached[model] = Attachment(model, self.mixture, self.packed, self.strength, read_tokens)

    def eject(self, patcher: ModelPatcher) -> None:
        # Clones share this object, and the host may eject one that was never injected.
        attachment = self._attached.pop(patcher.model.diffusion_model, None)
        if attachment:
            attachment.remove()


def read_tokens(model: nn.Module, args: tuple, kwargs: dict) -> tuple[int, Tokens]:
    """The pictures and their tokens, from a call of the host's Flux.forward (comfy/ldm/flux/model.py)."""
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    patch = model.patch_size
    pictures = given.get("ref_latents") or ()
    references = sum(-(-picture.shape[-2] // patch) * -(-picture.shape[-1] // patch) for picture in pictures)
    # The sampler lays positive and negative into one batch where memory allows (comfy/samplers.py, _calc_cond_batch).
    conditions = len(given.get("transformer_options", {}).get("cond_or_uncond", [0]))
    return len(given["x"]) // conditions, Tokens(given["context"].shape[1], references, len(pictures))


def _packed_basis(basis: LoRABasis, keys: HostKeys, model: ModelPatcher) -> ModelPatcher:
    """The basis as a model of the host's own, so that it is loaded beside the one it runs in and offloaded with it."""
    kept = _packed.setdefault(basis, {})
    dtype = model.model.get_dtype_inference()
    if dtype not in kept:
        linears = fused(keys)
        packed = PackedBasis(basis, linears, dtype, progress_bar(len(linears)))
        kept[dtype] = ModelPatcher(packed, model.load_device, model.offload_device)
    return kept[dtype]
