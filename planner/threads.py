"""How many threads PyTorch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with so many threads while the context is open.

    On small networks two threads are no faster than one, and on busy cores they wait for each other: training on the
    digits took 35 s instead of 2 s.

    Args:
        count: Number of threads; 0 leaves it as it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
