"""The training YAML that lies beside a LoRWeB checkpoint, reduced to what routing needs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from .errors import LoRWebError
from .query import ENCODERS, QUERY_MODES

# The same loader in C, ten times as fast, where PyYAML was built with it.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class BasisConfig:
    """How a basis is routed. The defaults are those of the released checkpoint.

    Field names are the published ones (`network_kwargs` of the training YAML); sizes left at None are
    read from the tensors.
    """

    linear: int | None = None
    """r, the rank of each LoRA."""
    loras_num: int | None = None
    """N, the LoRAs per layer."""
    lora_keys_dim: int | None = None
    """D, the width of the keys."""
    lora_heads: int = 1
    lora_softmax: bool = True
    mixing_coeffs_type: str = "mean"
    external_query: bool = True
    external_query_model: str = "openai/clip-vit-large-patch14"
    query_projection_type: str = "linear"
    query_mode: str = "cat-aa'b"


# What each key may hold: a type, or the values this version can route.
_ALLOWED: dict[str, type | tuple] = {
    "linear": int,
    "loras_num": int,
    "lora_keys_dim": int,
    "lora_heads": int,
    "lora_softmax": bool,
    "mixing_coeffs_type": ("mean", "sum"),
    "external_query": (True,),
    "external_query_model": tuple(ENCODERS),
    "query_projection_type": ("linear",),
    "query_mode": tuple(QUERY_MODES),
}


def find_config(checkpoint: Path) -> Path | None:
    """The training YAML beside a checkpoint: of its own name, else `config.yaml` as published."""
    beside = (checkpoint.with_suffix(".yaml"), checkpoint.with_name("config.yaml"))
    return next((path for path in beside if path.is_file()), None)


def read_config(path: str | Path) -> BasisConfig:
    """Read `config.process[0].network` of a training YAML.

    Errors: LoRWebError if the file is no such YAML, or asks for something this version cannot route.
    """
    path = Path(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML)
        network = document["config"]["process"][0]["network"]
        given = {"linear": network.get("linear"), **(network.get("network_kwargs") or {})}
    except OSError as error:
        raise LoRWebError(f"{path.name}: the config cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise LoRWebError(
            f"{path.name} is not a LoRWeB training config: expected a YAML with config.process[0].network in it, "
            "as published beside the checkpoint. Choose that one, or none to have the sizes read from the tensors."
        ) from error
    known = {f.name for f in fields(BasisConfig)}
    chosen = {name: value for name, value in given.items() if name in known and value is not None}
    for name, value in chosen.items():
        _check_value(path.name, name, value)
    return BasisConfig(**chosen)


def _check_value(file: str, name: str, value: Any) -> None:
    allowed = _ALLOWED[name]
    if isinstance(allowed, tuple):
        if not any(value is a or (isinstance(value, str) and value == a) for a in allowed):
            choices = ", ".join(str(a).lower() if isinstance(a, bool) else str(a) for a in allowed)
            raise LoRWebError(f"{file}: {name} is {value!r}; this version of LoRWeB can route: {choices}.")
    elif type(value) is not allowed or (allowed is int and value < 1):
        kind = "true or false" if allowed is bool else "a whole number above 0"
        raise LoRWebError(f"{file}: {name} is {value!r}; expected {kind}.")
