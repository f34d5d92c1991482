"""A TAESD with FLUX's 16 latent channels (madebyollin/taesd), trained on pictures of the world.

TAESD's layout is fixed at 64 channels and 2.4 million values. Most of its blocks are left at zero here, which makes
them a ReLU: what is trained is a third or half of it, and what is kept too (`taesd.full_taesd` adds the zeros).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from small_world.models.one_cycle import Kept, OneCycle
from small_world.models.taesd import DECODER_BLOCKS, ENCODER_BLOCKS, WIDTH

Draw = Callable[[int, torch.Generator], Tensor]

CHANNELS = 16
DOWNSCALE = 8
_CODERS = "taesd_encoder", "taesd_decoder"


class Blocks(NamedTuple):
    """Choose the blocks that are trained, by their positions."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


def blocks_in(names: Iterable[str]) -> Blocks:
    """Find the blocks whose weights are among these names of an autoencoder's."""
    parts = [name.split(".") for name in names]
    found = {coder: {int(at) for of, at, what, *_ in parts if of == coder and what == "conv"} for coder in _CODERS}
    return Blocks(*(tuple(sorted(found[coder])) for coder in _CODERS))


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

    def __init__(self, trained: Blocks) -> None:
        super().__init__()

        def conv(fan_in: int, fan_out: int, **options) -> nn.Conv2d:
            return nn.Conv2d(fan_in, fan_out, 3, padding=1, **options)

        down = {position: conv(WIDTH, WIDTH, stride=2, bias=False) for position in (2, 6, 10)}
        ends = {0: conv(3, WIDTH), 14: conv(WIDTH, CHANNELS)}
        self.taesd_encoder = _coder(ends | down, ENCODER_BLOCKS, trained.encoder)
        up = {position: nn.Upsample(scale_factor=2) for position in (6, 11, 16)}
        wide = {position: conv(WIDTH, WIDTH, bias=False) for position in (7, 12, 17)}
        ends = {0: Clamp(), 1: conv(CHANNELS, WIDTH), 2: nn.ReLU(), 19: conv(WIDTH, 3)}
        self.taesd_decoder = _coder(ends | up | wide, DECODER_BLOCKS, trained.decoder)

    def encode(self, pictures: Tensor) -> Tensor:
        return self.taesd_encoder(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        return self.taesd_decoder(latents)


def train(
    draw: Draw, blocks: Blocks, kept: Kept, steps: int, batch: int = 8, seed: int = 0, noise: float = 0.03
) -> TinyAutoencoder:
    """Train it to reconstruct pictures from noisy latents, so that what a model paints nearly right still decodes.

    Pictures are encoded in grids of four, and every other time each is decoded alone: so that b' can be cut out of a
    grid's latents, nothing of a picture is left in its neighbours'. draw: draws so many pictures, (n, 3, h, w) in 0–1.
    noise: deviation of what is added to latents of unit variance.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = TinyAutoencoder(blocks).to(memory_format=torch.channels_last)
    for step in (loop := OneCycle("autoencoder", model, steps, generator, kept, decay=0.0)):
        pictures = _grids(draw(batch, generator)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(pictures).float()
            noisy = latents + noise * torch.randn(latents.shape, generator=generator)
            if step % 2:
                noisy, pictures = _cells(noisy), _cells(pictures)
            decoded = model.decode(noisy).float()
        spread = latents.var((0, 2, 3)).sub(1).square().mean() + latents.mean((0, 2, 3)).square().mean()
        error = F.mse_loss(decoded, pictures)
        loop.step(error + 0.1 * F.l1_loss(decoded, pictures) + 0.01 * spread, mse=error.item())
    return model.eval()


def _grids(pictures: Tensor) -> Tensor:
    """Lay pictures (4n, C, h, w) out in grids of four, (n, C, 2h, 2w)."""
    return rearrange(pictures, "(n i j) c h w -> n c (i h) (j w)", i=2, j=2)


def _cells(grids: Tensor) -> Tensor:
    """Cut grids into their four cells, as `_grids` takes them."""
    return rearrange(grids, "n c (i h) (j w) -> (n i j) c h w", i=2, j=2)
