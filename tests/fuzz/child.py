"""Runs cases: `python tests/fuzz/child.py KIND SEED` one, with what was done and what came of it.

Without arguments it is the process that worker.py asks: a line "KIND SEED" in, three lines of JSON out.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 1 << 30
"""Bytes that a case may take beyond what the process has."""


@contextmanager
def little_memory() -> Iterator[None]:
    """Let the process have MEMORY more than it has; on Linux only, elsewhere as much as it likes."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run(kind: str, seed: int) -> Iterator[str]:
    """Make a case in a folder of its own, and run it; gives what was done, what came of it, and what was told."""
    from fuzz.case import outcome

    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        case = importlib.import_module(f"fuzz.{kind}").make(seed, Path(folder))
        yield case.what
        with little_memory():
            came = outcome(case, Path(folder))
    yield from came


def serve() -> None:
    """Answer until the input ends. What is tested may print; that goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        kind, seed = line.split()
        for part in run(kind, int(seed)):
            print(json.dumps(part), file=answers, flush=True)


if __name__ == "__main__":
    # Not this folder, whose modules are those of the package `fuzz`.
    sys.path[0:1] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "tools")]
    faulthandler.enable()
    import torch

    torch.set_num_threads(1)
    if sys.argv[1:]:
        for part in run(sys.argv[1], int(sys.argv[2])):
            print(part.encode("utf-8", "backslashreplace").decode(), flush=True)
    else:
        serve()
