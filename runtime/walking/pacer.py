"""When the next increment of a walk may be written, and how large it may be.

The controller asks on a device's clock, the simulator on a virtual one; both get the same answers.
"""

from __future__ import annotations

from device_profiles.schema import Writes
from runtime.plan.costs import budget_bytes, interval_s


class Pacer:
    """The pace of one walk's increments, its turns included.

    Args:
        writes: Limits of the device.
        now_s: Seconds on the clock that all other moments are of.

    Attributes:
        due_s: When the next increment may begin.
        free_s: When the memory has taken what it was given.
        budget: Bytes of the next increment at most.
    """

    def __init__(self, writes: Writes, now_s: float) -> None:
        self._writes = writes
        self._interval_s = interval_s(writes)
        self.due_s = self.free_s = now_s
        self.budget = budget_bytes(writes)

    def turn(self, now_s: float) -> None:
        """Another way is taken: its first increment waits for the memory alone, and is no larger than the last."""
        self.due_s = max(now_s, self.free_s)

    def begin(self, now_s: float) -> None:
        """An increment begins."""
        # A walk that was held up does not make up for it by writing faster.
        self.due_s = max(self.due_s, now_s - self._interval_s) + self._interval_s

    def end(self, now_s: float, free_s: float, stall_s: float) -> None:
        """The increment is written.

        Args:
            now_s: When callers are answered again.
            free_s: When the memory is free.
            stall_s: Seconds for which callers were kept out.
        """
        if self._writes.quiesce_required:
            # Between two pauses the device answers for a whole interval.
            self.due_s = now_s + self._interval_s
        self.free_s = free_s
        self.due_s = max(self.due_s, free_s)
        if stall_s * 1e3 > self._writes.stall_budget_ms:
            # Callers waited longer than the device allows: write less at once for the rest of this walk.
            self.budget = max(1, self.budget // 2)
