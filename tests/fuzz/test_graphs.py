"""Broken graphs in a real host: refused in words, nothing left behind, and the good prompt paints what it painted.

Longer, with other seeds: `python tools/test.py --fuzz 1000`. Endurance: `python tools/test.py --endurance 300`.
"""

from __future__ import annotations

import os
import sys

import pytest
from environment import HOW_TO_GIVE_A_COMFYUI, find_comfyui
from fuzz.worker import Worker, run_all

COUNT = int(os.environ.get("LORWEB_FUZZ", 126))
FIRST = int(os.environ.get("LORWEB_FUZZ_SEED", 0))
ANALOGIES = int(os.environ.get("LORWEB_ENDURANCE", 0))


@pytest.fixture
def worker(tmp_path, monkeypatch):
    found = find_comfyui()
    if found is None or os.environ.get("LORWEB_HOST_PYTHON") != sys.executable:
        pytest.skip(f"needs a ComfyUI and its Python: {HOW_TO_GIVE_A_COMFYUI}, then run tools/test.py")
    monkeypatch.setenv("COMFYUI_PATH", str(found))
    with Worker(tmp_path) as worker:
        yield worker


def test_broken_graphs_are_refused_and_the_good_one_paints_the_same_before_and_after(worker):
    before = [worker.run("good", method) for method in (0, 1)]
    assert [outcome.result for outcome in before] == ["loaded", "loaded"], before
    try:
        run_all(worker, "graph", range(FIRST, FIRST + COUNT))
    finally:
        after = [worker.run("good", method) for method in (0, 1)]
        assert after == before


@pytest.mark.skipif(not ANALOGIES, reason="python tools/test.py --endurance 300")
def test_many_analogies_in_a_row_take_no_more_memory(worker):
    outcome = worker.run("endurance", ANALOGIES, seconds=3600)
    print(outcome.message)
    assert outcome.result == "loaded", outcome.message
