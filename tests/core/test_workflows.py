"""What users load, and the same for scripts, say the same; everything that it needs is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations

import pytest
from environment import ROOT

WORKFLOWS = ROOT / "workflows"
TITLES = (
    "An edit as a LoRA",
    "Best of four",
    "Edit by example",
    "Fit an example",
    "From one edit to another",
    "Train your own basis",
    "Try it now.app",
)
FRONTEND_ALONE = ("MarkdownNote", "ImageCompare")
KEPT_BESIDE = ("randomize", "image")
"""What the frontend keeps beside a node's values: what a seed becomes after a run, and that a picture was uploaded."""
TITLE_BAR = 30


def load(title: str) -> tuple[dict, dict]:
    """Read the UI's JSON and the API form."""
    ui, api = WORKFLOWS / f"{title}.json", WORKFLOWS / "api" / f"{title.removesuffix('.app')}.json"
    return json.loads(ui.read_text("utf-8")), json.loads(api.read_text("utf-8"))


def blocks(ui: dict) -> dict[str, dict]:
    """Find the subgraphs by their ids."""
    return {block["id"]: block for block in ui.get("definitions", {}).get("subgraphs", ())}


def levels(ui: dict) -> list[tuple[list[dict], list[dict]]]:
    """List the nodes and links of the graph and of each block, links in one form."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    outer = [dict(zip(names, link)) for link in ui["links"]]
    return [(ui["nodes"], outer), *((block["nodes"], block["links"]) for block in blocks(ui).values())]


def flat(ui: dict) -> Iterator[tuple[str, dict, dict]]:
    """Go through the nodes that run: key, node, and its links as the API form has them."""
    found = blocks(ui)
    (outer, outer_links), *_ = levels(ui)
    sources = {(link["target_id"], link["target_slot"]): link for link in outer_links}
    inside = {node["id"]: found[node["type"]] for node in outer if node["type"] in found}

    def origin(link: dict) -> list:
        """Find what runs behind a link of the graph."""
        block = inside.get(link["origin_id"])
        if block is None:
            return [str(link["origin_id"]), link["origin_slot"]]
        (end,) = (x for x in block["links"] if (x["target_id"], x["target_slot"]) == (-20, link["origin_slot"]))
        return [f"{link['origin_id']}:{end['origin_id']}", end["origin_slot"]]

    for node in outer:
        if node["id"] not in inside:
            links = {i["name"]: origin(sources[node["id"], place]) for place, i in linked(node)}
            yield str(node["id"]), node, links
            continue
        block = inside[node["id"]]
        inner = {link["id"]: link for link in block["links"]}
        for each in block["nodes"]:
            links = {}
            for _, i in linked(each):
                link = inner[i["link"]]
                if link["origin_id"] != -10:
                    links[i["name"]] = [f"{node['id']}:{link['origin_id']}", link["origin_slot"]]
                elif (node["id"], link["origin_slot"]) in sources:
                    links[i["name"]] = origin(sources[node["id"], link["origin_slot"]])
            yield f"{node['id']}:{each['id']}", each, links


def linked(node: dict) -> list[tuple[int, dict]]:
    return [(place, socket) for place, socket in enumerate(node["inputs"]) if socket["link"]]


def test_every_workflow_has_an_api_form_and_a_thumbnail():
    assert tuple(sorted(path.stem for path in WORKFLOWS.glob("*.json"))) == TITLES
    assert tuple(sorted(path.stem for path in WORKFLOWS.glob("*.jpg"))) == TITLES
    forms = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
    assert forms == sorted(title.removesuffix(".app") for title in TITLES)


@pytest.mark.parametrize("title", TITLES)
def test_both_forms_have_the_same_nodes_links_and_values(title):
    ui, api = load(title)
    nodes = {key: (node, links) for key, node, links in flat(ui) if node["type"] not in FRONTEND_ALONE}
    assert {key: node["class_type"] for key, node in api.items()} == {k: n["type"] for k, (n, _) in nodes.items()}
    for key, (node, links) in nodes.items():
        given = api[key]["inputs"]
        assert {name: value for name, value in given.items() if isinstance(value, list)} == links
        values = [value for value in given.values() if not isinstance(value, list)]
        kept = [value for value in node.get("widgets_values", []) if value not in KEPT_BESIDE]
        assert sorted(map(str, values)) == sorted(map(str, kept))
        assert api[key]["_meta"]["title"] == node.get("title", api[key]["_meta"]["title"])


@pytest.mark.parametrize("title", TITLES)
def test_every_file_has_a_folder_and_an_address_and_is_in_the_readme(title):
    readme = (ROOT / "README.md").read_text("utf-8")
    for _, node, _ in flat(load(title)[0]):
        if not node["type"].endswith("Loader"):
            continue
        models = {model["name"]: model for model in node["properties"]["models"]}
        assert models.keys() == {value for value in node["widgets_values"] if str(value).endswith(".safetensors")}
        for model in models.values():
            assert model["url"] in readme
            assert f"| `{model['directory']}` |" in readme


@pytest.mark.parametrize("title", TITLES)
def test_links_go_where_both_ends_say(title):
    for nodes, links in levels(load(title)[0]):
        known = {node["id"]: node for node in nodes}
        for link in links:
            if link["origin_id"] in known:
                output = known[link["origin_id"]]["outputs"][link["origin_slot"]]
                assert link["id"] in output["links"] and output["type"] == link["type"]
            if link["target_id"] in known:
                taker = known[link["target_id"]]["inputs"][link["target_slot"]]
                assert taker["link"] == link["id"] and taker["type"] == link["type"]


@pytest.mark.parametrize("title", TITLES)
def test_a_block_has_the_sockets_that_its_node_shows(title):
    ui, _ = load(title)
    found = blocks(ui)
    (node,) = (node for node in ui["nodes"] if node["type"] in found)
    block = found[node["type"]]
    for ends, own in ((block["inputs"], node["inputs"]), (block["outputs"], node["outputs"])):
        assert [(end["name"], end["type"]) for end in ends] == [(socket["name"], socket["type"]) for socket in own]
    for links, ends in (("origin", block["inputs"]), ("target", block["outputs"])):
        outside = {"origin": -10, "target": -20}[links]
        for slot, end in enumerate(ends):
            mine = [x["id"] for x in block["links"] if (x[f"{links}_id"], x[f"{links}_slot"]) == (outside, slot)]
            assert end["linkIds"] == mine != []


@pytest.mark.parametrize("title", TITLES)
def test_it_is_small_and_its_note_short_and_nothing_overlaps(title):
    ui, _ = load(title)
    assert len(ui["nodes"]) <= 8
    (note,) = (node["widgets_values"][0] for node in ui["nodes"] if node["type"] == "MarkdownNote")
    assert len(note.splitlines()) == 5
    for nodes, _ in levels(ui):
        for one, other in combinations(nodes, 2):
            apart = [
                one["pos"][axis] + one["size"][axis] + bar <= other["pos"][axis]
                or other["pos"][axis] + other["size"][axis] + bar <= one["pos"][axis]
                for axis, bar in ((0, 0), (1, TITLE_BAR))
            ]
            assert any(apart), (one["type"], other["type"])


@pytest.mark.parametrize("title", TITLES)
def test_seeds_change_after_a_run_and_example_pictures_are_there(title):
    for _, node, _ in flat(load(title)[0]):
        if node["type"] == "KSampler":
            assert node["widgets_values"][1] == "randomize"
        if node["type"] == "LoadImage":
            assert (WORKFLOWS / "pictures" / node["widgets_values"][0]).is_file()


def test_the_app_shows_widgets_and_results_that_there_are():
    ui, _ = load("Try it now.app")
    nodes = {node["id"]: node for node in ui["nodes"]}
    shown = ui["extra"]["linearData"]
    for node, name in shown["inputs"]:
        assert name in [socket["name"] for socket in nodes[node]["inputs"] if "widget" in socket]
    assert [nodes[node]["type"] for node in shown["outputs"]] == ["SaveImage"]
    assert ui["extra"]["linearMode"] is True


def test_the_block_that_the_search_finds_is_the_workflows():
    alone = json.loads((ROOT / "subgraphs" / "Edit by Example.json").read_text("utf-8"))
    ((block,), (mine,)) = (list(blocks(ui).values()) for ui in (alone, load("Edit by example")[0]))

    def without_numbers(block: dict) -> list:
        return [(node["type"], node["widgets_values"], [i["name"] for _, i in linked(node)]) for node in block["nodes"]]

    assert block["id"] == mine["id"]
    assert without_numbers(block) == without_numbers(mine)
