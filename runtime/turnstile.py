"""A bounded queue of callers that take turns, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import QueueFull


class Turnstile:
    """First-in, first-out mutual exclusion with a bounded line.

    A plain lock is neither fair nor bounded: four busy callers can keep a walk from ever getting its turn. Work is
    done on the caller's own thread, so an answer costs no hand-over between threads while nobody else waits.

    Args:
        limit: Callers that may wait; the next one is turned away.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._guard = threading.Lock()
        self._line: deque[threading.Lock] = deque()
        self._busy = False

    @contextmanager
    def turn(self, *, bounded: bool = True) -> Iterator[None]:
        """Wait for one's turn and hold it while the context is open.

        Args:
            bounded: Whether a full line turns this caller away; a walk's increments are let in always.

        Raises:
            QueueFull: The line is full.
        """
        ticket: threading.Lock | None = None
        with self._guard:
            if self._busy:
                if bounded and len(self._line) >= self._limit:
                    raise QueueFull(
                        f"infer: {len(self._line)} callers wait already, expected fewer than {self._limit}; "
                        "call again later, or raise queue_limit in the device profile"
                    )
                ticket = threading.Lock()
                ticket.acquire()
                self._line.append(ticket)
            else:
                self._busy = True
        if ticket is not None:
            # Released by the caller that leaves; the turn is handed over, so nobody can slip in between.
            self._wait(ticket)
        try:
            yield
        finally:
            self._leave()

    def _wait(self, ticket: threading.Lock) -> None:
        try:
            ticket.acquire()
        except BaseException:
            # Interrupted in the line (Ctrl-C): give the place up, or pass the turn on if it was just handed over.
            with self._guard:
                waiting = ticket in self._line
                if waiting:
                    self._line.remove(ticket)
            if not waiting:
                self._leave()
            raise

    def _leave(self) -> None:
        with self._guard:
            if self._line:
                self._line.popleft().release()
            else:
                self._busy = False
