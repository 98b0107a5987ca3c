"""A switch under way, as its caller sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from runtime.walking.table import Event


class Outcome(Enum):
    """How a switch ended."""

    COMMITTED = "committed"
    """The mode asked for is reached and its canary was right."""
    CANCELLED = "cancelled"
    """Somebody cancelled; the network walked back and is at the mode it left."""
    ROLLED_BACK = "rolled-back"
    """Canary or a write failed; the network is at the mode it left."""
    RETARGETED = "retargeted"
    """Another mode was asked for on the way; the next operation goes on from where this one stood."""
    FAILED = "failed"
    """The network was closed on the way, or the mode it left could not be restored; it answers no more."""


@dataclass(frozen=True)
class Result:
    """The one final word on a switch.

    Attributes:
        outcome: How it ended.
        mode: Mode the network is in now; retargeted or failed, the one it left, though weights may stand on the way.
        reason: Why it ended so, in words; empty when it committed, or was cancelled without further trouble.
        seconds: Duration.
        bytes_written: Bytes of the path's increments, there and back, every row rounded up to the device's smallest
            write; retries, a second copy (policy shadow) and what is built anew from the bundle are not counted.
        longest_stall_ms: Longest time that an increment kept callers out; 0 where it never does (policy shadow).
        retries: Rows that read back wrong and were written again, one for each time; 0 where writes are not checked.
        bytes_retried: Bytes of these.
        pauses: Declared pauses that increments were written in; 0 on a device that needs none.
    """

    outcome: Outcome
    mode: str
    reason: str
    seconds: float
    bytes_written: int
    longest_stall_ms: float
    retries: int = 0
    bytes_retried: int = 0
    pauses: int = 0


class Operation:
    """Handle of a switch; returned at once, while the walk goes on.

    Args:
        begin: Mode it leaves.
        target: Mode it should reach.
        signal: Tells the controller what the caller wants.
        turn: Asks the controller for another mode; gives the operation that leads there.
    """

    def __init__(
        self,
        begin: str,
        target: str,
        signal: Callable[[Operation, Event], None],
        turn: Callable[[Operation, str], Operation],
    ) -> None:
        self.begin = begin
        self.target = target
        self._signal = signal
        self._turn = turn
        self._done = threading.Event()
        self._result: Result | None = None
        self._progress = 0.0

    @property
    def progress(self) -> float:
        """Share of the path that is behind, 0 to 1; falls again while walking back."""
        return self._progress

    @property
    def result(self) -> Result | None:
        """The final word, or None while it is under way."""
        return self._result

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the end.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.

        Raises:
            TimeoutError: It is still under way; it goes on.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"switch {self.begin} → {self.target}: still under way after {timeout} s")
        assert self._result is not None
        return self._result

    def cancel(self) -> None:
        """Walk back to the mode that was left.

        Raises:
            IllegalEvent: It is over, verifying, or on its way back already.
        """
        self._signal(self, Event.CANCEL)

    def pause(self) -> None:
        """Stand still on the present state; inference goes on.

        Raises:
            IllegalEvent: It is not walking.
        """
        self._signal(self, Event.PAUSE)

    def resume(self) -> None:
        """Walk on after a pause.

        Raises:
            IllegalEvent: It is not paused.
        """
        self._signal(self, Event.RESUME)

    def retarget(self, mode: str) -> Operation:
        """Turn to another mode from where the walk stands, on or back along its path, without a jump.

        This operation ends as ``retargeted`` once the walk has turned; a paused one walks on.

        Returns:
            The operation that goes on.

        Raises:
            UnknownMode: No path leads there; nothing was changed.
            IllegalEvent: It is over, verifying, or on its way back because something failed.
        """
        return self._turn(self, mode)

    def advance(self, progress: float) -> None:
        """Record how far the walk has come (for the controller)."""
        self._progress = progress

    def finish(self, result: Result) -> None:
        """Record the final word, once (for the controller)."""
        assert self._result is None, "an operation ends once"
        self._result = result
        self._done.set()
