"""How a basis is routed: what its config says, what its tensors allow, and what is taken where both leave it open."""

from __future__ import annotations

import logging
from typing import Any

from .checkpoint import BasisLayer
from .config import BasisConfig
from .encoder import ENCODERS
from .errors import LoRWebError, named, shown
from .query import QUERY_MODES
from .routing import TOKEN_MODES

log = logging.getLogger(__name__)

Layers = dict[str, BasisLayer]

# Where several query modes fit, the first of these: the released one, the published trainer's default, and for patches
# the grid's.
_PREFERRED_MODES = ("cat-aa'b", "aa'bb'", "paa'b")


def complete_config(file: str, layers: Layers, config_file: str | None, given: dict[str, Any]) -> BasisConfig:
    """Complete what a config gives (`read_config`; nothing without one) from the tensors.

    What they leave open is said in a warning that names the choice. Raises LoRWebError, naming both files, where the
    config and the tensors contradict each other.
    """
    if config_file:
        _check_sizes(file, layers, config_file, given)
    settled = {**given, "query_projection_type": _projection(file, layers, config_file, given)}
    taken: dict[str, str] = {}
    settled["external_query"] = external = _external_query(file, layers, config_file, given, taken)
    if external:
        encoder = given.get("external_query_model", BasisConfig.external_query_model)
        if "query_mode" not in given:
            settled["query_mode"] = _external_mode(next(iter(layers.values())).query_width, encoder, taken)
    else:
        settled["external_query_model"] = None
        # The published trainer's defaults.
        for key, default in {"query_mode": "aa'bb'", "pooling_type": "avg"}.items():
            if key not in given:
                settled[key] = taken[key] = default
    if taken:
        why = f"{config_file} does not say" if config_file else "there is no config beside it"
        choices = ", ".join(f"{key}: {value}" for key, value in taken.items())
        log.warning(
            "%s: how it was trained is not certain from its tensors, and %s. Taken: %s. If results are off, put the "
            "training config with the right values beside it.",
            file,
            why,
            choices,
        )
    return BasisConfig(**settled)


def _check_sizes(file: str, layers: Layers, config_file: str, given: dict[str, Any]) -> None:
    """Sizes that the config names must be the checkpoint's: N, D, the rank r of some layer; heads must divide D.

    The parts of a merged basis must add up to N.
    """
    name, first = next(iter(layers.items()))
    loras_num, keys_dim = first.keys.shape
    sizes = {"loras_num": loras_num, "linear": first.A.shape[2]}
    if first.projection is not None:  # else D is the query's width, whatever the config says
        sizes["lora_keys_dim"] = keys_dim
    for key, size in sizes.items():
        told = given.get(key, size)
        if told == size or (key == "linear" and any(layer.A.shape[2] == told for layer in layers.values())):
            continue
        raise LoRWebError(
            f"{config_file} says {key}: {told}, but {file}: layer {named(name)} has {size}. It is another training's "
            "config: choose the one saved with this checkpoint, or move it away to have sizes read from tensors."
        )
    parts = given.get("lora_parts", (loras_num,))
    if sum(parts) != loras_num:
        raise LoRWebError(
            f"{config_file} says lora_parts: {shown(list(parts))}, {sum(parts)} LoRAs in all, but {file}: layer "
            f"{named(name)} has {loras_num}. It is another basis's config: choose the one saved with this checkpoint."
        )
    heads = given.get("lora_heads", 1)
    widths = {keys_dim} if first.projection is not None else {layer.keys.shape[1] for layer in layers.values()}
    for width in widths:
        if width % heads:
            raise LoRWebError(
                f"{config_file} says lora_heads: {heads}, but the keys of {file} are {width} wide, which these heads "
                "do not divide."
            )


def _projection(file: str, layers: Layers, config_file: str | None, given: dict[str, Any]) -> str:
    """query_projection_type, which the tensors tell."""
    found = "none" if next(iter(layers.values())).projection is None else "linear"
    told = given.get("query_projection_type", found)
    if told != found:
        has = "no layer has an att_lora_to_q" if found == "none" else "its layers have an att_lora_to_q"
        raise LoRWebError(
            f"{config_file} says query_projection_type: {told}, but {file}: {has}. It is another training's "
            "config: choose the one saved with this checkpoint."
        )
    return found


def _external_query(
    file: str, layers: Layers, config_file: str | None, given: dict[str, Any], taken: dict[str, str]
) -> bool:
    """Whether images are the query. Each layer's own input can be one only where the widths agree."""
    told = given.get("external_query")
    if told or given.get("query_mode", "aa'bb'") not in TOKEN_MODES:
        return True
    foreign = next((name for name, layer in layers.items() if not layer.fits_own_input), None)
    if told is False:
        if foreign:
            layer = layers[foreign]
            raise LoRWebError(
                f"{config_file} says external_query: false, but {file}: layer {named(foreign)} takes queries of "
                f"{layer.query_width} values, and its own input has {layer.A.shape[1]}. It is another training's "
                "config: choose the one saved with this checkpoint."
            )
        return False
    if foreign:
        return True
    widths = {layer.query_width for layer in layers.values()}
    if len(widths) > 1:
        return False
    # All inputs happen to be equally wide: an external query fits if an encoder makes queries of this width.
    encoder = ENCODERS[given.get("external_query_model", BasisConfig.external_query_model)]
    external = any(mode.width(encoder) in widths for mode in QUERY_MODES.values())
    taken["external_query"] = str(external).lower()
    return external


def _external_mode(width: int, encoder: str, taken: dict[str, str]) -> str:
    """The query mode of an external query of this width, Q."""
    fitting = [name for name, mode in QUERY_MODES.items() if mode.width(ENCODERS[encoder]) == width]
    chosen = next((mode for mode in _PREFERRED_MODES if mode in fitting), BasisConfig.query_mode)
    if len(fitting) != 1:
        taken["query_mode"] = f"{chosen} (of {', '.join(fitting) or 'none that fits'}, with {encoder})"
    return chosen
