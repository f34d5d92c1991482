"""diffusers' FLUX.1 Kontext as the frozen model that a basis is learned for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import LoRWebError, named, shown
from ..kept_references import Refresh
from ..layout import ORIGIN
from ..routing import Tokens
from ..runtime import LayerSlice
from ..training.data.batch import Batch
from ..training.trainable_basis import Linears
from .sampling import analogy_passes
from .velocity import flux_velocity

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

PREFIX = "transformer."
"""What published names of layers have before diffusers' own."""

_IN_BLOCKS = re.compile(r"(single_)?transformer_blocks\.")


class FluxBase:
    """Make a `Base` of a transformer and of what decodes its latents.

    layers: None for every Linear inside the blocks, as published; else an expression that names are searched for, or
    the names. guidance: what the guidance embedding is told. decode: latents (n, C, h, w) as the transformer denoises
    them → pictures (n, H, W, 3) in 0–1.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        decode: Callable[[Tensor], Tensor],
        guidance: float = 1.0,
        layers: str | Sequence[str] | None = None,
    ):
        self.model = transformer
        self.decode = decode
        self.guidance = guidance
        self._after_step: Callable[[], None] | None = None
        self.device = transformer.device
        self.dtype = transformer.dtype
        chosen = chosen_layers(transformer, layers)
        self.linears: Linears = {name.removeprefix(PREFIX): [LayerSlice(name, 0)] for name in chosen}
        self.shapes: Mapping[str, tuple[int, int]] = {
            name: (linear.in_features, linear.out_features) for name, linear in chosen.items()
        }

    @contextmanager
    def guided(self, guidance: float) -> Iterator[None]:
        """Tell the guidance embedding another number within."""
        before, self.guidance = self.guidance, guidance
        try:
            yield
        finally:
            self.guidance = before

    @contextmanager
    def keeping(self, refresh: Refresh, noise: int, steps: int) -> Iterator[None]:
        """Compute the references in the steps that `refresh` says, within, where each call of `velocity` is a step.

        noise: number of tokens that are denoised. Not for bases that are routed by activation.
        """
        with analogy_passes(self.model, noise, ORIGIN, refresh, steps) as passes:
            self._after_step = passes.next_step
            try:
                yield
            finally:
                self._after_step = None

    @contextmanager
    def training(self, checkpointing: bool) -> Iterator[None]:
        """Let the blocks compute again in the backward pass what they do not keep, if asked to."""
        if checkpointing:
            self.model.enable_gradient_checkpointing()
        try:
            yield
        finally:
            if checkpointing:
                self.model.disable_gradient_checkpointing()

    def velocity(self, x: Tensor, t: Tensor, batch: Batch, every_token: bool = True) -> Tensor:
        given = batch.reference, batch.text, self.guidance, batch.place
        made = flux_velocity(self.model, x, t, *given, merge_text=not every_token)
        if self._after_step:
            self._after_step()
        return made

    def tokens(self, batch: Batch) -> Tokens:
        return Tokens(batch.text.tokens.shape[1], batch.reference.shape[-2] * batch.reference.shape[-1] // 4)


def chosen_layers(transformer: nn.Module, layers: str | Sequence[str] | None = None) -> dict[str, nn.Linear]:
    """Find the Linears that get LoRAs, by their published names.

    Raises LoRWebError if one named is not there, or none.
    """
    known = {
        PREFIX + name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and _IN_BLOCKS.match(name)
    }
    if layers is None:
        return known
    if isinstance(layers, str):
        found = {name: linear for name, linear in known.items() if re.search(layers, name)}
    else:
        missing = [name for name in layers if name not in known]
        if missing:
            raise LoRWebError(
                f"network.layers names {named(missing[0])}, which the model does not have as a Linear inside its "
                f"blocks; one that it has is {next(iter(known))}."
            )
        found = {name: known[name] for name in layers}
    if not found:
        raise LoRWebError(
            f"network.layers is {shown(layers)}, which no Linear inside the model's blocks matches; one is named "
            f"{next(iter(known))}."
        )
    return found
