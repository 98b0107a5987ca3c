"""The switches of a device, under way and over: what its callers ask about by id."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

from runtime.deciding.arbiter import Decision, Walk, Wish
from runtime.device.views import OperationView, OutcomeName, PhaseName, Rank
from runtime.errors import UnknownOperation
from runtime.walking.operation import Operation, Result
from runtime.walking.table import Phase

KEPT: Final = 100
"""Operations that can be asked about; an older one is forgotten."""
_PARTS: Final = 20
"""Parts of a walk after each of which its progress is told: a page that follows needs no more."""


@dataclass
class Entry:
    """One switch of a device. Its device alone changes it, with the device's lock held.

    Attributes:
        id: Its name.
        begin: Mode it leaves.
        target: Mode it should reach.
        who: Who asked for it.
        rank: Rank that backs it.
        decision: Decision that began it.
        wish: What was asked for by hand, if it was.
        previous: What was asked for by hand before; it counts again if this one does not reach its mode.
        created_s: When it was asked for.
        operation: The walk; None while commands of the operating system run before it.
        stopped: Whether it was cancelled, or turned to another mode.
        final: How it ended; None while it is under way.
        told: Phase and part of the walk that its last event was about.
    """

    id: str
    begin: str
    target: str
    who: str
    rank: Rank
    decision: Decision
    wish: Wish | None
    previous: Wish | None
    created_s: float
    operation: Operation | None = None
    stopped: Literal["", "cancelled", "retargeted"] = ""
    final: OperationView | None = None
    told: tuple[PhaseName, int] | None = None

    def walk(self, phase: Phase) -> Walk:
        """The switch as the arbiter sees it."""
        preparing = self.operation is None and not self.stopped
        cancelled = self.stopped == "cancelled" and phase is Phase.ROLLING_BACK
        paused = phase is Phase.PAUSED and self.operation is not None
        return Walk(self.target, self.rank, preparing or cancelled or phase in (Phase.WALKING, Phase.PAUSED), paused)

    def view(self, phase: Phase, now_s: float) -> OperationView:
        """The switch as its callers see it.

        Args:
            phase: What the network does.
            now_s: The time, on the device's clock.
        """
        if self.final is not None:
            return self.final
        return OperationView(
            id=self.id,
            from_=self.begin,
            to=self.target,
            who=self.who,
            rank=self.rank,
            # Commands of the operating system run before the walk and after it, while the network stands still.
            phase="walking" if self.operation is None else phase.value,
            progress=0.0 if self.operation is None else self.operation.progress,
            outcome=None,
            reason="",
            seconds=now_s - self.created_s,
            bytes_written=None,
            longest_stall_ms=None,
            created_s=self.created_s,
        )

    def news(self, phase: Phase) -> bool:
        """Whether phase or progress are worth an event since the last one; notes them if so."""
        progress = 0.0 if self.operation is None else self.operation.progress
        state: tuple[PhaseName, int] = (phase.value, int(progress * _PARTS))
        if state == self.told:
            return False
        self.told = state
        return True

    def end(
        self, outcome: OutcomeName, reason: str, result: Result | None, phase: Phase, now_s: float
    ) -> OperationView:
        """Say the final word.

        Args:
            outcome: How it ended.
            reason: Why.
            result: The walk's own word; None if it never began.
            phase: What the network does now.
            now_s: The time.
        """
        assert self.final is None, "an operation ends once"
        progress = 0.0 if self.operation is None else self.operation.progress
        self.final = OperationView(
            id=self.id,
            from_=self.begin,
            to=self.target,
            who=self.who,
            rank=self.rank,
            phase="failed" if phase is Phase.FAILED else "idle",
            progress=progress,
            outcome=outcome,
            reason=reason,
            seconds=now_s - self.created_s,
            bytes_written=0 if result is None else result.bytes_written,
            longest_stall_ms=0.0 if result is None else result.longest_stall_ms,
            created_s=self.created_s,
            retries=0 if result is None else result.retries,
            pauses=0 if result is None else result.pauses,
        )
        return self.final


class Operations:
    """The last operations of a device, by id."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._session = secrets.token_hex(3)
        self._count = 0

    def new_id(self) -> str:
        """An id that was not there before, nor before a restart."""
        self._count += 1
        return f"{self._session}-{self._count}"

    def add(self, entry: Entry) -> None:
        """Keep an operation, and forget the oldest if there are too many."""
        self._entries[entry.id] = entry
        while len(self._entries) > KEPT:
            self._entries.popitem(last=False)

    def get(self, operation_id: str) -> Entry:
        """An operation by id.

        Raises:
            UnknownOperation: There is none.
        """
        try:
            return self._entries[operation_id]
        except KeyError:
            raise UnknownOperation(
                f"operation {operation_id[:64]!r}: found none of this id, expected one of the last {KEPT} since the "
                "device was opened; list them"
            ) from None

    def all(self) -> tuple[Entry, ...]:
        """All that are kept, the oldest first."""
        return tuple(self._entries.values())
