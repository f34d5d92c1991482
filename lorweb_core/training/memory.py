"""How much memory a training will need, before anything large is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import nn

from ..encoder import ENCODERS
from ..query import QUERY_MODES
from .settings.config import TrainingConfig

_BYTES = {"bf16": 2, "fp32": 4}
# Of a value of the basis: itself and its gradient in float32, and the optimizer's two moments.
_LEARNED = {"adamw": 4 + 4 + 8, "adamw8bit": 4 + 4 + 2}
# Tensors of hidden width that a block keeps for its backward pass: norms, q, k, v, attention, gates, the wide MLP.
# Counted in diffusers' FLUX at bf16: 25 in a double and 23 in a single one.
_KEPT = 24
# The same of gradients on their way through a block, the widest of five times hidden.
_PASSING = 12


class Memory(NamedTuple):
    """Hold how many bytes a training needs, about."""

    base: int
    learned: int
    activations: int
    in_cpu: int
    """What is kept of the base in the CPU's memory."""

    @property
    def total(self) -> int:
        """Sum up what is needed where the training runs."""
        return self.base + self.learned + self.activations

    def __str__(self) -> str:
        beside = f", and {self.in_cpu / 1e9:.1f} GB of the CPU's" if self.in_cpu else ""
        sizes = {"the base": self.base, "what is learned": self.learned, "activations": self.activations}
        return describe_sizes(sizes) + beside


def describe_sizes(sizes: Mapping[str, int]) -> str:
    """Say how much memory parts need together, and each of them. sizes: what for → bytes."""
    parts = ", ".join(f"{size / 1e9:.1f} for {what}" for what, size in sizes.items())
    return f"{sum(sizes.values()) / 1e9:.1f} GB of memory ({parts})"


class FluxGeometry(Protocol):
    """Describe the config of diffusers' FluxTransformer2DModel, as far as its memory depends on it."""

    num_attention_heads: int
    attention_head_dim: int
    num_layers: int
    """Number of double blocks."""
    num_single_layers: int


class Transformer(Protocol):
    """Describe diffusers' FluxTransformer2DModel, as far as its memory depends on it."""

    @property
    def config(self) -> FluxGeometry: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def estimate(config: TrainingConfig, transformer: Transformer, layers: Iterable[nn.Linear], on_gpu: bool) -> Memory:
    """Estimate what training a basis on these layers needs; an estimate, not a bound.

    transformer: may be on the meta device. What the allocator leaves unused is not counted, nor are the text encoders
    and the autoencoder, which run before the base is loaded.
    """
    train, size = config.train, _BYTES[config.train.dtype]
    base = sum(p.numel() for p in transformer.parameters()) * size
    in_cpu = 0
    if on_gpu and config.model.offload:
        base, in_cpu = base // 20, base
    elif on_gpu and config.model.quantize:
        base = base // size
    geometry = transformer.config
    hidden = geometry.num_attention_heads * geometry.attention_head_dim
    blocks = geometry.num_layers + geometry.num_single_layers
    # Noise and reference grid, tokens of 16 × 16 pixels, and the text.
    tokens = 2 * max((2 * data.resolution // 16) ** 2 for data in config.datasets) + config.model.text_tokens
    passing = train.batch_size * tokens * hidden * size
    values = sum(_values(config, layer) for layer in layers) + _network_values(config)
    learned = values * (_LEARNED[train.optimizer] + (4 if train.ema_decay else 0))
    return Memory(base, learned, activations(passing, [_KEPT] * blocks, train.gradient_checkpointing), in_cpu)


def activations(hidden: int, kept: Sequence[int], checkpointing: bool) -> int:
    """Estimate the bytes that a forward and a backward pass through FLUX's blocks hold, weights apart.

    hidden: bytes of all tokens' hidden state. kept: how many tensors of that size each block keeps.
    """
    # With checkpoints a block keeps its input, and one at a time the rest: 1.2 were counted in diffusers' FLUX.
    return round(hidden * (_PASSING + (1.2 * len(kept) + max(kept) if checkpointing else sum(kept))))


def _network_values(config: TrainingConfig) -> int:
    """Count the values of the query network."""
    basis = config.network.basis
    width = basis.encoder and QUERY_MODES[basis.query_mode].width(ENCODERS[basis.encoder])
    hidden = basis.query_network
    return 2 * hidden * width + hidden + width if hidden and width else 0


def _values(config: TrainingConfig, layer: nn.Linear) -> int:
    """Count the values of the basis in one layer: A and B, and with D wide keys, the keys and W_q."""
    basis = config.network.basis
    fan_in, fan_out = layer.in_features, layer.out_features
    loras, rank, keys_dim = basis.sizes
    query = fan_in
    if basis.encoder:
        query = QUERY_MODES[basis.query_mode].width(ENCODERS[basis.encoder]) or fan_in
    projects = basis.query_projection_type == "linear"
    routing = keys_dim * (loras + query) if projects else loras * query
    return loras * rank * (fan_in + fan_out) + routing


def short_of(needed: Memory, device: torch.device) -> str | None:
    """Say that a GPU has less than that free, if so; nothing else tells before it is too late."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if free >= needed.total:
        return None
    return (
        f"{device} has {free / 1e9:.1f} GB free, which may not be enough. Less is needed with a smaller "
        "train.batch_size, with train.gradient_checkpointing=true, and with model.quantize=true or model.offload=true."
    )
