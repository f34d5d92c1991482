"""Small stand-ins for what the command line loads, in the layouts it loads them from; nothing is fetched.

For tests and demos on a CPU. Needs diffusers and transformers: `pip install .[cli]`.
"""

from __future__ import annotations

from pathlib import Path

import standins
import torch
from diffusers import FluxTransformer2DModel

from small_world.models.diffusers_folder import write_pipeline

# Widths of the two text encoders' outputs, which the transformer must take.
POOLED_WIDTH = 48
TEXT_WIDTH = 96


def make_pipeline(folder: str | Path, seed: int = 0) -> Path:
    """Write a small FLUX.1-Kontext pipeline around the transformer and the autoencoder of `standins`."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=standins.HEAD,
        num_attention_heads=standins.HIDDEN // standins.HEAD,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )
    transformer.load_state_dict(standins.flux(2, 2, TEXT_WIDTH, POOLED_WIDTH, seed))
    return write_pipeline(folder, transformer, standins.autoencoder())
