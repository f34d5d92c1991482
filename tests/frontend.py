"""ComfyUI's page in a browser, used as a person uses it: open a workflow, click Run, read what the nodes show."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from comfy_server import ComfyServer
from playwright.sync_api import Page

RUN = '[data-testid="queue-button"], .comfyui-queue-button button'
LOADED = "() => window.app?.graph && !document.querySelector('#splash-loader')"
TEXTS = """() => Object.fromEntries(window.app.graph.nodes.map((node) => {
  const elements = [
    document.querySelector(`[data-node-id="${node.id}"]`), ...(node.widgets ?? []).map((widget) => widget.element),
  ]
  const values = (node.widgets ?? []).map((widget) => widget.value).filter((value) => typeof value === 'string')
  return [node.id, [node.title, ...values, ...elements.map((element) => element?.innerText ?? '')].join('\\n')]
}))"""

LOOK_AT = """([id, scale]) => {
  const { graph, canvas } = window.app
  const [x, y] = graph.getNodeById(id).pos
  canvas.ds.scale = scale
  canvas.ds.offset = [200 / scale - x, 150 / scale - y]
  canvas.setDirty(true, true)
}"""


@dataclass
class Ran:
    """Tell how a run ended."""

    status: str
    """'success', 'error', or 'refused' by the host before anything ran."""
    outputs: dict[str, dict] = field(default_factory=dict)
    """What each node showed, by node id: the host's `ui` outputs."""
    answer: dict = field(default_factory=dict)
    """The host's history of the run, or its answer where it refused."""


class Frontend:
    """Drive the page of a running ComfyUI."""

    def __init__(self, page: Page, server: ComfyServer, pictures: Path):
        self.page = page
        self.server = server
        self.pictures = pictures

    def load(self, **settings: object) -> None:
        """Load the page anew with these settings of the frontend, by their ids with '_' for '.'."""
        ids = {"Comfy.TutorialCompleted": True, "Comfy.ColorPalette": "dark"}
        ids |= {name.replace("_", "."): value for name, value in settings.items()}
        url = f"http://127.0.0.1:{self.server.port}"
        request = urllib.request.Request(f"{url}/settings", json.dumps(ids).encode(), method="POST")
        urllib.request.urlopen(request).close()
        self.page.goto(url)
        self.page.wait_for_function(LOADED, timeout=90_000)
        self.page.locator(RUN).first.wait_for(timeout=60_000)

    def open(self, workflow: Path | dict, name: str = "opened") -> None:
        """Open a workflow, in the page's own form or in the API's, and see all of it."""
        graph = json.loads(workflow.read_text("utf-8")) if isinstance(workflow, Path) else workflow
        self.page.evaluate(
            "async ([graph, name]) => graph.nodes ? await window.app.loadGraphData(graph, true, true, name)"
            " : await window.app.loadApiJson(graph, name)",
            [graph, name],
        )
        self.page.wait_for_function("n => window.app.graph.nodes.length >= n", arg=len(graph.get("nodes", graph)))
        self.fit()

    def fit(self) -> None:
        """See the whole graph, by the frontend's own key."""
        self.page.keyboard.press("Escape")
        self.page.locator("#graph-canvas").focus()
        self.page.keyboard.press(".")
        self.page.wait_for_timeout(700)  # the view moves there

    def look_at(self, node: str, scale: float = 1) -> None:
        """Show a node at this scale, its title's left end near the page's left upper corner."""
        self.page.evaluate(LOOK_AT, [node, scale])
        self.page.wait_for_timeout(500)

    def run(self, within: float = 240) -> Ran:
        """Click Run with the mouse and wait until the host has ended what was queued, for so many seconds."""
        queued = lambda answer: answer.request.method == "POST" and answer.url.endswith("/prompt")  # noqa: E731
        with self.page.expect_response(queued, timeout=20_000) as expected:
            self.page.locator(RUN).first.click()
        answer = expected.value
        if not answer.ok:
            return Ran("refused", answer=answer.json())
        prompt = answer.json()["prompt_id"]
        end = time.monotonic() + within
        while time.monotonic() < end:
            history = json.loads(self.server.get(f"/history/{prompt}"))
            if prompt in history:
                self.page.wait_for_timeout(500)  # the page hears of it, and shows it
                return Ran(history[prompt]["status"]["status_str"], history[prompt]["outputs"], history[prompt])
            self.page.wait_for_timeout(200)
        raise TimeoutError(f"The run did not end within {within} s.")

    def texts(self) -> dict[str, str]:
        """Read what each node shows, by node id: title, widgets' texts, and what the page draws in it."""
        return self.page.evaluate(TEXTS)

    def screenshot(self, name: str) -> Path:
        """Save what the page shows under this name, for a person to look at."""
        path = self.pictures / f"{name}.png"
        self.page.screenshot(path=path)
        return path
