"""Broken files of every kind: refused by the pack in words, or read as a plain reading reads them.

The seeds are fixed; `python tools/test.py --fuzz 1000` draws others, and more.
"""

from __future__ import annotations

import os

import pytest
from fuzz.worker import Worker, run_all

KINDS = ("basis", "config", "mixture", "picture", "pictures", "run_folder")
COUNT = int(os.environ.get("LORWEB_FUZZ", 64))
FIRST = int(os.environ.get("LORWEB_FUZZ_SEED", 0))


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with Worker(tmp_path_factory.mktemp("fuzz")) as worker:
        yield worker


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_refused_or_read_as_they_are(worker, kind):
    run_all(worker, kind, range(FIRST, FIRST + COUNT))
