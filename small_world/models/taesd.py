"""The layout of a TAESD (madebyollin/taesd), of which the small world's autoencoder keeps what was trained."""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH = 64
"""Channels inside the autoencoder."""

ENCODER_BLOCKS = (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
"""Sequential positions of the encoder's blocks, as in ComfyUI's comfy/taesd/taesd.py."""

DECODER_BLOCKS = (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)
"""Sequential positions of the decoder's blocks."""

Weights = dict[str, Tensor]


def full_taesd(weights: Weights) -> Weights:
    """Complete what was trained to every tensor of a TAESD, under ComfyUI's names.

    They are for FLUX's scale and shift of latents.
    """
    # The host's FLUX takes (latent − shift) · scale: these two make that the encoder's own output.
    whole = {"vae_scale": torch.tensor(0.3611), "vae_shift": torch.tensor(0.1159)}
    for coder, blocks in (("taesd_encoder", ENCODER_BLOCKS), ("taesd_decoder", DECODER_BLOCKS)):
        for name in (f"{coder}.{block}.conv.{layer}" for block in blocks for layer in (0, 2, 4)):
            whole[f"{name}.weight"] = torch.zeros(WIDTH, WIDTH, 3, 3)
            whole[f"{name}.bias"] = torch.zeros(WIDTH)
    return whole | {name: tensor.float() for name, tensor in weights.items()}
