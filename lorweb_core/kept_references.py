"""The keys and values of reference tokens, kept from one step of sampling for the next ones.

The references are the same in every step, and what the model makes of them hardly changes with the noise: computed
once, they are left out of the later steps, whose own tokens still attend to them. Others do so with models trained for
it (OminiControl2, arXiv 2503.08280; FLUX.2 klein 9B-KV).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .basis import LoRABasis
from .errors import LoRWebError, named, shown
from .routing import TOKEN_MODES


class Refresh(NamedTuple):
    """Choose the steps in which references are computed; the others use what was kept."""

    every: int = 1
    """In every k-th step: 1, as published, in each; 0 in the first only."""
    shares: tuple[float, ...] = ()
    """Instead of `every`: in the first step, and at these shares of the steps, each from 0 to below 1."""

    def check(self) -> None:
        """Raise LoRWebError if these are no such choices."""
        if not 0 <= self.every <= 10_000:
            raise LoRWebError(
                f"The references are to be computed in every {shown(self.every)}-th step; expected a whole number: 1 "
                "for each step, 0 for the first only."
            )
        for share in self.shares:
            if not 0 <= share < 1:
                raise LoRWebError(
                    f"The references are to be computed at the share {shown(share)} of the steps; expected numbers "
                    "from 0 to below 1, such as 0.5."
                )

    @property
    def keeps(self) -> bool:
        """Tell whether there are steps that use what was kept."""
        return bool(self.shares) or self.every != 1

    def round(self, step: int, steps: int) -> int:
        """Number the round that a step of so many belongs to, both from 0: its first step computes the references."""
        if self.shares:
            return bisect_right(sorted({0, *(int(share * steps) for share in self.shares)}), step)
        return step // self.every if self.every else 0


EACH_STEP = Refresh()
"""References are computed in each step, as published."""


class StoredForm(NamedTuple):
    """Hold tensors in some form, (…, width) each."""

    store: Callable[[Tensor], tuple[Tensor, ...]]
    restore: Callable[[tuple[Tensor, ...], torch.dtype], Tensor]
    bytes_of: Callable[[int, int], float]
    """Width and bytes of an element as it was computed → bytes that a value of it takes."""


def _to_int8(values: Tensor) -> tuple[Tensor, ...]:
    """Round each token's values of a head to 8 bits, with a scale of their own."""
    scale = values.abs().amax(-1, keepdim=True).float().clamp_min(1e-12) / 127
    return (values / scale).round().to(torch.int8), scale


STORED = {
    "exact": StoredForm(lambda values: (values,), lambda kept, dtype: kept[0].to(dtype), lambda width, size: size),
    "int8": StoredForm(_to_int8, lambda kept, dtype: (kept[0] * kept[1]).to(dtype), lambda width, size: 1 + 4 / width),
}
"""Forms in which keys and values are held: as they were computed, or in 8 bits."""


class _Kept(NamedTuple):
    round: int
    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]


class KeptReferences:
    """Keep keys and values of one run: by picture and by attention, each of one round.

    stored: one of STORED. device: where they are held; None where they are computed.
    """

    def __init__(self, stored: str = "exact", device: torch.device | None = None):
        if stored not in STORED:
            raise LoRWebError(f"The references are to be kept as {shown(stored)}; expected: {', '.join(STORED)}.")
        self._form, self._device = STORED[stored], device
        self._kept: dict[Hashable, dict[Hashable, _Kept]] = {}

    def serve(self, pictures: Sequence[Hashable], round: int) -> bool:
        """Tell whether all of these pictures are there, of this round."""
        return all(
            (held := self._kept.get(picture)) and all(kept.round == round for kept in held.values())
            for picture in pictures
        )

    def keep(self, pictures: Sequence[Hashable], round: int, attention: Hashable, k: Tensor, v: Tensor) -> None:
        """Keep what an attention of this pass computed for the reference tokens alone.

        k, v: (batch, heads, tokens, width), positions applied; the batch has equally many for each picture, in order:
        as many as are sampled of it, or one that serves them all.
        """
        for picture, *parts in zip(pictures, k.chunk(len(pictures)), v.chunk(len(pictures)), strict=True):
            held = [tuple(map(self._moved, self._form.store(part))) for part in parts]
            self._kept.setdefault(picture, {})[attention] = _Kept(round, *held)

    def join(self, pictures: Sequence[Hashable], attention: Hashable, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append what was kept for an attention to this pass's keys and values, (batch, heads, tokens, width)."""
        held = [self._kept[picture][attention] for picture in pictures]
        each = len(k) // len(pictures)

        def restored(stored: tuple[Tensor, ...]) -> Tensor:
            values = self._form.restore(tuple(t.to(k.device) for t in stored), k.dtype)
            return values.expand(each, *values.shape[1:])

        kept_k = torch.cat([restored(kept.k) for kept in held])
        kept_v = torch.cat([restored(kept.v) for kept in held])
        return torch.cat([k, kept_k], 2), torch.cat([v, kept_v], 2)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for held in self._kept.values() for each in held.values() for t in (*each.k, *each.v))

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()

    def _moved(self, values: Tensor) -> Tensor:
        # A part of a pass's tensor would hold all of it.
        return values.to(self._device or values.device, copy=True)


def kept_bytes(attentions: int, batch: int, tokens: int, width: int, element: int, stored: str = "exact") -> int:
    """Compute the bytes that keys and values take.

    attentions: how many the model has. tokens: of the references. width: heads times the width of one, of which FLUX's
    are 128. element: bytes of a value as it is computed.
    """
    return int(2 * attentions * batch * tokens * width * STORED[stored].bytes_of(128, element))


def check_can_keep(basis: LoRABasis) -> None:
    """Raise LoRWebError for a basis whose routing looks at the reference tokens of every pass."""
    config = basis.config
    if not config.external_query:
        seen = "all tokens" if TOKEN_MODES[config.query_mode] is None else "the reference tokens"
        raise LoRWebError(
            f"{named(basis.name)} routes each layer by its own input and looks at {seen} in every step (query mode "
            f"{config.query_mode}), so its references cannot be kept. Have them computed in each step."
        )
