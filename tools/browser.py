"""What browser tests need beside a ComfyUI: Playwright, a Chromium, and the frontend that the ComfyUI asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from environment import ROOT, pip

PACKAGES = ("pytest>=8", "playwright")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge", "microsoft-edge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
HOW_TO_GIVE_A_BROWSER = "set LORWEB_BROWSER to the executable of a Chromium, Chrome or Edge"
FRONTEND = "comfyui-frontend-package"


def find_browser() -> str | None:
    """Find LORWEB_BROWSER, else a browser that Playwright drives as Chromium; None if there is none."""
    found = [os.environ.get("LORWEB_BROWSER"), *map(shutil.which, CHROMIUM), *PLACES]
    return next((each for each in found if each and Path(each).is_file()), None)


def playwright(host_python: str) -> Path:
    """Find the folder of Playwright and pytest, which lie beside the host's packages; they are installed when missing.

    Playwright's own browsers are not downloaded: the machine's is used.
    """
    beside = ROOT / ".cache" / "browser-tests"
    if not (beside / "playwright").is_dir():
        pip(host_python, "install", "--quiet", "--target", str(beside), *PACKAGES)
    return beside


def frontend(comfyui: Path, host_python: str) -> Path | None:
    """Find the frontend that a ComfyUI's requirements.txt names; None if its Python has that one.

    Another version is installed beside the host's packages.
    """
    wanted = re.search(rf"^{FRONTEND}==(\S+)", (comfyui / "requirements.txt").read_text("utf-8"), re.M)
    show = f"import importlib.metadata as m; print(m.version('{FRONTEND}'))"
    there = subprocess.run([host_python, "-c", show], capture_output=True, text=True).stdout.strip()
    if wanted is None or wanted[1] == there:
        return None
    beside = ROOT / ".cache" / f"frontend-{wanted[1]}"
    if not beside.is_dir():
        pip(host_python, "install", "--quiet", "--no-deps", "--target", str(beside), f"{FRONTEND}=={wanted[1]}")
    return beside / FRONTEND.replace("-", "_") / "static"
