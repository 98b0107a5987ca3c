"""The line of callers on a virtual clock: first come, first served, bounded; increments are let in always.

The same rules as ``runtime.walking.turnstile``. Requests between two events of the clock find one state and one service
time, so that they are served together, by the closed form of Lindley's recursion.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Floats64 = NDArray[np.float64]


class Line:
    """Who waits for the one that answers.

    Args:
        limit: Requests that may wait; the next one is refused. Increments and loads in the line count as waiting.

    Attributes:
        free_s: When all that is in line now is done.
        busy_s: Seconds that all which was ever let in takes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.free_s = self.busy_s = 0.0
        self._starts: deque[float] = deque()
        """When those begin that wait, in order."""

    def spent_s(self, now_s: float) -> float:
        """Seconds of work done until a moment, after which nobody has come."""
        return self.busy_s - max(0.0, self.free_s - now_s)

    def job(self, due_s: float, seconds: float) -> float:
        """Let in a piece of writing, which is never turned away; returns when it is done."""
        start_s = max(due_s, self.free_s)
        self._leave(due_s)
        if start_s > due_s:
            self._starts.append(start_s)
        self.free_s = start_s + seconds
        self.busy_s += seconds
        return self.free_s

    def serve(self, arrivals: Floats64, service_s: float) -> Floats64:
        """Answer requests.

        Args:
            arrivals: When they come, in order, after all that came before; float64 [N].
            service_s: Seconds that one answer takes.

        Returns:
            Seconds from request to answer, NaN where it was refused; float64 [N].
        """
        count = len(arrivals)
        if count < _FEW:
            return self._one_by_one(arrivals, service_s)
        steps = service_s * np.arange(count, dtype=np.float64)
        # done(i) = max(arrival(i), done(i - 1)) + s, unrolled
        starts = steps + np.maximum(np.maximum.accumulate(arrivals - steps), self.free_s)
        self._leave(float(arrivals[0]))
        before = np.fromiter(self._starts, np.float64, len(self._starts))
        waiting = len(before) - np.searchsorted(before, arrivals, side="right")
        own = np.arange(count) - np.minimum(np.searchsorted(starts, arrivals, side="right"), np.arange(count))
        if int((waiting + own).max()) >= self._limit:
            return self._one_by_one(arrivals, service_s)
        self.free_s = float(starts[-1]) + service_s
        self.busy_s += count * service_s
        self._leave(float(arrivals[-1]))
        self._starts.extend(starts[starts > arrivals[-1]].tolist())
        return starts + service_s - arrivals

    def _one_by_one(self, arrivals: Floats64, service_s: float) -> Floats64:
        seconds = np.empty(len(arrivals))
        for place, arrival in enumerate(arrivals.tolist()):
            self._leave(arrival)
            if self.free_s > arrival and len(self._starts) >= self._limit:
                seconds[place] = np.nan
                continue
            start_s = max(arrival, self.free_s)
            if start_s > arrival:
                self._starts.append(start_s)
            self.free_s = start_s + service_s
            self.busy_s += service_s
            seconds[place] = self.free_s - arrival
        return seconds

    def _leave(self, now_s: float) -> None:
        """Those whose turn has come wait no more."""
        while self._starts and self._starts[0] <= now_s:
            self._starts.popleft()


_FEW = 8
"""Below this, a loop is faster than a dozen calls of NumPy."""
