"""FLUX.1 Kontext from a folder in diffusers' layout: what encodes the data, and then what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import LoRWebError
from ..training.data.batch import Text
from ..training.settings.config import ModelSettings, TrainSettings
from .base import FluxBase
from .offload import offload
from .pipeline import loading_model

if TYPE_CHECKING:
    from diffusers import FluxKontextPipeline

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class KontextEncoders:
    """Hold the autoencoder and the text encoders, which are not needed any more once everything is cached."""

    def __init__(self, settings: ModelSettings, device: torch.device, dtype: torch.dtype):
        from diffusers import FluxKontextPipeline

        self.settings = settings
        self.device = device
        with loading_model(settings.name_or_path):
            self.pipeline: FluxKontextPipeline = FluxKontextPipeline.from_pretrained(
                settings.name_or_path, transformer=None, torch_dtype=dtype, use_safetensors=True
            ).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    @property
    def identity(self) -> str:
        """Tell where latents would differ: by the model, its autoencoder's settings, and the dtype."""
        return f"{self.settings.name_or_path} {dict(self.pipeline.vae.config)} {self.pipeline.vae.dtype}"

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Encode (n, H, W, 3) in 0–1 as latents (n, C, h, w) that the transformer denoises, float32 on the CPU."""
        vae = self.pipeline.vae
        encoded = vae.encode((images.movedim(-1, 1) * 2 - 1).to(self.device, vae.dtype))
        # As in the pipeline's inference: the middle of the distribution, where there is one.
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return ((latents - vae.config.shift_factor) * vae.config.scaling_factor).float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (n, C, h, w) to pictures (n, H, W, 3) in 0–1, float32 on the CPU."""
        vae = self.pipeline.vae
        latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        return (vae.decode(latents).sample.float().cpu() / 2 + 0.5).clamp(0, 1).movedim(1, -1)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Text:
        """Encode each caption; on the CPU."""
        tokens, pooled, _ = self.pipeline.encode_prompt(
            list(captions), None, device=self.device, max_sequence_length=self.settings.text_tokens
        )
        return Text(tokens.float().cpu(), pooled.float().cpu())

    def forget_text(self) -> None:
        """Give the memory of the text encoders back; the autoencoder stays, for samples."""
        self.pipeline.text_encoder = self.pipeline.text_encoder_2 = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load_base(
    model: ModelSettings,
    train: TrainSettings,
    layers: str | Sequence[str] | None,
    encoders: KontextEncoders,
    device: torch.device,
) -> FluxBase:
    """Load the frozen transformer onto its device: as it is, in 8 bits, or with its weights kept in the CPU's memory.

    Asked for both, as `quantize` is by default, its weights are kept in the CPU's memory, and not in 8 bits.
    Raises LoRWebError if it cannot be loaded so.
    """
    from diffusers import FluxTransformer2DModel

    eight_bits = model.quantize and not model.offload and device.type == "cuda"
    options = {"quantization_config": _eight_bits()} if eight_bits else {}
    with loading_model(model.name_or_path):
        transformer = FluxTransformer2DModel.from_pretrained(
            model.name_or_path,
            subfolder="transformer",
            torch_dtype=DTYPES[train.dtype],
            use_safetensors=True,
            **options,
        )
    transformer.requires_grad_(False)
    if model.offload:
        offload(transformer, device)
    elif not eight_bits:  # that bitsandbytes puts there itself
        transformer.to(device)
    base = FluxBase(transformer, encoders.decode, model.guidance, layers)
    base.device = device
    return base


def _eight_bits():
    from diffusers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise LoRWebError(
            "model.quantize is true, which needs bitsandbytes: run `pip install bitsandbytes`, or train with --set "
            "model.quantize=false (12 GB more), or with --set model.offload=true (slower)."
        ) from error
    return BitsAndBytesConfig(load_in_8bit=True)
