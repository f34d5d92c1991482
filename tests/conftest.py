"""Chance in tests is the same every time: what a test draws depends on itself only."""

from __future__ import annotations

import random

import pytest
import torch


def seed() -> None:
    random.seed(0)
    torch.manual_seed(0)


seed()  # of what modules draw when they are imported


@pytest.fixture(autouse=True, scope="module")
def seeded_module() -> None:
    """Seed before the fixtures that a module's tests share."""
    seed()


@pytest.fixture(autouse=True)
def seeded(seeded_module: None) -> None:
    """Seed before each test and its own fixtures."""
    seed()


@pytest.fixture(scope="module")
def one_thread():
    """Compute in one thread: models this small only wait for further threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
