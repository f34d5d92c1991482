"""List the ways of making b' that an evaluation compares; a new way is one entry in WAYS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple, Protocol

from torch import Tensor

from ..mixture import Mixture
from .tasks import Item, Pictures

Make = Callable[[Item, Pictures], Tensor]
"""Function from an item to b', (H, W, 3) in 0–1, on the CPU."""


class Models(Protocol):
    """Describe what ways make b' with; each part is loaded when it is first needed."""

    def route(self, pictures: Pictures) -> Mixture:
        """Route the basis for an analogy."""

    def fit(self, items: Sequence[Item]) -> None:
        """Fit a mixture to each item's example pair, beginning at the routed one, and keep them all on disk."""

    def fitted(self, item: Item) -> Mixture:
        """Read the mixture that was fitted for an item."""

    def sample(self, item: Item, pictures: Pictures, mixture: Mixture | None) -> Tensor:
        """Sample b' as the model makes it with a mixture, or as it is: (H, W, 3) in 0–1."""

    def with_lora(self) -> AbstractContextManager[None]:
        """Have the evaluation's LoRA in the model within."""


class Way(NamedTuple):
    """Describe a way of making b'."""

    help: str
    prepare: Callable[[Models, Sequence[Item]], None]
    """What is done for all items before the model that samples is loaded."""
    making: Callable[[Models], AbstractContextManager[Make]]
    """The model as this way needs it, and within it the function that makes b'."""


def _nothing(models: Models, items: Sequence[Item]) -> None:
    """Prepare nothing."""


@contextmanager
def _mixed(mixture: Callable[[Models, Item, Pictures], Mixture], models: Models) -> Iterator[Make]:
    yield lambda item, pictures: models.sample(item, pictures, mixture(models, item, pictures))


@contextmanager
def _with_lora(models: Models) -> Iterator[Make]:
    with models.with_lora():
        yield lambda item, pictures: models.sample(item, pictures, None)


@contextmanager
def _copying(models: Models) -> Iterator[Make]:
    yield lambda item, pictures: pictures.b


WAYS = {
    "routed": Way(
        "the mixture that the image encoder routes to",
        _nothing,
        partial(_mixed, lambda models, item, pictures: models.route(pictures)),
    ),
    "fitted": Way(
        "that mixture, fitted to the example pair",
        lambda models, items: models.fit(items),
        partial(_mixed, lambda models, item, pictures: models.fitted(item)),
    ),
    "lora": Way("a LoRA file, the same for every analogy", _nothing, _with_lora),
    "copy": Way("b itself", _nothing, _copying),
}
"""By name."""
