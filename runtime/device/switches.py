"""Begins, turns and ends the switches of a network, for whoever decides; knows nothing of who that is, or why.

One lock guards all of it. Nothing slow happens under it: commands of the operating system run on a thread of their own,
which takes one switch after the other from here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from runtime.deciding.arbiter import Decision, Wish, higher
from runtime.device.event_log import EventLog
from runtime.device.network import Network
from runtime.device.operations import Entry, Operations
from runtime.device.tally import Tally
from runtime.device.views import OutcomeName
from runtime.errors import Conflict, IllegalEvent
from runtime.walking.operation import Operation, Result
from runtime.walking.table import Phase


class Switches:
    """The switches of one network. Whoever calls holds ``changed``, but for the walker's methods.

    Args:
        net: The network.
        events: Where to tell what happens.
        tally: Where to count what ends.
        clock: Seconds since the device was opened.
        prepares: Whether commands of the operating system run before a walk to a mode.
        hidden: Takes out of the reason of an end what is nobody else's business.

    Attributes:
        changed: The lock; notified after every change.
        operations: The switches by id.
        current: The one under way.
        closed: Whether nothing begins any more.
    """

    def __init__(
        self,
        net: Network,
        events: EventLog,
        tally: Tally,
        clock: Callable[[], float],
        prepares: Callable[[str], bool],
        hidden: Callable[[str], str] = str,
    ) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.operations = Operations()
        self.current: Entry | None = None
        self.closed = False
        self._net = net
        self._events = events
        self._tally = tally
        self._clock = clock
        self._prepares = prepares
        self._hidden = hidden
        self._queue: deque[Entry] = deque()
        self._moved = False

    def begin(self, decision: Decision, wish: Wish | None = None, previous: Wish | None = None) -> Entry:
        """Begin a switch; one to the present mode is over at once.

        Args:
            decision: Why, and where to.
            wish: What was asked for by hand, if it was.
            previous: What was asked for by hand before.

        Raises:
            UnknownMode: No path leads there.
            Closed: The network was closed, or failed.
            NoThread: The system has no thread to spare.
        """
        entry = self._entry(decision, wish, previous)
        if self._net.mode == entry.target:
            entry.operation = self._net.switch(entry.target)
            self.operations.add(entry)
            self.end(entry, "committed", "", entry.operation.result)
            return entry
        if not self._prepares(entry.target):
            entry.operation = self._net.switch(entry.target)
        return self._enter(entry)

    def turn(self, decision: Decision, wish: Wish | None = None, previous: Wish | None = None) -> Entry:
        """Turn the switch under way; the old one ends as retargeted, and the new one goes on from where it stands.

        Raises:
            UnknownMode: No path leads there; nothing was changed.
            IllegalEvent: It cannot be turned any more.
        """
        old = self.current
        assert old is not None, "only a switch under way is turned"
        entry = self._entry(decision, wish, previous)
        if old.operation is not None:
            entry.operation = old.operation.retarget(entry.target)
        elif not self._prepares(entry.target):
            entry.operation = self._net.switch(entry.target)
        old.stopped = "retargeted"
        return self._enter(entry)

    def back(self, decision: Decision) -> None:
        """Put another rank behind the switch under way; a pause ends with the rank that it was under."""
        entry = self.current
        assert entry is not None, "only a switch under way is backed"
        if higher(entry.rank, decision.rank):
            # What was asked for by hand has ended, and counts no more however the walk ends.
            entry.wish = entry.previous = None
        entry.rank, entry.who, entry.decision = decision.rank, decision.source, decision
        if entry.operation is not None and self._net.phase is Phase.PAUSED:
            # It may be on its way back since, because of a fault.
            with suppress(IllegalEvent):
                entry.operation.resume()
        self.tell(entry)

    def adopt(self, operation: Operation, decision: Decision) -> None:
        """Take over a walk that the network is on already."""
        entry = self._entry(decision, None, None)
        entry.operation = operation
        self._enter(entry)

    def yielding(self, operation_id: str, what: str) -> Entry:
        """The switch under way, if it is this one and a user may change it.

        Raises:
            UnknownOperation: There is no such operation.
            IllegalEvent: It is over.
            Conflict: Safety began it.
        """
        entry = self.operations.get(operation_id)
        if entry is not self.current or entry.final is not None:
            raise IllegalEvent(f"{what}: the switch {entry.begin} → {entry.target} is over; nothing was changed")
        if higher(entry.rank, "manual"):
            raise Conflict(
                f"{what}: found {entry.begin} → {entry.target} under way for the safety rule {entry.who}, expected one "
                "that a user may change; wait until it is over"
            )
        return entry

    def end(self, entry: Entry, outcome: OutcomeName, reason: str, result: Result | None) -> None:
        """Say the final word on a switch."""
        view = entry.end(outcome, self._hidden(reason), result, self._net.phase, self._clock())
        self._tally.end(outcome)
        if entry is self.current:
            self.current = None
        self._events.add("operation", msgspec.to_builtins(view))

    def tell(self, entry: Entry) -> None:
        """Tell phase and progress of a switch, if there is news."""
        with self.changed:
            if entry.final is None and entry.news(self._net.phase):
                self._events.add("operation", msgspec.to_builtins(entry.view(self._net.phase, self._clock())))
                self.changed.notify_all()

    def rested(self) -> str | None:
        """Mode that the network stood at ever since this was last asked; None if it walked."""
        moved, self._moved = self._moved or self.current is not None, self.current is not None
        return None if moved else self._net.mode

    def take_over(self, net: Network) -> None:
        """Another network is at work from now on; none is under way."""
        assert self.current is None, "a network is replaced at rest"
        self._net, self._moved = net, True
        for entry in self.operations.all():
            # An operation knows its network, and would keep the weights of one that is gone.
            entry.operation = None

    # What the walker does

    def next(self) -> Entry | None:
        """Wait for a switch to carry out; None once the device is closed and nothing is left to do."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or bool(self._queue))
            return self._queue.popleft() if self._queue else None

    def start(self, entry: Entry, trouble: str) -> Operation | None:
        """Begin the walk of a switch that is prepared; None if it was stopped in the meantime.

        Args:
            entry: The switch.
            trouble: Why it cannot be prepared, or nothing. A walk that a turn has begun already is sent back then.

        Raises:
            GeoshiftError: It cannot begin.
        """
        with self.changed:
            if entry.operation is None and not entry.stopped and not trouble:
                entry.operation = self._net.switch(entry.target)
                self.tell(entry)
            elif entry.operation is not None and trouble:
                # It may be over, or on its way back.
                with suppress(IllegalEvent):
                    entry.operation.cancel()
            return entry.operation

    def _entry(self, decision: Decision, wish: Wish | None, previous: Wish | None) -> Entry:
        return Entry(
            id=self.operations.new_id(),
            begin=self._net.mode,
            target=decision.mode,
            who=decision.source,
            rank=decision.rank,
            decision=decision,
            wish=wish,
            previous=previous,
            created_s=self._clock(),
        )

    def _enter(self, entry: Entry) -> Entry:
        self.operations.add(entry)
        self.current, self._moved = entry, True
        self._queue.append(entry)
        self.tell(entry)
        self.changed.notify_all()
        return entry
