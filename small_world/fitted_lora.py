"""One LoRA fitted to what mixtures are fitted to: what a basis is held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from lorweb_core.config import BasisConfig
from lorweb_core.fitting.examples import draw, joined
from lorweb_core.fitting.settings import FitSettings
from lorweb_core.training.data.batch import Batch
from lorweb_core.training.objective import Base, denoising_loss
from lorweb_core.training.trainable_basis import TrainableBasis

RATE = 5e-3
"""Adam's learning rate."""


@contextmanager
def fitted_lora(base: Base, examples: Sequence[Batch], rank: int, steps: int, settings: FitSettings) -> Iterator[None]:
    """Have one LoRA on the base within, fitted to examples as mixtures are: the same noises and times in each step."""
    torch.manual_seed(settings.seed)
    lora = TrainableBasis(base.shapes, BasisConfig(linear=rank, loras_num=1, lora_keys_dim=1), 1)
    learned = [parameter for layer in lora.layers for parameter in (layer.down, layer.up)]
    optimizer = torch.optim.Adam(learned, lr=RATE)
    handles = lora.attach(base.model, base.linears)
    try:
        with torch.no_grad():
            lora.route(torch.zeros(1, 1, 1))  # of one LoRA softmax is 1, whatever the query is
        for step in range(steps):
            drawn, times, noises = draw(examples, settings, step)
            loss = denoising_loss(base, joined(drawn), times, noises, torch.ones_like(times)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield
    finally:
        for handle in handles:
            handle.remove()
