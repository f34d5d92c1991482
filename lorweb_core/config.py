"""The training YAML that lies beside a LoRWeB checkpoint, reduced to what routing needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .encoder import ENCODERS
from .errors import LoRWebError, named, shown
from .files.tensor_files import INDEX_SUFFIX, is_index
from .files.yaml_file import read_yaml
from .query import QUERY_MODES
from .routing import POOLINGS, TOKEN_MODES


@dataclass(frozen=True)
class BasisConfig:
    """How a basis is routed. The defaults are those of the released checkpoint.

    Field names are the published ones (`network_kwargs` of the training YAML); sizes left at None are
    read from the tensors.
    """

    linear: int | None = None
    """r, the rank of each LoRA; other layers may have others."""
    loras_num: int | None = None
    """N, the LoRAs per layer."""
    lora_keys_dim: int | None = None
    """D, the width of the keys."""
    lora_heads: int = 1
    lora_softmax: bool = True
    mixing_coeffs_type: str = "mean"
    external_query: bool = True
    """Whether images are the query, one for all layers; else each layer's own input is its query."""
    external_query_model: str | None = "openai/clip-vit-large-patch14"
    """The image encoder; None without an external query."""
    query_projection_type: str = "linear"
    query_mode: str = "cat-aa'b"
    """One of QUERY_MODES, or without an external query of TOKEN_MODES."""
    pooling_type: str = "avg"
    """How tokens become one query without an external one."""
    lora_parts: tuple[int, ...] | None = None
    """Of a merged basis: how many of the N LoRAs came from each; softmax is over each part by itself.

    This key is ours. Tools that do not know it take one softmax over all N, which for one head and one query gives each
    part's coefficients times a factor that the part has in common.
    """


# What each key may hold: a type, or the values this version can route.
_ALLOWED: dict[str, type | tuple] = {
    "linear": int,
    "loras_num": int,
    "lora_keys_dim": int,
    "lora_heads": int,
    "lora_softmax": bool,
    "mixing_coeffs_type": ("mean", "sum"),
    "external_query": bool,
    "external_query_model": tuple(ENCODERS),
    "query_projection_type": ("linear", "none"),
    "query_mode": tuple(QUERY_MODES | TOKEN_MODES),
    "pooling_type": tuple(POOLINGS),
    "lora_parts": list,
}


def find_config(checkpoint: Path) -> Path | None:
    """The training YAML beside a checkpoint or its index: of its own name, else `config.yaml` as published."""
    suffix = len(INDEX_SUFFIX if is_index(checkpoint) else checkpoint.suffix)
    stem = checkpoint.name[: len(checkpoint.name) - suffix]
    beside = (checkpoint.with_name(f"{stem}.yaml"), checkpoint.with_name("config.yaml"))
    return next((path for path in beside if path.exists()), None)


def read_config(path: str | Path) -> dict[str, Any]:
    """What `config.process[0].network` of a training YAML gives of BasisConfig's fields.

    Errors: LoRWebError if the file is no such YAML, or asks for something this version cannot route.
    """
    path = Path(path)
    file = named(path)
    document = read_yaml(path, f"{file} is not a LoRWeB training config: it")
    try:
        network = document["config"]["process"][0]["network"]
        told = {"linear": network.get("linear"), **(network.get("network_kwargs") or {})}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise LoRWebError(
            f"{file} is not a LoRWeB training config: expected a YAML with config.process[0].network in it, "
            "as published beside the checkpoint. Choose that one, or none to have the sizes read from the tensors."
        ) from error
    return check_basis_values(file, told)


def check_basis_values(file: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """What `told`, as a YAML has it, gives of BasisConfig's fields, without the keys that are none or empty.

    file: what to name in errors. Errors: LoRWebError if it asks for something this version cannot route.
    """
    given = {f.name: told[f.name] for f in fields(BasisConfig) if told.get(f.name) is not None}
    if given.get("external_query") is False:
        given.pop("external_query_model", None)
    for name, value in given.items():
        _check_value(file, name, value)
    if "lora_parts" in given:
        given["lora_parts"] = tuple(given["lora_parts"])
    _check_mode(file, given)
    return given


def _check_value(file: str, name: str, value: Any) -> None:
    allowed = _ALLOWED[name]
    if isinstance(allowed, tuple):
        if type(value) is not str or value not in allowed:
            raise LoRWebError(
                f"{file}: {name} is {shown(value)}; this version of LoRWeB can route: {', '.join(allowed)}."
            )
    elif allowed is list:
        if type(value) is not list or not value or not all(type(part) is int and part > 0 for part in value):
            raise LoRWebError(
                f"{file}: {name} is {shown(value)}; expected a list of whole numbers above 0, such as [32, 32]."
            )
    elif type(value) is not allowed or (allowed is int and not 1 <= value <= 10**9):
        kind = "true or false" if allowed is bool else "a whole number above 0, up to 1,000,000,000"
        raise LoRWebError(f"{file}: {name} is {shown(value)}; expected {kind}.")


def _check_mode(file: str, given: dict[str, Any]) -> None:
    """The query mode must be one of the basis's kind of query, and its encoder must have what the mode takes."""
    mode = given.get("query_mode")
    if mode is None:
        return
    if given.get("external_query") is False:
        if mode not in TOKEN_MODES:
            raise LoRWebError(
                f"{file}: query_mode is {shown(mode)} and external_query false; without an external query the modes "
                f"are: {', '.join(TOKEN_MODES)}."
            )
        return
    encoder = given.get("external_query_model", BasisConfig.external_query_model)
    if mode in QUERY_MODES and QUERY_MODES[mode].states and ENCODERS[encoder].token_width is None:
        fitting = [name for name, spec in ENCODERS.items() if spec.token_width]
        raise LoRWebError(
            f"{file}: query_mode is {shown(mode)}, which takes patch tokens, and external_query_model {encoder}, of "
            f"which this version takes the pooled embedding only. Patch modes go with: {', '.join(fitting)}."
        )
