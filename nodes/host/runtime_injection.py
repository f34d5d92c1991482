"""Run-time application through the host: a wrapper around the forward pass has the mixture on the model just for that
pass, and the host's memory management moves the basis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from uuid import uuid4

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...lorweb_core import Mixture
from ...lorweb_core.routing import Tokens
from ...lorweb_core.runtime import RuntimeMixture
from .flux_layers import HostKeys
from .held_rank import WHOLE, HeldRank, held_mixture


def inject_mixture(
    model: ModelPatcher, mixture: Mixture, strength: float, keys: HostKeys, held: HeldRank = WHOLE
) -> None:
    """Let `model`, a clone made for it, add the mixture in its forward passes.

    keys: layer of the basis → the host's weight key, or (key, (dim, offset, size)). held: in which rank.
    Nothing stays on the model between two passes. The host's injections (comfy/patcher_extension.py) would: their hooks
    outlive a clone that dies, or fails, while another one has the model loaded.
    """
    packed, coefficients = held_mixture(mixture, keys, model, held)
    runtime = RuntimeMixture(mixture, strength, coefficients)

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
