"""A bounded queue of callers that take turns, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

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
        self._holder: Turn | None = None
        self._line: deque[Turn] = deque()

    def turn(self, *, bounded: bool = True) -> Turn:
        """A context that waits for one's turn and holds it while it is open; entering it raises QueueFull.

        Args:
            bounded: Whether a full line turns this caller away; a walk's increments are let in always.
        """
        return Turn(self, bounded)

    def enter(self, turn: Turn, *, bounded: bool) -> None:
        """Wait until the turn has come (for ``Turn``).

        Raises:
            QueueFull: The line is full.
        """
        with self._guard:
            if self._holder is None:
                self._holder = turn
                return
            if bounded and len(self._line) >= self._limit:
                raise QueueFull(
                    f"infer: {len(self._line)} callers wait already, expected fewer than {self._limit}; "
                    "call again later, or raise queue_limit in the device profile"
                )
            self._line.append(turn)
        # Released by the caller that leaves; the turn is handed over, so nobody can slip in between.
        turn.come.acquire()

    def leave(self, turn: Turn) -> None:
        """Pass the turn on, or give up the place in the line, whichever it was (for ``Turn``)."""
        with self._guard:
            if self._holder is turn:
                self._holder = self._line.popleft() if self._line else None
                if self._holder is not None:
                    self._holder.come.release()
            elif turn in self._line:
                self._line.remove(turn)


class Turn:
    """One caller's turn at a turnstile, as a context.

    A class and not a generator: Ctrl-C may come at any instruction of the main thread, and a turn that is taken and
    never left would keep out everybody, the closing of the network included.

    Args:
        turnstile: Where to wait.
        bounded: Whether a full line turns this caller away.
    """

    def __init__(self, turnstile: Turnstile, bounded: bool) -> None:
        self._turnstile = turnstile
        self._bounded = bounded
        self.come = threading.Lock()
        """Held until the turn has come."""
        self.come.acquire()

    def __enter__(self) -> None:
        try:
            self._turnstile.enter(self, bounded=self._bounded)
        except BaseException:
            self._turnstile.leave(self)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turnstile.leave(self)
