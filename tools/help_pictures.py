"""Photograph every node for its help page: `python tools/help_pictures.py URL`, of a ComfyUI that runs with the pack.

Needs Playwright and a Chromium, as `python tools/test.py --browser` does; LORWEB_BROWSER may name its executable.
"""

from __future__ import annotations

import sys

from browser import find_browser
from environment import ROOT
from help_pages import read_schemas

PICTURES = ROOT / "web" / "docs" / "pictures"
VIEW = {"width": 760, "height": 1100}
BORDER, BADGE = 12, 16
"""Pixels around a node, and more above it for the pack's name."""

PLACE = """type => {
    const app = window.app, node = LiteGraph.createNode(type)
    for (const before of [...app.graph.nodes]) app.graph.remove(before)
    app.graph.add(node)
    node.showAdvanced = true
    const [width, height] = node.computeSize()
    node.setSize([Math.max(width, 330), height])
    node.pos = [120, 190]
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.deselectAll()
    app.canvas.setDirty(true, true)
    const top = LiteGraph.NODE_TITLE_HEIGHT, canvas = app.canvas.canvas.getBoundingClientRect()
    return [canvas.x + 120, canvas.y + 190 - top, node.size[0], node.size[1] + top]
}"""
"""Puts one node on an empty canvas; gives x, y, width and height of where it is in the page.

The graph is not cleared: the frontend would give the next node the same id, and with it the last one's values."""


def main(url: str) -> None:
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=VIEW)
        page.goto(url)
        page.wait_for_function(
            "() => window.app?.graph && window.LiteGraph?.registered_node_types.LoRWeBAnalogy !== undefined"
        )
        page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
        page.wait_for_timeout(3000)
        page.keyboard.press("Escape")
        page.add_style_tag(content="#graph-canvas-container ~ *, .graph-canvas-panel > * { visibility: hidden }")
        for node in read_schemas(url):
            x, y, width, height = page.evaluate(PLACE, node)
            page.wait_for_timeout(300)
            left, top, around = x - BORDER, y - BORDER - BADGE, 2 * BORDER
            clip = {"x": left, "y": top, "width": width + around, "height": height + around + BADGE}
            page.screenshot(path=PICTURES / f"{node}.png", clip=clip)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
