"""Runs all tests: `python tools/test.py`. Makes its own environment; a ComfyUI, where there is one, is only used.

`--core -k name` runs core tests alone, the fast loop; further arguments go to pytest. `--fuzz 1000` runs the fuzzing
suite alone, with so many broken inputs of each kind and random seeds; `--endurance 300` so many analogies in a row.
`--browser` runs the tests in a real browser alone, which are in no other run; further arguments go to pytest.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
from pathlib import Path

from browser import HOW_TO_GIVE_A_BROWSER, find_browser, frontend, playwright
from environment import ROOT, find_host, own_python, pip

TESTS = ROOT / "tests"
CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["codespell_lib", "."],
    *(["mypy", f"--platform={system}", f"--cache-dir=.mypy_cache/{system}"] for system in ("linux", "darwin", "win32")),
)
"""Checks of the files, by module; types are checked for each system, as the code for one is not run on the others."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--core", action="store_true", help="only core tests; further arguments go to pytest")
    parser.add_argument("--fuzz", type=int, metavar="N", help="only the fuzzing suite: N cases of each kind")
    parser.add_argument("--seed", type=int, help="the first case of --fuzz, which was printed, to have the same again")
    parser.add_argument("--endurance", type=int, metavar="N", help="only N analogies in a row, in a ComfyUI")
    parser.add_argument("--browser", action="store_true", help="only tests in a browser; further ones go to pytest")
    asked, further = parser.parse_known_args()
    if further and not (asked.core or asked.browser):
        parser.error(f"unknown: {' '.join(further)}")
    files, graphs = [TESTS / "fuzz" / "test_files.py"], [TESTS / "fuzz" / "test_graphs.py"]
    named = any(each.partition("::")[0].endswith(".py") for each in further)
    if asked.core:
        return core_tests(*([] if named else [TESTS / "core"]), *further)
    if asked.browser:
        return browser_tests(*([] if named else [TESTS / "browser"]), *further)
    if asked.endurance:
        os.environ["LORWEB_ENDURANCE"] = str(asked.endurance)
        return host_tests(*graphs, "-k", "in_a_row", "-s")
    if asked.fuzz:
        seed = secrets.randbelow(10**9) if asked.seed is None else asked.seed
        os.environ.update(LORWEB_FUZZ=str(asked.fuzz), LORWEB_FUZZ_SEED=str(seed))
        print(f"Base seed: {seed}. The same again: python tools/test.py --fuzz {asked.fuzz} --seed {seed}", flush=True)
        return core_tests(*files, "-s") | host_tests(*graphs, "-s")
    python = own_python("cli", "test")
    failed = 0
    for command in CHECKS:
        failed |= subprocess.run([python, "-m", *command], cwd=ROOT).returncode
    return failed | core_tests(TESTS / "core", *files) | host_tests(TESTS / "host", *graphs)


def core_tests(*arguments: object) -> int:
    return subprocess.run([own_python("cli", "test"), "-m", "pytest", *map(str, arguments)], cwd=ROOT).returncode


def host_tests(*arguments: object) -> int:
    host = find_host()
    if host is None:
        print("Host tests skipped.")
        return 0
    # pytest lies beside the host's packages and not among them: its environment stays as it is.
    beside = ROOT / ".cache" / "host-tests"
    if not (beside / "pytest").is_dir():
        pip(host[1], "install", "--quiet", "--target", str(beside), "pytest>=8")
    return in_host(*host, beside, {}, *arguments)


def browser_tests(*arguments: object) -> int:
    host, chromium = find_host(), find_browser()
    if host is None or chromium is None:
        print(f"Browser tests skipped: no {'ComfyUI' if host is None else f'browser; {HOW_TO_GIVE_A_BROWSER}'}.")
        return 0
    try:
        beside, root = playwright(host[1]), frontend(*host)
    except subprocess.CalledProcessError:
        print("Browser tests skipped: Playwright, or the frontend of this ComfyUI, could not be installed.")
        return 0
    return in_host(*host, beside, {"LORWEB_BROWSER": chromium, "LORWEB_FRONTEND": str(root or "")}, *arguments)


def in_host(comfyui: Path, host_python: str, beside: Path, given: dict[str, str], *arguments: object) -> int:
    """Run pytest with the ComfyUI's own Python and the packages that lie beside its own."""
    print(f"Tests in {comfyui}", flush=True)
    environment = os.environ | given
    environment |= {"COMFYUI_PATH": str(comfyui), "LORWEB_HOST_PYTHON": host_python, "PYTHONPATH": str(beside)}
    command = [host_python, "-m", "pytest", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
