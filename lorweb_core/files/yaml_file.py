"""YAML that anybody may have written: read within limits, and what is wrong with it said in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import LoRWebError, named, shown
from .tensor_files import read_file

MOST_BYTES = 1_000_000
MOST_VALUES = 20_000
"""Most keys and values of a document, those behind an alias counted each time that it stands for them."""
MOST_LEVELS = 50
"""Most levels of nested lists and keys with values, aliases written out."""
LONGEST_NUMBER = 100
"""Most characters of a number; longer ones are texts, which no setting takes for a number."""

# The same loader in C, ten times as fast, where PyYAML was built with it.
_FASTEST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, what: str | None = None) -> Any:
    """Read what a training config says: dicts, lists, texts, numbers, true and false; dates are texts.

    what: how an error begins, as for `parse_yaml`; None for the file's name. Raises LoRWebError, naming the file, if it
    is no regular file that can be read, no YAML in UTF-8, or beyond the limits.
    """
    what = what or named(path)
    content = read_file(path, MOST_BYTES, "training config")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LoRWebError(f"{what} is no text in UTF-8.") from error
    return parse_yaml(text, what)


def parse_yaml(text: str, what: str) -> Any:
    """Turn a YAML text into what it says, as `read_yaml` does.

    what: how an error begins, to be followed by "is", "has" or "nests". Raises LoRWebError.
    """
    try:
        _check_size(text, what)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise LoRWebError(f"{what} is no YAML: {named(' '.join(str(error).split()))}.") from error
    except UnicodeEncodeError as error:
        raise LoRWebError(f"{what} is no YAML: half of a character is in it.") from error
    except RecursionError as error:
        raise LoRWebError(f"{what} nests values too deep.") from error


class _Extent(NamedTuple):
    """Tell how large a value is with its aliases written out."""

    values: int
    levels: int


def _check_size(text: str, what: str) -> None:
    """Raise LoRWebError if the document is beyond MOST_VALUES or MOST_LEVELS, before any of it is made."""
    anchored: dict[str | None, _Extent] = {}
    # Of each list and dict that is open: its anchor, and its extent so far.
    open_ones: list[tuple[str | None, _Extent]] = [(None, _Extent(0, 0))]
    for event in yaml.parse(text, Loader=_FASTEST):
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append((event.anchor, _Extent(1, 1)))
            found = _Extent(0, 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, found = open_ones.pop()
            anchored[anchor] = found
        elif isinstance(event, yaml.ScalarEvent):
            found = anchored[event.anchor] = _Extent(1, 0)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchored:
                raise LoRWebError(f"{what} has the alias {shown(event.anchor)} of what is not there, or holds it.")
            found = anchored[event.anchor]
        else:
            continue
        around, held = open_ones[-1]
        held = _Extent(held.values + found.values, max(held.levels, found.levels + 1))
        open_ones[-1] = around, held
        if held.values > MOST_VALUES:
            raise LoRWebError(f"{what} has more than {MOST_VALUES:,} values, those behind aliases counted too.")
        if max(held.levels, len(open_ones)) > MOST_LEVELS:
            raise LoRWebError(f"{what} nests values more than {MOST_LEVELS} deep.")


def limited(safe: type) -> type:
    """Make of a safe loader one that refuses keys given twice, and leaves as text what is no number after all."""

    class Limited(safe):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            _refuse_repeated(node)
            return super().construct_mapping(node, deep)

        def construct_number(self, node: yaml.ScalarNode) -> int | float | str:
            text = self.construct_scalar(node)
            if len(text) > LONGEST_NUMBER:
                return text
            try:
                return self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)
            except (ValueError, IndexError):
                return text

        def construct_switch(self, node: yaml.ScalarNode) -> bool | str:
            text = self.construct_scalar(node)
            return self.bool_values.get(text.lower(), text)

    for kind, construct in {
        "int": Limited.construct_number,
        "float": Limited.construct_number,
        "bool": Limited.construct_switch,
        "timestamp": Limited.construct_yaml_str,
    }.items():
        Limited.add_constructor(f"tag:yaml.org,2002:{kind}", construct)
    return Limited


def _refuse_repeated(node: yaml.Node) -> None:
    """Raise YAML's error if a key is given twice; those that a merge brings are not given."""
    seen = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value)} is given twice", key.start_mark
                )
            seen.add((key.tag, key.value))


_Loader = limited(_FASTEST)
