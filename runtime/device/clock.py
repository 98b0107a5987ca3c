"""The clock that leases, holds and codes end by."""

from __future__ import annotations

import time
from collections.abc import Callable


def since_boot_s() -> float:
    """Seconds on a clock that never jumps and, where the system has one, runs on while the machine sleeps.

    A lease of an hour that is asked for before the lid is closed is over when it is opened the next day. Linux stops
    CLOCK_MONOTONIC meanwhile, and counts sleep in CLOCK_BOOTTIME. All processes of a boot see the same time.
    """
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def since_now(clock: Callable[[], float]) -> Callable[[], float]:
    """The same clock, counted from this moment on."""
    begun_s = clock()
    return lambda: clock() - begun_s
