"""A TAESD with FLUX's 16 latent channels (madebyollin/taesd), trained on pictures of the world.

TAESD's layout is fixed at 64 channels and 2.4 million values. Most of its blocks are left at zero here, which makes
them a ReLU: what is trained is a third of it, and what is kept too (`taesd.full_taesd` adds the zeros).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from small_world.models.one_cycle import Kept, OneCycle
from small_world.models.taesd import DECODER_BLOCKS, ENCODER_BLOCKS, WIDTH

Draw = Callable[[int, torch.Generator], Tensor]

CHANNELS = 16
DOWNSCALE = 8
_ENCODER_TRAINED, _DECODER_TRAINED = (9, 12, 13), (3, 4, 5, 9, 10, 15)


class Block(nn.Module):
    """Add three convolutions to the input; without training, only clip it at 0."""

    def __init__(self, trained: bool):
        super().__init__()
        convs = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3)] if trained else []
        self.conv = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))[:-1] if convs else None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x if self.conv is None else x + self.conv(x))


class Clamp(nn.Module):
    """Keep latents between −3 and 3, smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _coder(layers: dict[int, nn.Module], blocks: tuple[int, ...], trained: tuple[int, ...]) -> nn.Sequential:
    layers |= {position: Block(position in trained) for position in blocks}
    return nn.Sequential(*(layers[position] for position in range(len(layers))))


class TinyAutoencoder(nn.Module):
    """Code pictures (n, 3, H, W) in 0–1 as latents (n, 16, H/8, W/8) of about unit variance, and back."""

    def __init__(self) -> None:
        super().__init__()

        def conv(fan_in: int, fan_out: int, **options) -> nn.Conv2d:
            return nn.Conv2d(fan_in, fan_out, 3, padding=1, **options)

        down = {position: conv(WIDTH, WIDTH, stride=2, bias=False) for position in (2, 6, 10)}
        ends = {0: conv(3, WIDTH), 14: conv(WIDTH, CHANNELS)}
        self.taesd_encoder = _coder(ends | down, ENCODER_BLOCKS, _ENCODER_TRAINED)
        up = {position: nn.Upsample(scale_factor=2) for position in (6, 11, 16)}
        wide = {position: conv(WIDTH, WIDTH, bias=False) for position in (7, 12, 17)}
        ends = {0: Clamp(), 1: conv(CHANNELS, WIDTH), 2: nn.ReLU(), 19: conv(WIDTH, 3)}
        self.taesd_decoder = _coder(ends | up | wide, DECODER_BLOCKS, _DECODER_TRAINED)

    def encode(self, pictures: Tensor) -> Tensor:
        return self.taesd_encoder(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        return self.taesd_decoder(latents)


def train(draw: Draw, kept: Kept, steps: int = 9000, batch: int = 8, seed: int = 0) -> TinyAutoencoder:
    """Train it to reconstruct pictures from noisy latents, so that what a model paints nearly right still decodes.

    draw: draws so many pictures, (n, 3, h, w) in 0–1.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = TinyAutoencoder().to(memory_format=torch.channels_last)
    for _ in (loop := OneCycle("autoencoder", model, steps, generator, kept, decay=0.0)):
        pictures = draw(batch, generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(pictures).float()
            noise = 0.05 * torch.randn(latents.shape, generator=generator)
            decoded = model.decode(latents + noise).float()
        spread = latents.var((0, 2, 3)).sub(1).square().mean() + latents.mean((0, 2, 3)).square().mean()
        error = F.mse_loss(decoded, pictures)
        loop.step(error + 0.1 * F.l1_loss(decoded, pictures) + 0.01 * spread, mse=error.item())
    return model.eval()
