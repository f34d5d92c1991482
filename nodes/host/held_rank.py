"""The rank in which a mixture at run time is held: all N·r of its basis, or a lower one, which is said in the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...lorweb_core import LoRABasis, Mixture
from ...lorweb_core.errors import LoRWebError
from ...lorweb_core.light_mixture import ERROR, LightMixture, lighten
from .flux_layers import HostKeys
from .packed_basis import HostBasis, pack, packed_basis
from .progress import progress_bar

log = logging.getLogger(__name__)

Packed = tuple[HostBasis, Mapping[str, Tensor]]
"""Packed LoRAs that a mixture at run time reads, and the coefficients of these."""

WORTH = 0.75
"""Share of the whole that a lower rank must stay below where nobody asked for it: it is computed anew per mixture."""


class HeldRank(NamedTuple):
    """Say in which rank a mixture at run time is to be held; as it comes, in all of the basis's."""

    rank: int = 0
    """Rank of every layer; 0 goes by the error."""
    error: float = 0.0
    """Share of each layer's change that may be left out; 0 leaves out nothing."""
    sparing: bool = False
    """True to leave out up to 1 % unasked, where that is worth it."""

    def check(self) -> None:
        """Raise LoRWebError for numbers out of range."""
        if self.rank < 0:
            raise LoRWebError(f"run_time_rank is {self.rank}; expected a number from 1, or 0 to go by the error.")
        if not (math.isfinite(self.error) and 0 <= self.error < 1):
            raise LoRWebError(f"run_time_error is {self.error}; expected a share from 0 to below 1, such as 0.01.")

    @property
    def asked(self) -> bool:
        """Tell whether somebody asked for less than all."""
        return bool(self.rank or self.error)


WHOLE = HeldRank()


class _Lightened(NamedTuple):
    """Hold what came of a mixture, to be found again: packed, or None where a lower rank holds no less."""

    key: tuple
    packed: Packed | None
    said: str


# Of each basis the last one: a second run with another strength does not decompose again.
_last: WeakKeyDictionary[LoRABasis, _Lightened] = WeakKeyDictionary()


def held_mixture(mixture: Mixture, keys: HostKeys, model: ModelPatcher, held: HeldRank) -> Packed:
    """Pack a mixture, or its whole basis, in the dtype that `model` computes in, and say in the log which."""
    basis = mixture.basis
    if mixture.coefficients and (held.asked or held.sparing):
        light = _lightened(mixture, keys, model, held)
        log.info("%s: %s", basis.name, light.said)
        if light.packed:
            return light.packed
    elif held.asked:
        log.warning("%s: held at run time in all its rank, as it routes by what changes at every step.", basis.name)
    return packed_basis(basis, keys, model), mixture.coefficients


def _lightened(mixture: Mixture, keys: HostKeys, model: ModelPatcher, held: HeldRank) -> _Lightened:
    basis = mixture.basis
    dtype = model.model.get_dtype_inference()
    key = (held, dtype, tuple(mixture.table.shape), mixture.table.contiguous().numpy().tobytes())
    if basis not in _last or _last[basis].key != key:
        _last.pop(basis, None)
        below = 1.0 if held.asked else WORTH
        light = lighten(mixture, held.rank, held.error or ERROR, below, progress_bar(len(basis.layers)))
        packed = (pack(basis, keys, model, light), light.coefficients) if light else None
        _last[basis] = _Lightened(key, packed, _said(mixture, held, light))
    return _last[basis]


def _said(mixture: Mixture, held: HeldRank, light: LightMixture | None) -> str:
    each = f" for each of {mixture.analogies} analogies" if mixture.analogies > 1 else ""
    if light is None:
        less = f"rank {held.rank}" if held.rank else f"what leaves out {held.error or ERROR:.2%}"
        saves = "is no less" if held.asked else "does not save a quarter"
        return f"held at run time in all its rank, exact: {less}{each} {saves}."
    least, largest = light.ranks
    rank = f"rank {least}" if least == largest else f"ranks {least} to {largest}"
    held_in = f"held at run time in {rank}{each}, {light.share:.0%} of the whole"
    return f"{held_in}; the largest error of a layer is {light.error:.2%}."
