"""The bundled workflows in ComfyUI's own page: they open whole, and Try it now is run by the mouse alone."""

from __future__ import annotations

import json

import pytest
from environment import ROOT

WORKFLOWS = ROOT / "workflows"
TITLES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
SCALE = 0.6
"""Least size at which all of a workflow is to be seen, on 1600 × 900 pixels."""

APPS = (1, 40)
"""A version of the frontend above those without apps: that of ComfyUI 0.14.1 is 1.39."""

# A node's box as it is drawn, without its title: by the page's element where there is one, else by the canvas.
BOXES = """() => {
  const { graph, ds } = window.app.canvas
  return graph.nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect()
    const [width, height] = element ? [element.width / ds.scale, element.height / ds.scale - 30] : node.size
    return [node.title, ...node.pos, Math.max(width, node.size[0]), Math.max(height, node.size[1])]
  })
}"""
INTO_THE_BLOCK = """() => {
  const block = window.app.graph.nodes.find((node) => node.subgraph)
  window.app.canvas.openSubgraph(block.subgraph, block)
}"""


def as_graph(title: str) -> dict:
    """Read a workflow to be opened as a graph, an app too."""
    ui = json.loads((WORKFLOWS / f"{title}.json").read_text("utf-8"))
    ui["extra"].pop("linearMode", None)
    return ui


def overlapping(boxes: list[list]) -> list[tuple[str, str]]:
    """List the pairs of nodes that are drawn over each other."""
    return [
        (one, other)
        for i, (one, x, y, width, height) in enumerate(boxes)
        for other, left, top, wide, high in boxes[:i]
        if x < left + wide and left < x + width and y - 30 < top + high and top - 30 < y + height
    ]


@pytest.mark.parametrize("title", TITLES)
def test_it_opens_whole_without_overlap_and_asks_for_what_the_api_form_says(frontend, renderer, title):
    page = frontend.page
    frontend.open(as_graph(title), title)
    frontend.screenshot(f"{title}-{renderer}")
    assert page.evaluate("() => window.app.canvas.ds.scale") >= SCALE
    assert not overlapping(page.evaluate(BOXES))

    asked = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    known = json.loads(frontend.server.get("/object_info"))
    assert {node["class_type"] for node in asked.values()} <= known.keys()
    api = json.loads((WORKFLOWS / "api" / f"{title.removesuffix('.app')}.json").read_text("utf-8"))
    asked = {key: node for key, node in asked.items() if node["class_type"] != "ImageCompare"}
    assert {key: (node["class_type"], node["inputs"]) for key, node in asked.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in api.items()
    }

    page.evaluate(INTO_THE_BLOCK)
    frontend.fit()
    frontend.screenshot(f"{title}-{renderer}-block")
    assert not overlapping(page.evaluate(BOXES))


def test_the_small_world_is_tried_by_the_mouse_alone(frontend):
    """Find the app among the templates, run it, and see b′."""
    page = frontend.page
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    if tuple(map(int, version.split(".")[:2])) < APPS:
        pytest.skip(f"the frontend {version} has no apps")
    page.get_by_text("Templates", exact=True).first.click()
    page.get_by_text("ComfyUI-LoRWeB", exact=True).first.click()
    page.get_by_text("Try it now.app", exact=True).first.click()
    welcome = page.get_by_text("Skip", exact=True)
    welcome.or_(page.get_by_text("a: before", exact=True)).first.wait_for()
    if welcome.count():
        welcome.first.click()
    before = set((frontend.server.base / "output").rglob("*.png"))
    # Beside the app's own there may be the menu of the graph's, of the same name.
    run = page.get_by_role("button", name="Run", exact=True).and_(page.locator("button:not([aria-haspopup])"))
    run.locator("visible=true").last.click()
    page.get_by_text("first_0").first.wait_for(timeout=60_000)
    frontend.screenshot("Try it now-app")
    (made,) = set((frontend.server.base / "output").rglob("*.png")) - before
    assert made.parent.name == "lorweb" and made.name.startswith("first_")


def test_the_search_for_nodes_finds_the_block(frontend):
    page = frontend.page
    page.evaluate("() => window.app.graph.clear()")
    page.locator("#graph-canvas").dblclick(position={"x": 800, "y": 850})
    page.wait_for_timeout(1500)  # the search opens
    page.keyboard.type("edit by example")
    page.get_by_text("Edit by Example", exact=True).first.wait_for()
    frontend.screenshot("search")
