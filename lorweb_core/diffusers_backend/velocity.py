"""What diffusers' FLUX.1 Kontext predicts: latents and a reference in, velocities out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from ..layout import ORIGIN, Place
from ..training.data.batch import Text

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

# The most that half precision may change log m by, which is as much of the tokens' weight.
_LOG_ERROR = 0.005


def flux_velocity(
    transformer: FluxTransformer2DModel,
    x: Tensor,
    t: Tensor,
    reference: Tensor,
    text: Text,
    guidance: float,
    place: Place = ORIGIN,
    merge_text: bool = True,
) -> Tensor:
    """Predict the velocity at x, (n, C, h, w), and times t, (n,), with one reference for each, likewise latents.

    place: position of x's first token; the reference's is (0, 0).
    merge_text: compute text tokens that repeat once, with the same result; not for what looks at all tokens itself.
    """
    height, width = x.shape[-2:]
    tokens = torch.cat([_patches(x), _patches(reference)], 1)
    words, bias = _merge_repeats(text.tokens, tokens.shape[1]) if merge_text else (text.tokens, None)
    positions = torch.cat([_positions(x, 0, place), _positions(reference, 1)])
    predicted = transformer(
        hidden_states=tokens,
        timestep=t.to(tokens),
        guidance=torch.full_like(t, guidance, dtype=tokens.dtype) if transformer.config.guidance_embeds else None,
        encoder_hidden_states=words,
        pooled_projections=text.pooled,
        txt_ids=torch.zeros(words.shape[1], 3, device=x.device),
        img_ids=positions,
        joint_attention_kwargs=None if bias is None else {"attention_mask": bias},
        return_dict=False,
    )[0]
    count = height * width // 4
    return rearrange(predicted[:, :count], "n (h w) (c i j) -> n c (h i) (w j)", h=height // 2, i=2, j=2)


def _patches(latents: Tensor) -> Tensor:
    return rearrange(latents, "n c (h i) (w j) -> n (h w) (c i j)", i=2, j=2)


def _positions(latents: Tensor, index: int, place: Place = ORIGIN) -> Tensor:
    sides = zip(place, latents.shape[-2:], strict=True)
    rows, columns = (torch.arange(first, first + side // 2, device=latents.device) for first, side in sides)
    return torch.stack(
        torch.broadcast_tensors(torch.full((1, 1), index, device=latents.device), rows[:, None], columns), -1
    ).flatten(0, 1)


def _merge_repeats(words: Tensor, others: int) -> tuple[Tensor, Tensor | None]:
    """Merge runs of equal text tokens into one each, and tell what to add to the attention's logits for that.

    Text has no positions, so m equal tokens stay equal, and attention to one with log m added is attention to all m.
    A prompt without words is one token instead of hundreds. others: the tokens that follow the text.
    """
    differs = (words[:, 1:] != words[:, :-1]).any(-1).any(0)
    if differs.all():
        return words, None
    first = torch.cat([differs.new_ones(1), differs])
    lengths = torch.diff(first.nonzero()[:, 0], append=torch.tensor([len(first)], device=first.device))
    exact = lengths.log()
    bias = exact.to(words.dtype)
    if (bias - exact).abs().max() > _LOG_ERROR:
        return words, None
    return words[:, first], torch.cat([bias, words.new_zeros(others)])[None, None, None]
