"""What the walking thread knows of a switch under way."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runtime.walking.engine import LiveRunner
from runtime.walking.operation import Operation, Outcome, Result
from runtime.walking.pacer import Pacer
from runtime.walking.retarget import Way


@dataclass
class Walk:
    """Mutable account of a walk, touched by its own thread alone; ``reason`` under the helm's lock.

    When it is turned to another mode, its operation changes and the walk goes on.
    """

    operation: Operation
    way: Way
    position: int
    """Chunks of ``way`` that are written."""
    pacer: Pacer
    """One for all its ways: a turn neither frees the memory sooner nor forgets that callers waited too long."""
    live: LiveRunner | None = None
    """What is written to; None before the first write of a walk that begins at a mode."""
    written: int = 0
    retries: int = 0
    """Rows that were written again."""
    retried: int = 0
    """Bytes of these."""
    pauses: int = 0
    begun: float = field(default_factory=time.monotonic)
    reason: str = ""
    behind: float = 0.0
    """Progress of the operation when it turned back."""

    def note(self, *trouble: str) -> None:
        """Add to why it ended so."""
        self.reason = "; then ".join([part for part in (self.reason, *trouble) if part])

    def take(self, way: Way) -> None:
        """Go another way from here on; it must begin at the state that is reached."""
        self.way, self.position = way, way.start

    def turn_back(self, way: Way) -> None:
        """Go back; progress falls from here on."""
        self.behind = self.operation.progress
        self.take(way)

    def advance(self, position: int, size: int, *, back: bool) -> None:
        """So far it is written, with so many bytes more."""
        self.position = position
        self.written += size
        done = self.way.share(position)
        self.operation.advance(self.behind * (1.0 - done) if back else done)

    def wrote_again(self, rows: int, size: int) -> None:
        """So many rows, of so many bytes, took another write."""
        self.retries += rows
        self.retried += size

    def result(self, outcome: Outcome, mode: str, longest_stall_s: float) -> Result:
        """The final word on the present operation."""
        return Result(
            outcome=outcome,
            mode=mode,
            reason=self.reason,
            seconds=time.monotonic() - self.begun,
            bytes_written=self.written,
            longest_stall_ms=longest_stall_s * 1e3,
            retries=self.retries,
            bytes_retried=self.retried,
            pauses=self.pauses,
        )

    def succeed(self, operation: Operation, mode: str, longest_stall_s: float) -> None:
        """End the present operation as retargeted and go on as another one's walk."""
        before, word = self.operation, self.result(Outcome.RETARGETED, mode, longest_stall_s)
        self.operation, self.written, self.begun, self.behind = operation, 0, time.monotonic(), 0.0
        self.retries = self.retried = self.pauses = 0
        before.finish(word)
