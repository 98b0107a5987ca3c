"""How often somebody may try: token buckets, a bounded number of them, on a clock that never jumps."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

LIMIT: Final = 4096
"""Buckets kept at once. The one unused for longest goes first; who comes back gets a full one."""


class Buckets:
    """A bucket for each key, refilled steadily.

    Args:
        per_second: Tries that come back a second.
        burst: Tries at once.
        limit: Keys that are kept.
        clock: Seconds on a clock that never jumps.
    """

    def __init__(
        self, per_second: float, burst: int, limit: int = LIMIT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._limit = limit
        self._clock = clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Take a try.

        Returns:
            0 if there was one, else the seconds until there will be.
        """
        now = self._clock()
        level, at = self._levels.get(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._levels[key] = (level - 1 if level >= 1 else level, now)
        self._levels.move_to_end(key)
        while len(self._levels) > self._limit:
            self._levels.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._levels)


def neighbourhood(address: str) -> str:
    """What counts as one stranger: an IPv4 address, or the /64 that one IPv6 host may choose its address from."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
