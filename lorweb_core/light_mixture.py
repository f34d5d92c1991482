"""A mixture at run time in a lower rank: of each layer what is nearest to its ΔW, instead of all N·r of the basis.

The nearest products are combinations of the basis's own columns, which are small; the factors themselves are made as a
layer is packed. What the layers' decompositions have in common is computed once per basis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .basis import LoRABasis, Progress
from .checkpoint import BasisLayer
from .errors import LoRWebError, shown
from .low_rank import Factors, Roots, decompose_core, gram_root
from .mixture import Mixture
from .threads import one_thread

ERROR = 0.01
"""Share of a layer's change that may be left out where nothing else is asked for."""

# By error, every so many-th layer tells first whether a lower rank is worth the decomposition of all of them. A prime:
# blocks have 14 and 6 layers.
_SAMPLED = 17

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class LightLayer(NamedTuple):
    """Hold how a layer's change of each of n analogies is made of the basis's columns, float32."""

    combinations: Factors
    """(n, N·r, k) of B's, and (n, k, N·r) of A's, coefficients and scale in them."""
    error: float
    """‖ΔW − ΔW_k‖ / ‖ΔW‖, the largest of the analogies."""

    @property
    def rank(self) -> int:
        return self.combinations.down.shape[1]


@dataclass(frozen=True, eq=False, repr=False)
class LightMixture:
    """Hold a mixture of n analogies as a basis of n LoRAs, one for each: the nearest of their rank to its ΔW."""

    basis: LoRABasis
    """Basis whose columns are combined."""
    layers: Mapping[str, LightLayer]

    @property
    def coefficients(self) -> dict[str, Tensor]:
        """Return what the n LoRAs of each layer are multiplied by, in the form of `Mixture.coefficients`: 1 and 0."""
        return {name: torch.eye(len(layer.combinations.up)) for name, layer in self.layers.items()}

    @property
    def error(self) -> float:
        """Return the error of the layer that has the largest."""
        return max(layer.error for layer in self.layers.values())

    @property
    def ranks(self) -> tuple[int, int]:
        """Return the least and the largest rank of a layer."""
        ranks = [layer.rank for layer in self.layers.values()]
        return min(ranks), max(ranks)

    @property
    def share(self) -> float:
        """Compute how many values are held for one that the basis has in A and B of these layers."""
        analogies = len(next(iter(self.layers.values())).combinations.up)
        return _share(self.basis, {name: layer.rank * analogies for name, layer in self.layers.items()})

    def layer(self, name: str) -> BasisLayer:
        """Make a layer's n LoRAs: A (n, in, k), B (n, k, out), float32."""
        whole, (up, down) = self.basis.layers[name], self.layers[name].combinations
        A = down @ whole.A.mT.flatten(0, 1).float()
        B = up.mT @ whole.B.flatten(0, 1).float()
        return BasisLayer(A.mT, B, A.new_empty(len(A), 0), None)


def lighten(
    mixture: Mixture, rank: int = 0, error: float = ERROR, below: float = 1.0, progress: Progress | None = None
) -> LightMixture | None:
    """Bring every layer of a mixture to a rank, or for rank 0 to the least whose error is `error` at most.

    The error is held in every layer by itself, and for every analogy of a batch: how large a layer's change is does not
    tell what it does to the picture, as each has inputs of another size, and a limit for the whole would drop the small
    ones. Analogies share a layer's rank, the largest of theirs. below: gives None where as many values, for one of the
    basis's, or more would be held. Raises LoRWebError for settings out of range, and for an activation-routed basis.
    """
    if rank < 0:
        raise LoRWebError(f"The rank is {shown(rank)}; expected a number from 1, or 0 to go by the error.")
    if not 0 <= error < 1:
        raise LoRWebError(f"The error is {shown(error)}; expected a share from 0 to below 1, such as 0.01.")
    basis = mixture.basis
    weights = {
        name: torch.atleast_2d(row) * layer.scale
        for (name, layer), row in zip(basis.layers.items(), mixture.table.double(), strict=True)
    }
    if rank and _share(basis, {name: rank * len(weights[name]) for name in weights}) >= below:
        return None
    roots = _known_roots.setdefault(basis, {})

    def work(name: str) -> LightLayer:
        if name not in roots:
            roots[name] = _layer_roots(basis.layers[name])
        return _lighten_layer(roots[name], weights[name], rank, error)

    names = list(basis.layers)
    if not rank:
        sample = names[::_SAMPLED]
        if LightMixture(basis, dict(zip(sample, _in_parallel(work, sample), strict=True))).share >= below:
            return None
    light = LightMixture(basis, dict(zip(names, _in_parallel(work, names, progress), strict=True)))
    return light if light.share < below else None


_known_roots: WeakKeyDictionary[LoRABasis, dict[str, Roots]] = WeakKeyDictionary()


def _layer_roots(layer: BasisLayer) -> Roots:
    """Compute the roots of all columns of B and A. Kept in float32, 65 MB for the released geometry."""
    return Roots(*(gram_root(rows).float() for rows in (layer.B.flatten(0, 1), layer.A.mT.flatten(0, 1))))


def _lighten_layer(roots: Roots, weights: Tensor, rank: int, error: float) -> LightLayer:
    """Decompose a layer's change for the weights of each analogy, (n, N)."""
    spread = weights.repeat_interleave(roots.up.shape[1] // weights.shape[1], 1)
    cores = [decompose_core(Roots(roots.up.double(), roots.down.double() * columns)) for columns in spread]
    rank = min(rank or max(core.least_rank(error) for core in cores), spread.shape[1])
    ups, downs = zip(*(core.combinations(rank) for core in cores), strict=True)
    combinations = Factors(torch.stack(ups).float(), (torch.stack(downs) * spread[:, None]).float())
    return LightLayer(combinations, max(core.error(rank) for core in cores))


def _share(basis: LoRABasis, columns: Mapping[str, int]) -> float:
    """Compute how many values so many columns of each layer are, for one that the basis has in those layers."""
    sides = {name: basis.layers[name].A.shape[1] + basis.layers[name].B.shape[2] for name in columns}
    whole = sum(size * basis.layers[name].A.shape[0] * basis.layers[name].A.shape[2] for name, size in sides.items())
    return sum(size * columns[name] for name, size in sides.items()) / whole


def _in_parallel(
    work: Callable[[_Item], _Made], items: Sequence[_Item], progress: Progress | None = None
) -> Iterator[_Made]:
    """Do the work on each item, several at a time, and give the results in their order."""
    with one_thread(), ThreadPoolExecutor() as pool:
        try:
            for done, made in enumerate(pool.map(work, items), 1):
                yield made
                if progress:
                    progress(done, len(items))
        finally:
            pool.shutdown(cancel_futures=True)
