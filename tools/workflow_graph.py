"""Graphs as ComfyUI's frontend saves them, with a block as a subgraph, and the same as its server takes them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SLOT, WIDGET, TITLE, GAP = 22, 34, 30, 40
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "IMAGECOMPARE", "IMAGEUPLOAD")
BLOCK, NOTE = "block", "MarkdownNote"
LOOKED_AT = (NOTE, "ImageCompare")
"""Nodes that are for the frontend alone."""
INPUTS, OUTPUTS = -10, -20
"""Ids of a subgraph's own ends in the links inside it."""


class Link(NamedTuple):
    """Point at a node's output."""

    node: str
    output: int = 0


class Outer(NamedTuple):
    """Stand for an input of the block, in one of its nodes. value: of the widget, where it is one."""

    name: str
    value: Any = None


@dataclass
class Node:
    """Describe a node: its column in the picture, its inputs, and what of it is drawn otherwise than by default."""

    kind: str
    column: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)
    """Input → Link, Outer or the value of a widget. What is left out has its default."""
    title: str | None = None
    width: int = 300
    picture: int = 0
    """Height of the picture or text in it."""
    label: tuple[str, str] | None = None
    """An input and what it is called here."""
    models: tuple[dict[str, str], ...] = ()
    """Files that it loads, as the frontend offers to download them."""


@dataclass
class Block:
    """Describe a subgraph: its own inputs in their order, its nodes, and which of their outputs are its own."""

    title: str
    about: str
    inputs: tuple[str, ...]
    nodes: dict[str, Node]
    outputs: dict[str, Link]


@dataclass
class Workflow:
    """Describe a file: its nodes, of which one of the kind BLOCK stands for the block, and what its app shows."""

    nodes: dict[str, Node]
    block: Block | None = None
    app_inputs: tuple[tuple[str, str], ...] = ()
    """Nodes and their widgets."""
    app_outputs: tuple[str, ...] = ()
    """Nodes."""


class Socket(NamedTuple):
    """Describe an input as the server tells it."""

    name: str
    kind: str
    widget: bool
    optional: bool
    default: Any
    controlled: bool


class Types:
    """Look up nodes in what the server tells of them at /object_info."""

    def __init__(self, told: dict[str, dict]):
        self._told = told

    def inputs(self, kind: str) -> list[Socket]:
        """List the inputs of a node in the frontend's order: sockets, then widgets, what is required first."""
        told = self._told[kind]["input"]
        found = [
            socket
            for optional, group in ((False, "required"), (True, "optional"))
            for name, (type_, *more) in told.get(group, {}).items()
            for socket in _sockets(name, type_, (more or [{}])[0], optional)
        ]
        return sorted(found, key=lambda socket: socket.widget)

    def outputs(self, kind: str) -> list[tuple[str, str]]:
        """List names and types of a node's outputs; those of nodes that save differ between versions, and none has."""
        told = self._told[kind]
        saves = kind in ("SaveImage", "PreviewImage")
        return [] if saves else list(zip(told["output_name"], told["output"], strict=True))

    def title(self, kind: str) -> str:
        """Find a node's name as it is shown."""
        return self._told[kind]["display_name"] or kind


def _sockets(name: str, kind: Any, more: dict, optional: bool) -> Iterator[Socket]:
    if kind == "COMFY_AUTOGROW_V3":
        template = more["template"]
        ((each_kind, *_),) = template["input"]["optional"].values()
        yield Socket(f"{name}.{template['names'][0]}", each_kind, False, True, None, False)
        return
    if isinstance(kind, list):
        more, kind = {"default": kind[0] if kind else None, **more}, "COMBO"
    controlled = bool(more.get("control_after_generate"))
    yield Socket(name, kind, kind in WIDGET_TYPES, optional, more.get("default"), controlled)
    if more.get("image_upload"):
        yield Socket("upload", "IMAGEUPLOAD", True, optional, "image", False)


@dataclass
class Writer:
    """Write one workflow. What the server tells of its nodes is in `types`."""

    workflow: Workflow
    types: Types

    def __post_init__(self) -> None:
        inner = self.workflow.block.nodes if self.workflow.block else {}
        self._ids = {name: number for number, name in enumerate((*self.workflow.nodes, *inner), 1)}

    def as_ui(self) -> dict:
        """Write what the frontend opens."""
        block = self.workflow.block
        nodes, links = self._level(self.workflow.nodes)
        told: dict[str, Any] = {
            "id": _uuid(*self.workflow.nodes),
            "revision": 0,
            "last_node_id": len(self._ids),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": [list(link.values()) for link in links],
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        if block:
            told["definitions"] = {"subgraphs": [self._subgraph(block)]}
        if self.workflow.app_outputs:
            shown = [[self._ids[name], widget] for name, widget in self.workflow.app_inputs]
            outputs = [self._ids[name] for name in self.workflow.app_outputs]
            told["extra"] = {"linearMode": True, "linearData": {"inputs": shown, "outputs": outputs}}
        return told

    def as_api(self) -> dict:
        """Write what scripts post to /prompt."""
        told = {}
        block = self.workflow.block
        for name, node in self.workflow.nodes.items():
            if node.kind == BLOCK:
                told |= {self._key(inner): self._api_node(block.nodes[inner]) for inner in block.nodes}
            elif node.kind not in LOOKED_AT:
                told[self._key(name)] = self._api_node(node)
        return told

    def _key(self, name: str) -> str:
        """Name a node as the frontend does in what it posts."""
        if name in self.workflow.nodes:
            return str(self._ids[name])
        return f"{self._ids[self._block_node]}:{self._ids[name]}"

    @property
    def _block_node(self) -> str:
        return next(name for name, node in self.workflow.nodes.items() if node.kind == BLOCK)

    def _api_node(self, node: Node) -> dict:
        values = {}
        for socket in self.types.inputs(node.kind):
            given = node.inputs.get(socket.name, socket.default if socket.widget else None)
            if isinstance(given, Outer):
                outside = self.workflow.nodes[self._block_node].inputs.get(given.name)
                given = given.value if outside is None else outside
            if isinstance(given, Link):
                if given.node == self._block_node:
                    given = list(self.workflow.block.outputs.values())[given.output]
                given = [self._key(given.node), given.output]
            if given is not None and socket.kind != "IMAGEUPLOAD":
                values[socket.name] = given
        return {"inputs": values, "class_type": node.kind, "_meta": {"title": self._title(node)}}

    def _title(self, node: Node) -> str:
        return node.title or self.types.title(node.kind)

    def _inputs(self, node: Node) -> list[Socket]:
        """List a node's sockets; the block's are those that stand for them inside."""
        if node.kind == NOTE:
            return []
        if node.kind != BLOCK:
            return self.types.inputs(node.kind)
        inside = {
            given.name: socket
            for each in self.workflow.block.nodes.values()
            for socket in self.types.inputs(each.kind)
            if isinstance(given := each.inputs.get(socket.name), Outer)
        }
        return [inside[name]._replace(name=name, controlled=False) for name in self.workflow.block.inputs]

    def _outputs(self, node: Node) -> list[tuple[str, str]]:
        if node.kind == NOTE:
            return []
        if node.kind != BLOCK:
            return self.types.outputs(node.kind)
        return [
            (name, self.types.outputs(self.workflow.block.nodes[link.node].kind)[link.output][1])
            for name, link in self.workflow.block.outputs.items()
        ]

    def _level(self, nodes: dict[str, Node], first_link: int = 1) -> tuple[list[dict], list[dict]]:
        """Write the nodes of the graph or of the block, and the links between them and to the block's ends."""
        links: list[dict] = []
        for name, node in nodes.items():
            for place, socket in enumerate(self._inputs(node)):
                given = node.inputs.get(socket.name)
                if isinstance(given, Link):
                    origin = (self._ids[given.node], given.output)
                elif isinstance(given, Outer):
                    origin = (INPUTS, self.workflow.block.inputs.index(given.name))
                else:
                    continue
                links.append(_link(first_link + len(links), *origin, self._ids[name], place, socket.kind))
        places = self._places(nodes)
        return [self._ui_node(name, node, places[name], links) for name, node in nodes.items()], links

    def _ui_node(self, name: str, node: Node, place: tuple[int, int], links: list[dict]) -> dict:
        own, sockets, block = self._ids[name], self._inputs(node), self.workflow.block
        into = {link["target_slot"]: link["id"] for link in links if link["target_id"] == own}
        inputs = []
        for slot, socket in enumerate(sockets):
            told = {"name": socket.name, "type": socket.kind, "link": into.get(slot)}
            told |= {"shape": 7} if socket.optional else {}
            told |= {"label": node.label[1]} if node.label and node.label[0] == socket.name else {}
            inputs.append(told | ({"widget": {"name": socket.name}} if socket.widget else {}))
        outputs = []
        for slot, (output, kind) in enumerate(self._outputs(node)):
            leaving = [link["id"] for link in links if (link["origin_id"], link["origin_slot"]) == (own, slot)]
            outputs.append({"name": output, "type": kind, "links": leaving})
        kind = _uuid(block.title) if node.kind == BLOCK else node.kind
        properties: dict[str, Any] = {} if node.kind in (BLOCK, NOTE) else {"Node name for S&R": node.kind}
        if node.models:
            properties["models"] = [dict(model) for model in node.models]
        told = {
            "id": own,
            "type": kind,
            "pos": list(place),
            "size": [node.width, self._height(node)],
            "flags": {},
            "order": own - 1,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": self._values(node),
        }
        title = block.title if node.kind == BLOCK else node.title
        return told | ({"title": title} if title else {})

    def _values(self, node: Node) -> list:
        """List the values of a node's widgets; the block's are kept inside."""
        if node.kind == NOTE:
            return [node.inputs["text"]]
        values = []
        for socket in self._inputs(node) if node.kind != BLOCK else ():
            if socket.widget and socket.kind != "IMAGECOMPARE":
                given = node.inputs.get(socket.name, socket.default)
                values.append(given.value if isinstance(given, Outer) else given)
                values += ["randomize"] * socket.controlled
        return values

    def _height(self, node: Node) -> int:
        sockets = self._inputs(node)
        widgets = sum(socket.widget for socket in sockets)
        return SLOT * max(len(sockets) - widgets, len(self._outputs(node))) + WIDGET * widgets + node.picture + 10

    def _places(self, nodes: dict[str, Node]) -> dict[str, tuple[int, int]]:
        """Place nodes in their columns, one below the other."""
        columns = sorted({node.column for node in nodes.values()})
        places, left = {}, 0
        for column in columns:
            here = {name: node for name, node in nodes.items() if node.column == column}
            top = 0
            for name, node in here.items():
                places[name] = (left, top)
                top += self._height(node) + TITLE + GAP
            left += max(node.width for node in here.values()) + 2 * GAP
        return places

    def _subgraph(self, block: Block) -> dict:
        nodes, links = self._level(block.nodes)
        outputs = self._outputs(Node(BLOCK))
        for slot, ((_, kind), link) in enumerate(zip(outputs, block.outputs.values(), strict=True)):
            links.append(_link(len(links) + 1, self._ids[link.node], link.output, OUTPUTS, slot, kind))
            inner = next(node for node in nodes if node["id"] == self._ids[link.node])
            inner["outputs"][link.output]["links"].append(links[-1]["id"])
        right = max(node["pos"][0] + node["size"][0] for node in nodes)
        inputs = self._inputs(Node(BLOCK))
        return {
            "id": _uuid(block.title),
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": len(self._ids),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": block.title,
            "inputNode": {"id": INPUTS, "bounding": [-240, 0, 160, 20 * len(inputs) + 40]},
            "outputNode": {"id": OUTPUTS, "bounding": [right + 80, 0, 120, 20 * len(outputs) + 40]},
            "inputs": [
                {
                    "id": _uuid(block.title, "input", socket.name),
                    "name": socket.name,
                    "type": socket.kind,
                    "linkIds": _ids(links, "origin", INPUTS, slot),
                    "pos": [-100, 20 + 20 * slot],
                }
                for slot, socket in enumerate(inputs)
            ],
            "outputs": [
                {
                    "id": _uuid(block.title, "output", name),
                    "name": name,
                    "type": kind,
                    "linkIds": _ids(links, "target", OUTPUTS, slot),
                    "pos": [right + 100, 20 + 20 * slot],
                }
                for slot, (name, kind) in enumerate(outputs)
            ],
            "widgets": [],
            "nodes": nodes,
            "groups": [],
            "links": links,
            "extra": {},
            "category": "LoRWeB",
            "description": block.about,
        }


def _link(number: int, origin: int, slot: int, target: int, place: int, kind: str) -> dict:
    return {
        "id": number,
        "origin_id": origin,
        "origin_slot": slot,
        "target_id": target,
        "target_slot": place,
        "type": kind,
    }


def _ids(links: list[dict], end: str, node: int, slot: int) -> list[int]:
    """List the links that end at a node's socket. end: "origin" or "target"."""
    return [link["id"] for link in links if (link[f"{end}_id"], link[f"{end}_slot"]) == (node, slot)]


def _uuid(*names: str) -> str:
    """Make a UUID that is the same whenever the same thing is written."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("lorweb", *names))))
