"""The host's MODEL, VAE and CONDITIONING as what a basis is learned for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...lorweb_core import LoRWebError
from ...lorweb_core.routing import Tokens
from ...lorweb_core.training.data.batch import Batch, Text
from .analogy_sampling import WRAPPER, place_tokens
from .differentiable import attention, differentiable, leave_inference_mode
from .flux_layers import block_layers, layer_shape, layers_by_linear, linear_of
from .quantization import quantized_as

NO_GRADIENTS = ("convrot_w4a4", "asym_w4a8_int8")
"""Formats whose products the host has forwards only."""


class HostBase:
    """Make a `Base` of a FLUX.1 as the host has it loaded, with what is patched onto it.

    guidance: what the guidance embedding is told; 1 while training, as published. Raises LoRWebError if the model is no
    FLUX.1, is stored in a format without gradients, or has patches around its forward pass.
    """

    def __init__(self, model: ModelPatcher, vae, guidance: float = 1.0):
        keys = block_layers(model)
        for key in keys.values():
            stored = quantized_as(linear_of(model, key)[0])
            if stored in NO_GRADIENTS:
                raise LoRWebError(
                    f"The model given is stored as {stored}, through which this ComfyUI has no gradients. Load FLUX.1 "
                    "Kontext in fp8 or bf16."
                )
        if set(model.wrappers.get(WrappersMP.DIFFUSION_MODEL, {})) - {WRAPPER}:
            raise LoRWebError(
                "The model given has patches around its forward pass (Mixed LoRA Apply at run time, or Analogy "
                "Attention), through which training does not go. Give it without them, or set the method to merge."
            )
        self.patcher = _own_weights(model)
        self.model = self.patcher.model.diffusion_model
        self.vae = vae
        self.guidance = guidance
        self.linears = layers_by_linear(keys)
        self.shapes = {name: layer_shape(model, key) for name, key in keys.items()}
        self.device = self.patcher.load_device
        self.dtype = self.patcher.model.get_dtype_inference()
        self.stored = self.patcher.model_size()
        """Bytes of the weights."""
        self.converted = any(_converted(linear_of(model, key)[0], self.dtype) for key in keys.values())
        """A flag: weights are stored in another form than they are computed in."""

    def load(self) -> None:
        """Load the model onto its device, whole.

        Weights that are streamed in are gone before the backward pass needs them.
        """
        # Before the host moves them, and those that it made anew in inference mode.
        leave_inference_mode(self.model)
        # All memory there is, as the host's own training asks for.
        comfy.model_management.load_models_gpu([self.patcher], memory_required=1e20, force_full_load=True)
        leave_inference_mode(self.model)

    @contextmanager
    def training(self, checkpointing: bool) -> Iterator[None]:
        """Load the model and let gradients run through it within; its weights stay what they are."""
        self.load()
        with differentiable(self.model, checkpointing):
            yield

    @contextmanager
    def guided(self, guidance: float) -> Iterator[None]:
        """Tell the guidance embedding another number within; afterwards the model is on its device again."""
        before, self.guidance = self.guidance, guidance
        try:
            yield
        finally:
            self.guidance = before
            self.load()  # decoding may have taken its place

    def velocity(self, x: Tensor, t: Tensor, batch: Batch, every_token: bool = True) -> Tensor:
        """See `Base.velocity`. Every token comes to the layers, whatever is asked for."""
        # Here a step can be given up without a trace, and a sampling takes many of these.
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self.model(
            x.to(self.dtype),
            t.float(),  # as the host's sampler gives it
            batch.text.tokens,
            batch.text.pooled,
            torch.full_like(t, self.guidance, dtype=self.dtype),
            ref_latents=[batch.reference],
            transformer_options={
                "optimized_attention_override": attention,
                "patches": {"post_input": [partial(place_tokens, batch.place, self._tokens(batch.reference), 0)]},
            },
        )

    def tokens(self, batch: Batch) -> Tokens:
        return Tokens(batch.text.tokens.shape[1], self._tokens(batch.reference))

    def _tokens(self, latents: Tensor) -> int:
        return latents.shape[-2] * latents.shape[-1] // self.model.patch_size**2

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        images = self.vae.decode(self.patcher.model.process_latent_out(latents.float().cpu()))
        return images.float().cpu().clamp(0, 1)


def _converted(linear: nn.Module, dtype: torch.dtype) -> bool:
    return quantized_as(linear) is not None or (linear.weight is not None and linear.weight.dtype != dtype)


def _own_weights(model: ModelPatcher) -> ModelPatcher:
    """Get the model without the host's paging of weights, where it pages them in and out by itself."""
    if model.is_dynamic() and hasattr(model, "get_non_dynamic_delegate"):
        return model.get_non_dynamic_delegate()
    return model


class HostEncoders:
    """Make `Encoders` of the host's. Every caption is the prompt that is given, which the host has encoded already.

    positive: the host's CONDITIONING. Raises LoRWebError if it is not one prompt.
    """

    def __init__(self, model: ModelPatcher, vae, positive: list):
        if len(positive) != 1:
            raise LoRWebError(f"positive has {len(positive)} prompts; expected one, e.g. from CLIP Text Encode.")
        self.model, self.vae = model.model, vae
        ((tokens, values),) = positive
        pooled = values.get("pooled_output")
        if pooled is None:
            raise LoRWebError("positive has no pooled output: encode the prompt with FLUX.1's text encoders.")
        self.text = Text(tokens.float().cpu(), pooled.float().cpu())
        picture = torch.linspace(0, 1, 64 * 64 * 3).view(1, 64, 64, 3)
        self.identity = digest(self.encode_image(picture), *self.text)
        """Digest of the prompt, and of what the autoencoder makes of a picture."""

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        return self.model.process_latent_in(self.vae.encode(images)).float().cpu()

    def encode_text(self, captions: list[str]) -> Text:
        return Text(*(values.clone().expand(len(captions), *values.shape[1:]) for values in self.text))


def digest(*tensors: Tensor) -> str:
    """Digest tensors, to tell them from others."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
