"""Runs all tests: `python tools/test.py`. Makes its own environment; a ComfyUI, where there is one, is only used."""

from __future__ import annotations

import os
import subprocess
import sys

from environment import ROOT, find_host, own_python, pip

TESTS = ROOT / "tests"


def main() -> int:
    python = own_python("cli", "test")
    failed = 0
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["pytest", str(TESTS / "core")]):
        failed |= subprocess.run([python, "-m", *command], cwd=ROOT).returncode
    host = find_host()
    if host is None:
        print("Host tests skipped.")
        return failed
    comfyui, host_python = host
    # pytest lies beside the host's packages and not among them: its environment stays as it is.
    beside = ROOT / ".cache" / "host-tests"
    if not (beside / "pytest").is_dir():
        pip(host_python, "install", "--quiet", "--target", str(beside), "pytest>=8")
    print(f"Host tests in {comfyui}", flush=True)
    environment = os.environ | {
        "COMFYUI_PATH": str(comfyui),
        "LORWEB_HOST_PYTHON": host_python,
        "PYTHONPATH": str(beside),
    }
    failed |= subprocess.run([host_python, "-m", "pytest", str(TESTS / "host")], cwd=ROOT, env=environment).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
