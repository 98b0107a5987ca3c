"""How long somebody waits who was wrong: longer each time, and each address for itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from runtime.device.clock import since_boot_s

FREE: Final = 5
"""Times that one may be wrong in a row without waiting: people mistype."""
FIRST_S: Final = 1.0
MOST_S: Final = 60.0
FORGET_S: Final = 600.0
"""After which somebody who did not try again begins anew."""
LIMIT: Final = 4096
"""Addresses that are remembered. The one that was wrong longest ago is forgotten first."""


class Backoff:
    """Waits by address: none at first, then one second, two, four and so on up to a minute.

    Args:
        clock: Seconds on a clock that never jumps.
    """

    def __init__(self, clock: Callable[[], float] = since_boot_s) -> None:
        self._clock = clock
        self._known: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def wait_s(self, who: Hashable) -> float:
        """Seconds until somebody may try again; 0 for now."""
        _, until_s = self._known.get(who, (0, 0.0))
        return max(0.0, until_s - self._clock())

    def failed(self, who: Hashable) -> None:
        """Somebody was wrong."""
        now_s = self._clock()
        count, until_s = self._known.pop(who, (0, now_s))
        count = 1 if now_s - until_s >= FORGET_S else count + 1
        # The exponent is bounded: a float is not.
        wait_s = 0.0 if count < FREE else min(MOST_S, FIRST_S * 2 ** min(count - FREE, 30))
        self._known[who] = count, now_s + wait_s
        while len(self._known) > LIMIT:
            self._known.popitem(last=False)

    def forgive(self, who: Hashable) -> None:
        """Somebody was right."""
        self._known.pop(who, None)

    def __len__(self) -> int:
        return len(self._known)
