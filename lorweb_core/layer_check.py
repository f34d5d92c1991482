"""Whether a model is one that a basis fits."""

from __future__ import annotations

from collections.abc import Mapping

from .basis import LoRABasis
from .errors import LoRWebError, named


def check_layers(basis: LoRABasis, sizes: Mapping[str, tuple[int, ...]], remedy: str) -> None:
    """Check that a model has every layer of a basis in its size.

    sizes: layer, by the basis's name for it → (in, out) in the model; layers that it lacks are left out. remedy: the
    sentence that tells the user what to do. Raises LoRWebError, with the first layer that does not fit.
    """
    missing = [name for name in basis.layers if name not in sizes]
    if missing:
        raise LoRWebError(
            f"The model given lacks {len(missing)} of the {len(basis.layers)} layers that {named(basis.name)} mixes, "
            f"{named(missing[0])} first. {remedy}"
        )
    for name, layer in basis.layers.items():
        takes, has = (layer.A.shape[1], layer.B.shape[2]), sizes[name]
        if has != takes:
            raise LoRWebError(
                f"Layer {named(name)} maps {_mapped(takes)} values in {named(basis.name)}, but {_mapped(has)} in the "
                f"model given. {remedy}"
            )


def _mapped(size: tuple[int, ...]) -> str:
    return " to ".join(map(str, size))
