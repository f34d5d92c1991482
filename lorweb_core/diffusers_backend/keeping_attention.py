"""Compute FLUX's attention in diffusers with keys and values that a function may change, positions applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_flux import FluxAttention

ChangeKeys = Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(the attention's name, k, v) → the k and v to attend to; each (batch, heads, tokens, width)."""


class KeepingAttention:
    """Compute what FluxAttnProcessor of diffusers 0.42 does, but with keys and values that `change` returns."""

    def __init__(self, name: str, change: ChangeKeys):
        self._name = name
        self._change = change

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend as a block asks for it: text apart, as in double blocks, or None, where it is among the tokens."""
        from diffusers.models.attention_dispatch import dispatch_attention_fn
        from diffusers.models.embeddings import apply_rotary_emb

        def project(
            tokens: Tensor, linears: tuple[nn.Module, ...], norm_q: nn.Module, norm_k: nn.Module
        ) -> tuple[Tensor, ...]:
            q, k, v = (linear(tokens).unflatten(-1, (attn.heads, -1)) for linear in linears)
            return norm_q(q), norm_k(k), v

        qkv = project(hidden_states, (attn.to_q, attn.to_k, attn.to_v), attn.norm_q, attn.norm_k)
        if encoder_hidden_states is not None:
            linears = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            text = project(encoder_hidden_states, linears, attn.norm_added_q, attn.norm_added_k)
            qkv = tuple(torch.cat(parts, 1) for parts in zip(text, qkv, strict=True))
        q, k, v = qkv
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(part, image_rotary_emb, sequence_dim=1) for part in (q, k))
        k, v = (part.transpose(1, 2) for part in self._change(self._name, k.transpose(1, 2), v.transpose(1, 2)))
        attended = dispatch_attention_fn(q, k, v, attn_mask=attention_mask).flatten(2, 3).to(q.dtype)
        if encoder_hidden_states is None:
            return attended
        words = encoder_hidden_states.shape[1]
        image = attn.to_out[1](attn.to_out[0](attended[:, words:].contiguous()))
        return image, attn.to_add_out(attended[:, :words].contiguous())
