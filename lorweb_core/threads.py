"""Limit the threads that torch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute within in the thread that asks alone.

    For work on small tensors, or in threads of its own: torch's others wait for the one that computes by spinning, and
    on two busy cores all takes four times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
