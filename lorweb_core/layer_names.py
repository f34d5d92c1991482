"""What the name of a basis's layer says: where in FLUX it is, and what it does there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from .errors import LoRWebError, shown

KINDS = ("modulation", "attention", "MLP")
MOST_PARTS = 1000
"""Most parts of a text that names blocks."""

STREAMS = ("image", "text", "both")
"""Streams: double blocks have one for the image and one for the text; single blocks put both through one."""

_BLOCKS = {"transformer_blocks": "double", "single_transformer_blocks": "single"}
_NAME = re.compile(r"(?:^|\.)(transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)$")
_MODULATION = re.compile(r"norm\w*\.linear$")
_TEXT_STREAM = re.compile(r"(attn\.(add_\w+_proj|to_add_out)$|ff_context\.|norm1_context\.)")


class LayerName(NamedTuple):
    """Tell where a layer is and what it does."""

    block: str
    """'double', 'single', or 'other' for what is in no block of FLUX."""
    index: int  # type: ignore[assignment] # hides tuple.index; files have it by this name
    """Index of the block among those of its sort."""
    kind: str
    """Kind, one of KINDS. `proj_out` of single blocks, which joins attention and MLP, counts as MLP."""
    stream: str
    """Stream, one of STREAMS."""


class LayerGroup(NamedTuple):
    """Hold the layers of one kind and stream."""

    kind: str
    stream: str
    layers: list[int]
    """Positions among the names that were given, in the order of their blocks."""


@cache
def parse(name: str) -> LayerName:
    """Parse a name: `transformer.transformer_blocks.3.attn.to_q` → ('double', 3, 'attention', 'image')."""
    found = _NAME.search(name)
    block, index, rest = (_BLOCKS[found[1]], int(found[2]), found[3]) if found else ("other", 0, name)
    kind = "attention" if rest.startswith("attn.") else "MLP"
    if _MODULATION.search(rest):
        kind = "modulation"
    stream = "both" if block != "double" else "text" if _TEXT_STREAM.match(rest) else "image"
    return LayerName(block, index, kind, stream)


def grouped(names: Iterable[str]) -> list[LayerGroup]:
    """Group layers by kind and stream, in the order of KINDS and of STREAMS; groups without a layer are left out."""
    parsed = [parse(name) for name in names]
    in_order = sorted(range(len(parsed)), key=lambda i: (parsed[i].block, parsed[i].index))
    members: dict[tuple[str, str], list[int]] = {(kind, stream): [] for kind in KINDS for stream in STREAMS}
    for i in in_order:
        members[parsed[i].kind, parsed[i].stream].append(i)
    return [LayerGroup(*what, layers) for what, layers in members.items() if layers]


def select(names: Iterable[str], blocks: str = "all", kind: str = "all", stream: str = "all") -> list[bool]:
    """Tell for each layer whether it is meant.

    blocks: 'all', or sorts of blocks with or without numbers: 'double', 'single 20-37', 'double 0-3, double 7, single'.
    kind, stream: 'all' or one of KINDS, of STREAMS. Raises LoRWebError if that is not understood or means no layer.
    """
    for what, value, known in (("kind", kind, KINDS), ("stream", stream, STREAMS)):
        if value not in ("all", *known):
            raise LoRWebError(f"{what} is {shown(value)}; expected one of: all, {', '.join(known)}.")
    wanted = _blocks(blocks)

    def meant(name: str) -> bool:
        layer = parse(name)
        return (
            (wanted is None or any(layer.block == sort and layer.index in range_ for sort, range_ in wanted))
            and kind in ("all", layer.kind)
            and stream in ("all", layer.stream)
        )

    chosen = [meant(name) for name in names]
    if not any(chosen):
        raise LoRWebError(
            f"The basis has no layer of blocks {shown(blocks)}, kind {shown(kind)} and stream {shown(stream)}."
        )
    return chosen


def _blocks(text: str) -> list[tuple[str, range]] | None:
    """Parse a text that names blocks; None for all."""
    if text.strip() in ("", "all"):
        return None
    wanted = []
    for part in text.split(",", MOST_PARTS):
        found = re.fullmatch(r"\s*(double|single)(?:\s+(\d{1,9})(?:\s*-\s*(\d{1,9}))?)?\s*", part)
        if not found:
            raise LoRWebError(
                f"blocks is {shown(text)}; expected 'all', or blocks such as 'double', 'single 20-37' or "
                "'double 0-3, single 5'."
            )
        sort, first, last = found.groups()
        wanted.append((sort, range(10**9) if first is None else range(int(first), int(last or first) + 1)))
    return wanted
