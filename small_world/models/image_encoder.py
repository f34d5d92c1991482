"""A small CLIP vision tower that tells what is in a scene; `VisionEncoder` reads it as it reads CLIP ViT-L/14."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorweb_core.encoder import ENCODERS, FAMILIES, EncoderSpec
from small_world.models.one_cycle import Kept, OneCycle
from small_world.world.plain.scenes import ATTRIBUTES, Scenes, draw_scenes, render

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

ID = "lorweb/small-world"
SPEC = ENCODERS[ID]


def untrained(spec: EncoderSpec = SPEC, seed: int = 0) -> CLIPVisionModelWithProjection:
    """Make a tower of a spec's size with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=spec.token_width,
        intermediate_size=2 * spec.token_width,
        projection_dim=spec.width,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=spec.image_size,
        patch_size=8,
    )
    return CLIPVisionModelWithProjection(config)


def squares(pictures: Tensor) -> Tensor:
    """Normalize pictures (n, 3, SIDE, SIDE) in 0–1 as the tower takes them."""
    return FAMILIES[SPEC.family].normalize(pictures)


def train(kept: Kept, seed: int = 0, steps: int = 2000, batch: int = 128) -> CLIPVisionModelWithProjection:
    """Train the tower so that linear heads read a scene's attributes, and its object's place, from the embedding."""
    model = untrained(seed=seed)
    width = SPEC.width
    heads = nn.ModuleDict({name: nn.Linear(width, values) for name, values in ATTRIBUTES.items()})
    place = nn.Linear(width, 3)
    generator = torch.Generator().manual_seed(seed)
    trained = nn.ModuleList([model, heads, place])
    loop = OneCycle("encoder", trained, steps, generator, kept, rise=0.1, betas=(0.9, 0.999))
    for _ in loop:
        scenes = draw_scenes(batch, generator, edited=0.5)
        pictures = squares(render(scenes))
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = model(pixel_values=pictures).image_embeds.float()
        losses = {name: F.cross_entropy(head(embeddings), getattr(scenes, name)) for name, head in heads.items()}
        loss = sum(losses.values()) + 4 * F.mse_loss(place(embeddings), _place(scenes))
        # Embeddings of about unit variance, as CLIP's are of one scale.
        loss = loss + 0.01 * (embeddings.var(0) - 1).square().mean() + 0.01 * embeddings.mean(0).square().mean()
        with torch.no_grad():
            right = {n: (h(embeddings).argmax(1) == getattr(scenes, n)).float().mean().item() for n, h in heads.items()}
        loop.step(loss, **right)
    return model.eval()


def _place(scenes: Scenes) -> Tensor:
    """Find where the object is in the picture, and its size."""
    return torch.stack([scenes.x, scenes.y * (1 - 2 * scenes.flipped), scenes.size], 1)
