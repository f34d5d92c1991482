"""The encoder's second half: a query against one layer's keys gives that layer's mixing coefficients."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def mixing_coefficients(query: Tensor, keys: Tensor, heads: int, softmax: bool, reduction: str) -> Tensor:
    """Coefficients of a layer's N LoRAs, or of many layers' at once (arXiv 2602.15727, as NVlabs/LoRWeB computes them).

    Per head, of width d = D / heads: the softmax over the N keys, or the tanh, of query · key / √d.
    query: (..., t, D), t projected queries; keys: (..., N, D). Returns (..., N) in the dtype of the query.
    reduction: 'mean' or 'sum' over heads and queries; the sum is clamped to the range of one of its terms.
    """
    query = rearrange(query, "... t (h d) -> ... h t d", h=heads)
    keys = rearrange(keys, "... n (h d) -> ... h n d", h=heads)
    logits = query @ keys.mT / query.shape[-1] ** 0.5
    scores = logits.softmax(-1) if softmax else logits.tanh()
    if reduction == "mean":
        return scores.mean((-3, -2))
    return scores.sum((-3, -2)).clamp(0.0 if softmax else -1.0, 1.0)
