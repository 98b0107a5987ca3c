"""Steers a network: takes what is asked for, lets the arbiter decide, and has switches begun and turned accordingly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import msgspec

from device_profiles import GeoshiftError
from runtime.deciding.arbiter import Decision, Step, Wish, higher, step
from runtime.deciding.asked import Asked
from runtime.deciding.holds import Hold, Holds
from runtime.deciding.watch import Edge
from runtime.device.event_log import EventLog
from runtime.device.network import Network
from runtime.device.operations import Entry
from runtime.device.switches import Switches
from runtime.device.viewing import decision_view
from runtime.device.views import OutcomeName
from runtime.errors import Closed, Conflict, IllegalEvent
from runtime.walking.operation import Result
from runtime.walking.table import Phase

RETRY_S: Final = 60.0
"""A walk that nobody asked for by hand and that failed is tried again after this: a canary that is wrong now will
hardly be right in a second, and a safety rule must not give up."""


class Steering:
    """Steers one network.

    Args:
        net: The network.
        asked: What is asked for.
        switches: Its switches, whose lock guards all of it.
        events: Where to tell what happens.
        clock: Seconds since the device was opened.
    """

    def __init__(
        self, net: Network, asked: Asked, switches: Switches, events: EventLog, clock: Callable[[], float]
    ) -> None:
        self._net = net
        self._asked = asked
        self._switches = switches
        self._lock = switches.changed
        self._events = events
        self._clock = clock
        self._reserved = self._frozen = False
        self._blocked: tuple[tuple[str, str, str], float | None] | None = None
        """What was tried in vain, and when to try it again; None for not before the decision changes."""
        self._decision = asked.decide()
        self._tell(self._decision)
        if net.recovery is not None:
            why = Decision(net.recovery.target, "default", "restart", "a walk that a restart cut short")
            with self._lock:
                switches.adopt(net.recovery, why)

    @property
    def decision(self) -> Decision:
        """Who decides now."""
        return self._decision

    def switch(self, wish: Wish) -> Entry:
        """A mode is asked for by hand; holds are cancelled.

        Raises:
            Conflict: Safety forbids it, or a walk of equal rank is under way, or one that cannot be turned any more.
            UnknownMode: No path leads there.
            Closed: The network was closed, or failed.
            NoThread: The system has no thread to spare.
        """
        with self._lock:
            self._check_open()
            self._check_unreserved(wish.mode)
            self._check_allowed(wish)
            entry = self._switches.current
            if entry is not None and not higher("manual", entry.rank):
                raise Conflict(
                    f"switch to {wish.mode}: found {entry.begin} → {entry.target} under way for {entry.who}, "
                    f"rank {entry.rank}, expected none of this rank or a higher one; wait for it, cancel or retarget it"
                )
            try:
                return self._by_hand(wish)
            except IllegalEvent as error:
                raise Conflict(f"switch to {wish.mode}: {error}; call again in a moment") from error

    def retarget(self, operation_id: str, mode: str, who: str | None) -> Entry:
        """A walk under way is turned to another mode by hand.

        Raises:
            UnknownOperation: There is no such operation.
            IllegalEvent: It is over, or cannot be turned any more.
            Conflict: Safety began it, or forbids the mode.
            UnknownMode: No path leads there.
        """
        with self._lock:
            self._check_open()
            self._check_unreserved(mode)
            entry = self._switches.yielding(operation_id, "retarget")
            until_s, now_s = None if entry.wish is None else entry.wish.until_s, self._clock()
            if until_s is not None and until_s <= now_s:
                # It ended on the way: who turns the walk asks anew, for as long as before.
                until_s = now_s + until_s - entry.created_s
            wish = Wish(mode, who or entry.who, "by hand", until_s)
            self._check_allowed(wish)
            return self._by_hand(wish)

    def auto(self, who: str) -> Entry | None:
        """What was asked for by hand is given back; the switch under way then, or None.

        Raises:
            Closed: The network was closed, or failed.
        """
        with self._lock:
            self._check_open()
            self._asked.give_back(who)
            self._blocked = None
            self._reconsider()
            return self._switches.current

    def hold(self, hold: Hold) -> None:
        """A hold is placed.

        Raises:
            Conflict: There are too many.
            Closed: The network was closed, or failed.
        """
        with self._lock:
            self._check_open()
            self._asked.place(hold)
            self._reconsider()

    def release(self, hold_id: str) -> None:
        """A hold is released.

        Raises:
            UnknownHold: There is none with this id.
        """
        with self._lock:
            self._asked.release(hold_id)
            self._reconsider()

    def holds(self) -> Holds:
        """The holds that have not ended."""
        with self._lock:
            now_s = self._clock()
            return tuple(hold for hold in self._asked.holds if hold.wish.stands(now_s))

    def take(self, edges: tuple[Edge, ...]) -> None:
        """Triggers changed, or time went by."""
        with self._lock:
            self._asked.tell(edges)
            self._reconsider()

    def next_s(self) -> float | None:
        """When something ends by itself, so that it is time to look again; None if nothing does."""
        with self._lock:
            ends = (self._asked.next_end_s(), self._blocked[1] if self._blocked else None)
            return min((end for end in ends if end is not None), default=None)

    def cancel(self, operation_id: str) -> Entry:
        """A walk is sent back.

        Raises:
            UnknownOperation: There is no such operation.
            IllegalEvent: It is over, verifying, or on its way back already.
            Conflict: Safety began it, or forbids the mode that it would go back to.
        """
        with self._lock:
            entry = self._switches.yielding(operation_id, "cancel")
            if entry.stopped:
                raise IllegalEvent(f"cancel: {entry.begin} → {entry.target} was {entry.stopped} already")
            if (rule := self._forbidden(self._net.mode)) is not None:
                raise Conflict(
                    f"cancel: found the safety rule {rule.source} active ({rule.reason}), which forbids "
                    f"{self._net.mode}, where it would go back to; expected no such rule: retarget it to {rule.mode} "
                    "or below, or wait"
                )
            if entry.operation is not None:
                entry.operation.cancel()
            entry.stopped = "cancelled"
            self._take_back(entry)
            self._switches.tell(entry)
            return entry

    def signal(self, operation_id: str, event: Literal["pause", "resume"]) -> Entry:
        """A walk is paused or goes on.

        Raises:
            UnknownOperation: There is no such operation.
            IllegalEvent: It is over, or the table does not allow it now.
            Conflict: Safety began it.
        """
        with self._lock:
            entry = self._switches.yielding(operation_id, event)
            operation = entry.operation
            if operation is None:
                raise IllegalEvent(f"{event}: {entry.begin} → {entry.target} has not begun to walk; wait for it")
            if event == "pause":
                operation.pause()
            else:
                operation.resume()
            self._switches.tell(entry)
            # Who waited for the end of this walk waits no longer for one that stands.
            self._reconsider()
            return entry

    def finish(self, entry: Entry, outcome: OutcomeName, reason: str, result: Result | None) -> None:
        """A switch is over; look at what is wanted now.

        Args:
            entry: The switch.
            outcome: How it ended.
            reason: Why.
            result: The walk's own word; None if it never began.
        """
        with self._lock:
            self._switches.end(entry, outcome, reason, result)
            # What is cut short by closing is wanted all the same after a restart.
            if outcome in ("cancelled", "rolled-back", "failed") and not self._switches.closed:
                self._take_back(entry)
                if entry.wish is None:
                    retry_s = self._clock() + RETRY_S if outcome == "rolled-back" else None
                    self._blocked = entry.decision.key, retry_s
            self._reconsider()

    def check_at_rest(self, what: str) -> None:
        """See that no switch is under way.

        Args:
            what: What one is in the way of, for the error.

        Raises:
            Conflict: One is.
            Closed: The network was closed, or failed.
        """
        with self._lock:
            self._check_open()
            if (entry := self._switches.current) is not None:
                raise Conflict(
                    f"{what}: found {entry.begin} → {entry.target} under way for {entry.who}, expected a network at "
                    "rest; wait for its end, then try again"
                )

    def reserve(self) -> None:
        """Another network is about to take this one's place: until ``relinquish``, only safety begins a walk.

        Raises:
            Conflict: A switch is under way.
            Closed: The network was closed, or failed.
        """
        with self._lock:
            self.check_at_rest("push")
            self._reserved = True

    def freeze(self) -> None:
        """Now nobody begins a walk.

        Raises:
            Conflict: Safety began one.
            Closed: The device was closed.
        """
        with self._lock:
            self.check_at_rest("push")
            self._frozen = True

    def take_over(self, net: Network) -> None:
        """Another network is at work from now on; callers hold the lock, and ``relinquish`` follows."""
        self._switches.take_over(net)
        self._net = net

    def relinquish(self) -> None:
        """The push is over: look at what is wanted now."""
        with self._lock:
            self._reserved = self._frozen = False
            self._reconsider()

    def close(self) -> None:
        """Begin nothing any more."""
        with self._lock:
            self._switches.closed = True
            self._lock.notify_all()

    # Inside, with the lock held

    def _check_open(self) -> None:
        if self._switches.closed or self._net.phase is Phase.FAILED:
            raise Closed(f"the device is {'closed' if self._switches.closed else 'failed'}; open it again")

    def _check_unreserved(self, mode: str) -> None:
        if self._reserved:
            raise Conflict(
                f"switch to {mode}: found a push that switches over, expected none; wait for its end, then ask again"
            )

    def _check_allowed(self, wish: Wish) -> None:
        """See that a wish by hand would count."""
        self._net.bundle.mode(wish.mode)
        if (rule := self._forbidden(wish.mode)) is not None:
            raise Conflict(
                f"switch to {wish.mode}: found the safety rule {rule.source} active ({rule.reason}), expected a mode "
                f"of no more power than {rule.mode}; ask for such a one, or wait"
            )

    def _forbidden(self, mode: str) -> Decision | None:
        """What safety would decide in a mode's place, None if the mode is under the ceiling."""
        would = self._asked.decide(Wish(mode, "", ""))
        return would if would.rank == "safety" and would.mode != mode else None

    def _by_hand(self, wish: Wish) -> Entry:
        """Do what was asked for by hand; nothing is changed if that cannot be done."""
        entry = self._switches.current
        decision = Decision(wish.mode, "manual", wish.source, wish.reason, wish.until_s)
        previous = entry.previous if entry is not None and entry.wish is not None else self._asked.manual
        if entry is None:
            entry = self._switches.begin(decision, wish, previous)
        elif entry.target == wish.mode and not entry.stopped:
            entry.rank, entry.who, entry.wish, entry.previous = "manual", wish.source, wish, previous
            entry.decision = decision
        else:
            entry = self._switches.turn(decision, wish, previous)
        self._blocked = None
        self._asked.ask(wish)
        self._note(self._asked.decide())
        self._lock.notify_all()
        return entry

    def _reconsider(self) -> None:
        """See who decides now, and act on it."""
        self._asked.end()
        decision, now_s = self._asked.decide(), self._clock()
        self._note(decision)
        if self._blocked is not None and self._blocked[1] is not None and now_s >= self._blocked[1]:
            self._blocked = None
        if not self._switches.closed and self._net.phase is not Phase.FAILED:
            try:
                self._act(decision)
            except GeoshiftError as error:
                # Nobody waits for this one's answer; it is told, and tried again.
                self._blocked = decision.key, now_s + RETRY_S
                self._events.add("fault", {"detail": str(error)})
        self._lock.notify_all()

    def _act(self, decision: Decision) -> None:
        if self._frozen or (self._reserved and decision.rank != "safety"):
            return  # when the push is over it is looked at again
        entry = self._switches.current
        match step(decision, self._net.mode, None if entry is None else entry.walk(self._net.phase)):
            case Step.BEGIN:
                # A walk that somebody cancelled is not begun again by itself, unless it is needed to be safe.
                cancelled = self._blocked is not None and self._blocked[1] is None
                unsafe = cancelled and self._forbidden(self._net.mode) is not None
                if self._blocked is None or self._blocked[0] != decision.key or unsafe:
                    self._switches.begin(decision)
            case Step.TURN:
                # It may have arrived since: then its end is the time to look again.
                with suppress(IllegalEvent):
                    self._switches.turn(decision)
            case Step.BACK:
                self._switches.back(decision)

    def _take_back(self, entry: Entry) -> None:
        """A switch by hand does not reach its mode: let what was asked for before it count again."""
        if entry.wish is not None and entry.wish is self._asked.manual:
            self._asked.put_back(entry.previous)
            self._note(self._asked.decide())

    def _note(self, decision: Decision) -> None:
        if decision.key != self._decision.key:
            self._blocked = None
            self._tell(decision)
        self._decision = decision

    def _tell(self, decision: Decision) -> None:
        self._events.add("decision", msgspec.to_builtins(decision_view(decision, self._clock())))
