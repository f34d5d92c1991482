"""The encoder's second half: a query against one layer's keys gives that layer's mixing coefficients.

A basis trained with `external_query: false` takes its query from the layer's own input; which tokens it looks at, and
how they are pooled, is here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from . import layer_names
from .errors import LoRWebError


def mixing_coefficients(
    query: Tensor, keys: Tensor, heads: int, softmax: bool, reduction: str, parts: Sequence[int] | None = None
) -> Tensor:
    """Compute the coefficients of a layer's N LoRAs, or of many layers' at once (NVlabs/LoRWeB, arXiv 2602.15727).

    Per head, of width d = D / heads: the softmax over the N keys, or the tanh, of query · key / √d.
    query: (..., t, D), t projected queries; keys: (..., N, D). Returns (..., N) in the dtype of the query.
    reduction: 'mean' or 'sum' over heads and queries; the sum is clamped to the range of one of its terms.
    parts: of a merged basis, how many of the N each of its bases has: the softmax is over these.
    """
    query = rearrange(query, "... t (h d) -> ... h t d", h=heads)
    keys = rearrange(keys, "... n (h d) -> ... h n d", h=heads)
    logits = query @ keys.mT / query.shape[-1] ** 0.5
    scores = softmax_by_parts(logits, parts) if softmax else logits.tanh()
    if reduction == "mean":
        return scores.mean((-3, -2))
    return scores.sum((-3, -2)).clamp(0.0 if softmax else -1.0, 1.0)


def softmax_by_parts(logits: Tensor, parts: Sequence[int] | None) -> Tensor:
    """Compute the softmax of logits (..., N) over each of the parts by itself; None is one of all N."""
    if not parts:
        return logits.softmax(-1)
    return torch.cat([part.softmax(-1) for part in logits.split(list(parts), -1)], -1)


# Internal query mode → how many of the n reference tokens are looked at, from the first on; None: every token there is.
TOKEN_MODES: dict[str, Callable[[int], int] | None] = {
    "aa'bb'": None,
    "caa'bb'": lambda n: n,
    "caa'b": lambda n: n // 4 * 3,
    "caa'": lambda n: n // 2,
}

POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda tokens: tokens.mean(1, dtype=tokens.float().dtype),
    "max": lambda tokens: tokens.amax(1),
}


class Tokens(NamedTuple):
    """Tell how the tokens of one forward pass are made up: text, then noise, then references."""

    text: int
    references: int
    pictures: int = 1
    """Number of reference pictures that the reference tokens are of."""


def token_query(layer: str, x: Tensor, tokens: Tokens, mode: str, pooling: str) -> Tensor:
    """Make the query that an activation-routed layer makes of its own input (NVlabs/LoRWeB, attlora_forward).

    x: (batch, tokens, in), or (batch, in) in modulation layers, which have no tokens: their input is the query.
    Returns (batch, in). Raises LoRWebError if the mode looks at reference tokens and there are none.
    """
    name = layer_names.parse(layer)
    if x.ndim == 2 or name.kind == "modulation":
        return x if x.ndim == 2 else x[:, 0]
    share = TOKEN_MODES[mode]
    if share is None:
        return POOLINGS[pooling](x)
    # No image token comes into the text stream. As published, the same share of its second half is taken there.
    references = x.shape[1] - x.shape[1] // 2 if name.stream == "text" else tokens.references
    if not references:
        raise LoRWebError(
            f"The basis looks at the reference grid (query mode {mode}), but the model is given no reference. "
            "Connect Kontext Extended-Attention Conditioning to the sampler's positive and negative."
        )
    if share(references) != references and tokens.pictures != 1:
        raise LoRWebError(
            f"The basis looks at a part of the reference grid (query mode {mode}), but the model is given "
            f"{tokens.pictures} reference pictures. Set the layout to grid, and add no other reference."
        )
    start = x.shape[1] - references
    return POOLINGS[pooling](x[:, start : start + max(1, share(references))])
