"""What users load, and the same for scripts, say the same; everything that it needs is told."""

from __future__ import annotations

import json

import pytest
from environment import ROOT

WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def load(name: str) -> tuple[dict, dict]:
    """The UI's JSON and the API form."""
    return tuple(json.loads((folder / f"{name}.json").read_text("utf-8")) for folder in (WORKFLOWS, WORKFLOWS / "api"))


def test_every_workflow_has_an_api_form_and_a_thumbnail():
    assert NAMES == ["best_of_seeds", "edit_strip", "export_lora", "fit_example", "train_basis", "visual_analogy"]
    for folder, suffix in ((WORKFLOWS / "api", "json"), (WORKFLOWS, "jpg")):
        assert sorted(path.stem for path in folder.glob(f"*.{suffix}")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_have_the_same_nodes_links_and_values(name):
    ui, api = load(name)
    nodes = {str(node["id"]): node for node in ui["nodes"] if node["type"] != "MarkdownNote"}
    assert {key: node["class_type"] for key, node in api.items()} == {k: n["type"] for k, n in nodes.items()}
    links = {link: [str(origin), slot] for link, origin, slot, *_ in ui["links"]}
    for key, node in nodes.items():
        given = api[key]["inputs"]
        linked = {i["name"]: links[i["link"]] for i in node["inputs"] if i.get("link")}
        assert {name: value for name, value in given.items() if isinstance(value, list)} == linked
        values = [value for value in given.values() if not isinstance(value, list)]
        # The front end keeps two values more: what a seed becomes after a run, and that an image was uploaded.
        kept = [value for value in node.get("widgets_values", []) if value not in ("fixed", "image")]
        assert sorted(map(str, values)) == sorted(map(str, kept))
        assert api[key]["_meta"]["title"] == node.get("title", api[key]["_meta"]["title"])


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_a_folder_and_an_address_and_is_in_the_note(name):
    ui, _ = load(name)
    (note,) = (node["widgets_values"][0] for node in ui["nodes"] if node["type"] == "MarkdownNote")
    for node in ui["nodes"]:
        if not node["type"].endswith("Loader"):
            continue
        models = {model["name"]: model for model in node["properties"]["models"]}
        files = {value for value in node["widgets_values"] if str(value).endswith(".safetensors")}
        assert models.keys() == files
        for model in models.values():
            assert model["url"] in note
            assert f"models/{model['directory']}/" in note


@pytest.mark.parametrize("name", NAMES)
def test_links_go_where_both_ends_say(name):
    ui, _ = load(name)
    nodes = {node["id"]: node for node in ui["nodes"]}
    for link, origin, slot, target, place, kind in ui["links"]:
        output, taker = nodes[origin]["outputs"][slot], nodes[target]["inputs"][place]
        assert link in output["links"]
        assert taker["link"] == link
        assert output["type"] == taker["type"] == kind
