"""Browser tests click in ComfyUI's own page, in a real browser; `python tools/test.py --browser` starts them.

LORWEB_SCREENSHOTS is the folder that screenshots go to; without it they go to the test's own folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import standins
from environment import ROOT

# The small world lies beside the pack, and other modules of the tests are found as its own tests find them.
sys.path.insert(0, str(ROOT))

VIEW = {"width": 1600, "height": 900}
DARK, LIGHT = "dark", "light"
RENDERERS = {"canvas": False, "vue": True}


def pytest_ignore_collect() -> bool | None:
    """Collect nothing where tools/test.py --browser has not found a browser and Playwright."""
    return None if "LORWEB_BROWSER" in os.environ else True


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Run a ComfyUI with the pack, the small world's models and triplets of its pictures."""
    from comfy_server import ComfyServer

    from small_world import install
    from small_world.worlds import SHIPPED

    base = tmp_path_factory.mktemp("server")
    install.comfy_models(base / "models", standins.text_encoder())
    install.save_triplets(base / "input", SHIPPED.splits["new_pairs"].edits[:3])
    frontend = os.environ.get("LORWEB_FRONTEND")
    further = ["--front-end-root", frontend] if frontend else []
    with ComfyServer(Path(os.environ["COMFYUI_PATH"]), sys.executable, base, *further) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    flags = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # which Chromium demands of root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["LORWEB_BROWSER"], args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def workflow() -> Callable[[str], dict]:
    """Read the API form of a workflow of the last release, with the small world's models and pictures in it."""
    from small_world import install
    from small_world.worlds import SHIPPED, file_name

    name = file_name(SHIPPED.splits["new_pairs"].edits[0])
    files = {image: f"{name}-{image}.png" for image in ("a", "a_prime", "b")}

    def workflow(stem: str) -> dict:
        path = standins.RELEASED / f"{stem}.json"
        return standins.for_standins(path, install.MEGAPIXELS, 4, install.NAMES, files)

    return workflow


@pytest.fixture
def frontend(server, browser, tmp_path: Path) -> Iterator:
    """Open the host's page; `load` opens it with other settings."""
    from frontend import Frontend

    pictures = Path(os.environ.get("LORWEB_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport=VIEW)
    frontend = Frontend(page, server, pictures)
    frontend.load()
    yield frontend
    page.close()


@pytest.fixture(params=RENDERERS)
def renderer(request: pytest.FixtureRequest, frontend) -> str:
    """Show the page with each of the host's renderers of nodes: the canvas, and 'Nodes 2.0'."""
    frontend.load(Comfy_VueNodes_Enabled=RENDERERS[request.param])
    return request.param
