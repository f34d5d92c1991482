"""The training YAML that lies beside a LoRWeB checkpoint, reduced to what routing needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .encoder import ENCODERS
from .errors import LoRWebError, named
from .fields import SWITCH, choice, integer, key_path, read_values, setting, several, wrong_value
from .files.tensor_files import INDEX_SUFFIX, is_index
from .files.yaml_file import read_yaml
from .layout import SAMPLED
from .query import QUERY_MODES
from .routing import POOLINGS, TOKEN_MODES

RELEASED_ENCODER = "openai/clip-vit-large-patch14"
"""Image encoder of the released basis."""


class Sizes(NamedTuple):
    """Hold the sizes of a basis that its layers have in common."""

    loras: int
    """N"""
    rank: int
    """r"""
    keys_dim: int
    """D"""


@dataclass(frozen=True)
class BasisConfig:
    """Say how a basis is routed. The defaults are those of the released checkpoint.

    Field names are the published ones (`network_kwargs` of the training YAML); sizes left at None are
    read from the tensors.
    """

    linear: int | None = setting(None, integer(1))
    """Rank of each LoRA, r; other layers may have others."""
    loras_num: int | None = setting(None, integer(1))
    """Number of LoRAs per layer, N."""
    lora_keys_dim: int | None = setting(None, integer(1))
    """Width of the keys, D."""
    lora_heads: int = setting(1, integer(1))
    lora_softmax: bool = setting(True, SWITCH)
    mixing_coeffs_type: str = setting("mean", choice("mean", "sum"))
    external_query: bool = setting(True, SWITCH)
    """True where images are the query, one for all layers; else each layer's own input is its query."""
    external_query_model: str | None = setting(RELEASED_ENCODER, choice(*ENCODERS))
    """The image encoder; None without an external query."""
    query_projection_type: str = setting("linear", choice("linear", "none"))
    query_network: int = setting(0, integer())
    """Hidden width of the network that an external query goes through before all layers; 0 for none, as published.

    This key is ours.
    """
    query_mode: str = setting("cat-aa'b", choice(*(QUERY_MODES | TOKEN_MODES)))
    """One of QUERY_MODES, or without an external query of TOKEN_MODES."""
    pooling_type: str = setting("avg", choice(*POOLINGS))
    """Way in which tokens become one query without an external one."""
    lora_parts: tuple[int, ...] | None = setting(
        None, several(integer(1, math.inf), "a list of whole numbers above 0, such as [32, 32]", least=1)
    )
    """Numbers of a merged basis's N LoRAs that came from each; softmax is over each part by itself.

    This key is ours. Tools that do not know it take one softmax over all N, which for one head and one query gives each
    part's coefficients times a factor that the part has in common.
    """
    sampled: str = setting("grid", choice(*SAMPLED))
    """Part of the layout that was sampled in training, one of SAMPLED: `train.sampled` of the YAML, a key of ours."""

    @property
    def sizes(self) -> Sizes:
        """Return N, r and D, which the config of a basis to be trained has. Raises ValueError if one is left open."""
        if self.loras_num is None or self.linear is None or self.lora_keys_dim is None:
            raise ValueError("loras_num, linear or lora_keys_dim is left to the tensors")
        return Sizes(self.loras_num, self.linear, self.lora_keys_dim)

    @property
    def encoder(self) -> str | None:
        """Return the image encoder, one of ENCODERS, that makes the query; None where layers' own inputs are it."""
        return self.external_query_model if self.external_query else None


def find_config(checkpoint: Path) -> Path | None:
    """Find the training YAML beside a checkpoint or its index: of its own name, else `config.yaml` as published."""
    suffix = len(INDEX_SUFFIX if is_index(checkpoint) else checkpoint.suffix)
    stem = checkpoint.name[: len(checkpoint.name) - suffix]
    beside = (checkpoint.with_name(f"{stem}.yaml"), checkpoint.with_name("config.yaml"))
    return next((path for path in beside if path.exists()), None)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read what `config.process[0]` of a training YAML gives of BasisConfig's fields.

    Raises LoRWebError if the file is no such YAML, or asks for something this version cannot route.
    """
    path = Path(path)
    file = named(path)
    document = read_yaml(path, f"{file} is not a LoRWeB training config: it")
    try:
        process = document["config"]["process"][0]
        network, train = process["network"], process.get("train") or {}
        given = {"linear": network.get("linear"), **(network.get("network_kwargs") or {})}
        given["sampled"] = train.get("sampled")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise LoRWebError(
            f"{file} is not a LoRWeB training config: expected a YAML with config.process[0].network in it, "
            "as published beside the checkpoint. Choose that one, or none to have the sizes read from the tensors."
        ) from error
    return read_basis_values(file, given)


def read_basis_values(file: str, given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Read what a YAML's keys give of BasisConfig's fields, without those that are left empty or do nothing.

    file, where: as for `read_values`. Raises LoRWebError if they ask for something this version cannot route.
    """
    if given.get("external_query") is False:
        given = {**given, "external_query_model": None}
    values = read_values(file, BasisConfig, given, where)
    if values.get("query_network") and not values.get("external_query", True):
        raise wrong_value(
            file, key_path(where, "query_network"), values["query_network"], "0, as external_query is false"
        )
    if "query_mode" in values:
        _check_mode(file, values, where)
    return values


def _check_mode(file: str, values: dict[str, Any], where: str) -> None:
    """Check that the query mode is one of the basis's kind of query, and that its encoder has what the mode takes."""
    key, mode = key_path(where, "query_mode"), values["query_mode"]
    if not values.get("external_query", True):
        if mode not in TOKEN_MODES:
            raise wrong_value(file, key, mode, f"one of these, as external_query is false: {', '.join(TOKEN_MODES)}")
        return
    encoder = values.get("external_query_model", RELEASED_ENCODER)
    if QUERY_MODES[mode].states and ENCODERS[encoder].token_width is None:
        fitting = [name for name, spec in ENCODERS.items() if spec.token_width]
        raise wrong_value(
            file,
            key,
            mode,
            f"a mode without patch tokens, as this version takes only the pooled embedding of external_query_model "
            f"{encoder}. Patch modes go with: {', '.join(fitting)}",
        )
