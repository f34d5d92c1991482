"""The whole config of a basis: what its YAML says and its tensors allow, and what is taken where both leave it open."""

from __future__ import annotations

import logging
from typing import Any

from .checkpoint import BasisLayer, Checkpoint
from .config import RELEASED_ENCODER, BasisConfig
from .encoder import ENCODERS
from .errors import LoRWebError, named, shown
from .query import QUERY_MODES
from .query_network import QueryNetwork
from .routing import TOKEN_MODES

log = logging.getLogger(__name__)

Layers = dict[str, BasisLayer]

# Where several query modes fit, the first of these: the released one, the published trainer's default, and for patches
# the grid's.
_PREFERRED_MODES = ("cat-aa'b", "aa'bb'", "paa'b")


def complete_config(file: str, held: Checkpoint, config_file: str | None, given: dict[str, Any]) -> BasisConfig:
    """Complete what a config gives (`read_config`; nothing without one) from the tensors.

    What they leave open is said in a warning that names the choice. Raises LoRWebError, naming both files, where the
    config and the tensors contradict each other.
    """
    layers, network = held
    if config_file:
        _check_sizes(file, layers, config_file, given)
    values = {
        **given,
        "query_projection_type": _projection(file, layers, config_file, given),
        "query_network": _network(file, network, config_file, given),
    }
    assumed: dict[str, str] = {}
    values["external_query"] = external = _external_query(file, held, config_file, given, assumed)
    if external:
        encoder = given.get("external_query_model", RELEASED_ENCODER)
        if "query_mode" not in given:
            values["query_mode"] = _external_mode(next(iter(layers.values())).query_width, encoder, assumed)
    else:
        values["external_query_model"] = None
        # The published trainer's defaults.
        for key, default in {"query_mode": "aa'bb'", "pooling_type": "avg"}.items():
            if key not in given:
                values[key] = assumed[key] = default
    if assumed:
        log.warning(
            "%s: how it was trained is not certain from its tensors, and %s. Taken: %s. If results are off, put the "
            "training config with the right values beside it.",
            file,
            f"{config_file} does not say" if config_file else "there is no config beside it",
            ", ".join(f"{key}: {value}" for key, value in assumed.items()),
        )
    return BasisConfig(**values)


def _contradiction(config_file: str | None, key: str, value: Any, found: str, otherwise: str = "") -> LoRWebError:
    """Make the error for a config that is not this checkpoint's. found: what is there. otherwise: what else to do."""
    return LoRWebError(
        f"{config_file} says {key}: {value}, but {found}. It is another basis's config: choose the one saved with this "
        f"checkpoint{otherwise}."
    )


def _check_sizes(file: str, layers: Layers, config_file: str, given: dict[str, Any]) -> None:
    """Check that the sizes in a config are the checkpoint's: N, D, the rank r of some layer; heads must divide D.

    The parts of a merged basis must add up to N. Raises LoRWebError.
    """
    name, first = next(iter(layers.items()))
    loras_num, keys_dim = first.keys.shape
    layer = f"{file}: layer {named(name)}"
    sizes = {"loras_num": [loras_num], "linear": [each.A.shape[2] for each in layers.values()]}
    if first.projection is not None:  # else D is the query's width, whatever the config says
        sizes["lora_keys_dim"] = [keys_dim]
    for key, found in sizes.items():
        if given.get(key, found[0]) not in found:
            otherwise = ", or move it away to have sizes read from the tensors"
            raise _contradiction(config_file, key, given[key], f"{layer} has {found[0]}", otherwise)
    parts = given.get("lora_parts", (loras_num,))
    if sum(parts) != loras_num:
        says = f"{shown(list(parts))}, {sum(parts)} LoRAs in all"
        raise _contradiction(config_file, "lora_parts", says, f"{layer} has {loras_num}")
    heads = given.get("lora_heads", 1)
    widths = {keys_dim} if first.projection is not None else {each.keys.shape[1] for each in layers.values()}
    for width in widths:
        if width % heads:
            has = f"the keys of {file} are {width} wide, which these heads do not divide"
            raise _contradiction(config_file, "lora_heads", heads, has)


def _projection(file: str, layers: Layers, config_file: str | None, given: dict[str, Any]) -> str:
    """Read query_projection_type off the tensors. Raises LoRWebError where the config says another."""
    found = "none" if next(iter(layers.values())).projection is None else "linear"
    stated = given.get("query_projection_type", found)
    if stated != found:
        has = "no layer has an att_lora_to_q" if found == "none" else "its layers have an att_lora_to_q"
        raise _contradiction(config_file, "query_projection_type", stated, f"{file}: {has}")
    return found


def _network(file: str, network: QueryNetwork | None, config_file: str | None, given: dict[str, Any]) -> int:
    """Read query_network off the tensors. Raises LoRWebError where the config says another, or no external query."""
    found = network.hidden_width if network else 0
    has = f"{file} has one of hidden width {found}" if found else f"{file} has no query_network.in.weight"
    if given.get("query_network", found) != found:
        raise _contradiction(config_file, "query_network", given["query_network"], has)
    if found and given.get("external_query") is False:
        has = f"{file} has a query network, which takes the query of images"
        raise _contradiction(config_file, "external_query", "false", has)
    return found


def _external_query(
    file: str, held: Checkpoint, config_file: str | None, given: dict[str, Any], assumed: dict[str, str]
) -> bool:
    """Tell whether images are the query. Each layer's own input can be one only where the widths agree.

    Raises LoRWebError where the config says that it is one, and they do not.
    """
    layers, network = held
    stated = given.get("external_query")
    if stated or network or given.get("query_mode", "aa'bb'") not in TOKEN_MODES:
        return True
    foreign = next((name for name, layer in layers.items() if not layer.fits_own_input), None)
    if foreign and stated is False:
        takes = f"queries of {layers[foreign].query_width} values, and its own input has {layers[foreign].A.shape[1]}"
        raise _contradiction(config_file, "external_query", "false", f"{file}: layer {named(foreign)} takes {takes}")
    if foreign or stated is False:
        return bool(foreign)
    widths = {layer.query_width for layer in layers.values()}
    if len(widths) > 1:
        return False
    # All inputs happen to be equally wide: an external query fits if an encoder makes queries of this width.
    encoder = ENCODERS[given.get("external_query_model", RELEASED_ENCODER)]
    external = any(mode.width(encoder) in widths for mode in QUERY_MODES.values())
    assumed["external_query"] = str(external).lower()
    return external


def _external_mode(width: int, encoder: str, assumed: dict[str, str]) -> str:
    """Choose the query mode of an external query of this width, Q."""
    fitting = [name for name, mode in QUERY_MODES.items() if mode.width(ENCODERS[encoder]) == width]
    chosen = next((mode for mode in _PREFERRED_MODES if mode in fitting), BasisConfig.query_mode)
    if len(fitting) != 1:
        assumed["query_mode"] = f"{chosen} (of {', '.join(fitting) or 'none that fits'}, with {encoder})"
    return chosen
