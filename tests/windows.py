"""Windows on one drawn picture, which lie apart as they are told to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT, WIDTH = 240, 320


def scene() -> Tensor:
    """Draw a picture with structure of all sizes, (480, 640, 3)."""
    generator = torch.Generator().manual_seed(1)
    layers = [torch.rand(1, 3, 480 // cell, 640 // cell, generator=generator) for cell in (5, 10, 20, 40)]
    return sum(F.interpolate(layer, (480, 640), mode="bilinear") for layer in layers)[0].movedim(0, -1) / 4


def window(down: int = 0, right: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Look at the scene's middle through a window moved up and left: what is seen moves down and right."""
    top, left = (480 - height) // 2 - down, (640 - width) // 2 - right
    return scene()[top : top + height, left : left + width]
