"""Gives memory that is free inside this process back to the system, where the C library has to be told to."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give free memory back: after a switch, that of the network that answered before.

    The GNU C library keeps what lies between pieces that are in use, and each switch leaves holes of other sizes; over
    thousands of switches a process would grow by them. Takes about a millisecond. Elsewhere, nothing is done.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], object] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
