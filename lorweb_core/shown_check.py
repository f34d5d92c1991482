"""Whether the mixtures on a model were made of what the model is shown."""

from __future__ import annotations

from collections.abc import Sequence

from .likeness import Likeness, are_alike
from .mixture import Mixture
from .query import QUERY_MODES


def find_other(mixtures: Sequence[Mixture], shown: Sequence[Likeness]) -> str | None:
    """Find what the mixtures were made of that the model is not shown: 'b', say; None if one was made of what it is.

    Several mixtures on one model may be of several analogies. Those that may be used for whatever is shown fit always,
    and b counts only where the basis is asked with it.
    """
    found = [_other(mixture, shown) for mixture in mixtures]
    return found[0] if found and all(found) else None


def _other(mixture: Mixture, shown: Sequence[Likeness]) -> str | None:
    seen = mixture.seen
    if not seen:
        return None
    if len(seen) not in (1, len(shown)):
        return f"a batch of {len(seen)}, and not {len(shown)}, analogies"
    both = list(zip(seen * (len(shown) // len(seen)), shown, strict=True))
    if not all(one.shares_a_pair(other) for one, other in both):
        return "another a or a'"
    sees_b = QUERY_MODES[mixture.basis.config.query_mode].sees_b
    return "another b" if sees_b and not all(are_alike(one.b, other.b) for one, other in both) else None
