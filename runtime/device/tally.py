"""Counts what a device does."""

from __future__ import annotations

import threading
from typing import get_args

from runtime.device.views import Counters, OutcomeName, PushOutcome
from runtime.memory import journal


class Tally:
    """Counters that only rise; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers = 0
        self._refused = 0
        self._outcomes: dict[OutcomeName, int] = dict.fromkeys(get_args(OutcomeName), 0)
        self._pushes: dict[PushOutcome, int] = dict.fromkeys(get_args(PushOutcome), 0)

    def answer(self) -> None:
        """A call was answered."""
        with self._lock:
            self._answers += 1

    def refuse(self) -> None:
        """A call found the queue full."""
        with self._lock:
            self._refused += 1

    def end(self, outcome: OutcomeName) -> None:
        """A switch ended."""
        with self._lock:
            self._outcomes[outcome] += 1

    def pushed(self, outcome: PushOutcome) -> None:
        """A push ended."""
        with self._lock:
            self._pushes[outcome] += 1

    def counters(self, writes: journal.Counters) -> Counters:
        """All of them.

        Args:
            writes: What the network counts: walks and what they write.
        """
        with self._lock:
            return Counters(
                answers=self._answers,
                refused=self._refused,
                transitions=writes.transitions,
                increments=writes.increments,
                bytes_written=writes.bytes_written,
                row_writes=dict(writes.row_writes),
                outcomes=dict(self._outcomes),
                pushes=dict(self._pushes),
                retries=writes.retries,
            )
