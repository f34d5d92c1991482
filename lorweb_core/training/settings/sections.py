"""From the sections of the training YAML to the dataclasses of `settings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from ...config import BasisConfig, check_basis_values
from ...errors import LoRWebError, shown
from .config import NetworkSettings
from .kinds import Kind
from .published_keys import key_path


def sections_of(file: str, of: type, given: Any, where: str) -> Iterator[tuple[str, type, Mapping[str, Any]]]:
    """Of every section in the document where it is, the dataclass it becomes, and what it holds."""
    if not isinstance(given, Mapping):
        raise LoRWebError(f"{file}: {where} is {shown(given)}; expected keys with values.")
    yield where, of, given
    for item in fields(of):
        held = given.get(item.name)
        if held is None:
            continue
        if "section" in item.metadata:
            yield from sections_of(file, item.metadata["section"], held, key_path(where, item.name))
        elif "sections" in item.metadata:
            if type(held) is not list or not held:
                raise LoRWebError(
                    f"{file}: {key_path(where, item.name)} is {shown(held)}; expected a list of at least one."
                )
            for index, one in enumerate(held):
                yield from sections_of(file, item.metadata["sections"], one, f"{key_path(where, item.name)}.{index}")


def read_section(file: str, of: type, given: Mapping[str, Any], where: str) -> Any:
    """The dataclass of a section. A key that is left empty has its default."""
    if of is BasisConfig:
        return _read_basis(file, given, where)
    values = {
        item.name: _read(file, item, given[item.name], key_path(where, item.name))
        for item in fields(of)
        if given.get(item.name) is not None
    }
    for item in fields(of):
        if item.name not in values and item.default is MISSING:
            kind = item.metadata.get("kind")
            expected = kind.expected if kind else "a list of at least one"
            raise LoRWebError(f"{file}: {key_path(where, item.name)} is missing; expected {expected}.")
    return of(**values)


def _read(file: str, item: Field, value: Any, where: str) -> Any:
    if "section" in item.metadata:
        return read_section(file, item.metadata["section"], value, where)
    if "sections" in item.metadata:
        of = item.metadata["sections"]
        return tuple(read_section(file, of, one, f"{where}.{index}") for index, one in enumerate(value))
    kind: Kind = item.metadata["kind"]
    try:
        return kind.read(value)
    except (ValueError, OverflowError) as error:
        raise LoRWebError(f"{file}: {where} is {shown(value)}; expected {kind.expected}.") from error


def _read_basis(file: str, given: Mapping[str, Any], where: str) -> BasisConfig:
    """`network_kwargs`: checked as for a trained basis, and for what only a trained one may be."""
    where = f"{file}, {where}"
    checked = check_basis_values(where, given)
    if "linear" in checked:
        raise LoRWebError(f"{where}: linear, the rank, is not known here. It is network.linear.")
    if "lora_parts" in checked:
        raise LoRWebError(f"{where}: lora_parts is of merged bases; a training makes one basis. Leave it out.")
    defaults = NetworkSettings.network_kwargs
    if checked.get("external_query") is False:
        # The published trainer's default without an external query.
        defaults = replace(defaults, external_query_model=None, query_mode="aa'bb'")
    config = replace(defaults, **checked)
    if config.query_projection_type == "linear" and config.lora_keys_dim % config.lora_heads:
        raise LoRWebError(
            f"{where}: lora_heads is {config.lora_heads}, which does not divide lora_keys_dim, {config.lora_keys_dim}."
        )
    return config
