"""Where things run: an environment of the project's own, and a ComfyUI with its Python. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# One torch for everybody, so that figures and tolerances mean the same everywhere.
TORCH = "torch==2.13.0"

OLDEST = (0, 14, 1)  # as requires-comfyui in pyproject.toml

HOW_TO_GIVE_A_COMFYUI = (
    "set COMFYUI_PATH to a ComfyUI folder (0.14.1 or newer), and COMFYUI_PYTHON to its Python if that is not in its "
    ".venv, venv or ../python_embeded"
)


def own_python(*extras: str) -> str:
    """Find the Python of .venv with the pack's extras installed; they are installed anew when pyproject changes."""
    folder = ROOT / ".venv"
    python = _python_in(folder)
    wanted = hashlib.sha256(f"{TORCH} {extras} {(ROOT / 'pyproject.toml').read_text('utf-8')}".encode()).hexdigest()
    stamp = folder / f"lorweb-{'-'.join(extras)}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Setting up {folder} (torch and diffusers: a few minutes, once) …", flush=True)
        if not python.is_file():
            venv.create(folder, with_pip=True)
        pip(python, "install", "--quiet", TORCH, "--editable", f"{ROOT}[{','.join(extras)}]")
        stamp.write_text(wanted)
    return str(python)


def pip(python: Path | str, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def find_comfyui() -> Path | None:
    """Find COMFYUI_PATH, else the ComfyUI this pack is installed in, else comfy-cli's default place."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        if not (Path(given) / "main.py").is_file():
            sys.exit(f"COMFYUI_PATH is {given}, but there is no main.py in it: give the folder of a ComfyUI.")
        return Path(given).resolve()
    places = [Path.home() / "comfy" / "ComfyUI", Path.home() / "Documents" / "comfy" / "ComfyUI"]
    if ROOT.parent.name == "custom_nodes":
        places.insert(0, ROOT.parent.parent)
    return next((place for place in places if (place / "main.py").is_file()), None)


def find_host() -> tuple[Path, str] | None:
    """Find a ComfyUI and a Python that has what it imports; None, with the reason printed, if there is none."""
    comfyui = find_comfyui()
    if comfyui is None:
        print(f"No ComfyUI found; to use one, {HOW_TO_GIVE_A_COMFYUI}.", flush=True)
        return None
    if _version(comfyui) < OLDEST:
        print(f"The ComfyUI in {comfyui} is too old; to use another, {HOW_TO_GIVE_A_COMFYUI}.", flush=True)
        return None
    candidates = [
        *([Path(os.environ["COMFYUI_PYTHON"])] if "COMFYUI_PYTHON" in os.environ else []),
        _python_in(comfyui / ".venv"),
        _python_in(comfyui / "venv"),
        comfyui.parent / "python_embeded" / "python.exe",
        Path(sys.executable),
    ]
    for python in candidates:
        probe = [str(python), "-c", "import torch, torchvision, torchsde, transformers, safetensors, aiohttp, einops"]
        if python.is_file() and subprocess.run(probe, capture_output=True).returncode == 0:
            return comfyui, str(python)
    print(f"{comfyui} has no Python that runs it; {HOW_TO_GIVE_A_COMFYUI}.", flush=True)
    return None


def run_in_host(script: str, run: Callable[[Path], None], without: str) -> None:
    """Call `run` with the ComfyUI's folder, in the ComfyUI's own Python: the script is started there once more."""
    if sys.argv[1:2] == ["--in"]:
        run(Path(sys.argv[2]))
        return
    host = find_host()
    if host is None:
        sys.exit(without)
    comfyui, python = host
    sys.exit(subprocess.run([python, script, "--in", str(comfyui)], env=os.environ).returncode)


def _version(comfyui: Path) -> tuple[int, ...]:
    """Read the version from comfyui_version.py, which ComfyUI has since 0.3."""
    file = comfyui / "comfyui_version.py"
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", file.read_text("utf-8")) if file.is_file() else None
    return tuple(map(int, found.groups())) if found else (0,)


def _python_in(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
