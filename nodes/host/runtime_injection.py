"""Run-time application through the host: a wrapper around the forward pass has the mixture on the model just for that
pass, and the host's memory management moves the basis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakSet

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...lorweb_core import LoRABasis, Mixture
from ...lorweb_core.routing import Tokens
from ...lorweb_core.runtime import PackedBasis, RuntimeMixture
from .flux_layers import HostKeys, layers_by_linear
from .progress import progress_bar


def inject_mixture(model: ModelPatcher, mixture: Mixture, strength: float, keys: HostKeys) -> None:
    """Let `model`, a clone made for it, add the mixture in its forward passes.

    keys: layer of the basis → the host's weight key, or (key, (dim, offset, size)).
    Nothing stays on the model between two passes. The host's injections (comfy/patcher_extension.py) would: their hooks
    outlive a clone that dies, or fails, while another one has the model loaded.
    """
    packed, runtime = _packed_basis(mixture.basis, keys, model), RuntimeMixture(mixture, strength)

    @torch.compiler.disable
    def forward(
        executor, x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs
    ) -> Tensor:
        # The sampler lays positive and negative into one batch where memory allows (comfy/samplers.py).
        conditions = len(transformer_options.get("cond_or_uncond", [0]))
        tokens = count_tokens(executor.class_obj.patch_size, context, ref_latents or ())
        with runtime.attached(executor.class_obj, packed.on(x.device), len(x) // conditions, tokens):
            return executor(x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, f"lorweb-{uuid4()}", forward)
    model.set_additional_models(f"lorweb-{id(packed)}", [packed.patcher])


def count_tokens(patch: int, context: Tensor, references: Sequence[Tensor]) -> Tokens:
    """Count the tokens of a pass of the host's FLUX (comfy/ldm/flux/model.py) besides the sampled ones.

    patch: a token's side in latent pixels. context: (batch, text tokens, width). references: (batch, 16, h, w) each.
    """
    in_references = sum(math.prod(math.ceil(side / patch) for side in latent.shape[-2:]) for latent in references)
    return Tokens(context.shape[1], in_references, len(references))


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


def _packed_basis(basis: LoRABasis, keys: HostKeys, model: ModelPatcher) -> HostBasis:
    """Pack a basis in the dtype that `model` computes in, once for all its mixtures."""
    kept = _packed.setdefault(basis, {})
    dtype = model.model.get_dtype_inference()
    if dtype not in kept:
        linears = layers_by_linear(keys)
        packed = PackedBasis(basis, linears, dtype, progress_bar(len(linears)))
        patcher = ModelPatcher(packed, model.load_device, model.offload_device)
        kept[dtype] = HostBasis(patcher, WeakSet([packed]))
        # What the host clones the model by for several GPUs (comfy/model_patcher.py, deepclone_multigpu).
        patcher.cached_patcher_init = (
            _duplicate,
            (packed, kept[dtype].copies, model.load_device, model.offload_device),
        )
    return kept[dtype]


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
