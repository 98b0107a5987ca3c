"""Keeps what is asked of a device, by hand, by holds, by triggers, and tells of each change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import msgspec

from runtime.deciding.arbiter import Decision, Situation, Wish, decide, next_end_s
from runtime.deciding.holds import Hold, Holds, expire, place, release
from runtime.deciding.remembered import Remembered
from runtime.deciding.watch import Edge, Watch, trigger_view
from runtime.device.event_log import EventLog
from runtime.device.viewing import hold_view

HoldState = Literal["placed", "released", "expired", "cancelled"]
ManualState = Literal["asked", "given-back", "ended"]


class Asked:
    """All that is asked for at this moment. Whoever uses it holds a lock.

    Args:
        order: The modes, that of lowest power first.
        default: Mode wanted while nobody asks for another.
        watch: Triggers and rules of safety.
        events: Where to tell what changes.
        clock: Seconds since the device was opened.
        remembered: What was asked for by hand before a restart, and where to keep it.

    Attributes:
        holds: The holds.
    """

    def __init__(
        self,
        order: tuple[str, ...],
        default: str,
        watch: Watch,
        events: EventLog,
        clock: Callable[[], float],
        remembered: Remembered,
    ) -> None:
        self._order = order
        self._default = Wish(default, "profile", "the default mode")
        self._watch = watch
        self._events = events
        self._clock = clock
        self._remembered = remembered
        self._manual = remembered.wish
        self.holds: Holds = ()

    @property
    def manual(self) -> Wish | None:
        """What was asked for by hand."""
        return self._manual

    def decide(self, by_hand: Wish | None = None) -> Decision:
        """Who decides now; with ``by_hand``, who would if somebody asked for that and the holds were cancelled."""
        situation = self._situation()
        if by_hand is not None:
            situation = replace(situation, manual=by_hand, holds=())
        return decide(situation, self._clock())

    def next_end_s(self) -> float | None:
        """When the next wish ends by itself, or ended and was not let go of yet; None if none does."""
        return next_end_s(self._situation(), -math.inf)

    def ask(self, wish: Wish) -> None:
        """Something is asked for by hand; that cancels the holds, as in power-profiles-daemon."""
        self.put_back(wish)
        self._tell_manual(wish.mode, wish.source, "asked")
        cancelled, self.holds = self.holds, ()
        for hold in cancelled:
            self._tell_hold(hold, "cancelled")

    def give_back(self, who: str) -> None:
        """What was asked for by hand counts no more."""
        if self._manual is not None:
            self._tell_manual(self._manual.mode, who, "given-back")
            self.put_back(None)

    def put_back(self, wish: Wish | None) -> None:
        """Let this be what was asked for by hand."""
        self._manual = wish
        self._remembered.keep(wish)

    def place(self, hold: Hold) -> None:
        """A hold is placed.

        Raises:
            Conflict: There are too many.
        """
        self.holds = place(self.holds, hold)
        self._tell_hold(hold, "placed")

    def release(self, hold_id: str) -> None:
        """A hold is released.

        Raises:
            UnknownHold: There is none with this id.
        """
        before, self.holds = self.holds, release(self.holds, hold_id)
        for hold in before:
            if hold not in self.holds:
                self._tell_hold(hold, "released")

    def end(self) -> None:
        """Let go of what has ended by itself."""
        now_s = self._clock()
        self.holds, over = expire(self.holds, now_s)
        for hold in over:
            self._tell_hold(hold, "expired")
        if self._manual is not None and not self._manual.stands(now_s):
            self._tell_manual(self._manual.mode, self._manual.source, "ended")
            self.put_back(None)

    def turn_to(self, order: tuple[str, ...], default: str) -> None:
        """Another plan is at work: what is asked for and is no mode of it counts no more.

        Args:
            order: Its modes, that of lowest power first.
            default: Mode wanted while nobody asks for another.
        """
        self._order, self._default = order, replace(self._default, mode=default)
        gone, self.holds = (
            tuple(hold for hold in self.holds if (hold.mode in order) is kept) for kept in (False, True)
        )
        for hold in gone:
            self._tell_hold(hold, "cancelled")
        if self._manual is not None and self._manual.mode not in order:
            self._tell_manual(self._manual.mode, self._manual.source, "ended")
            self.put_back(None)

    def tell(self, edges: tuple[Edge, ...]) -> None:
        """Tell what changed of triggers and rules of safety."""
        for edge in edges:
            if edge.lost:
                self._events.add("fault", {"detail": edge.state.error})
            else:
                data = msgspec.to_builtins(trigger_view(edge.rule, edge.state, safety=edge.safety))
                self._events.add("safety" if edge.safety else "trigger", data)

    def _situation(self) -> Situation:
        return Situation(
            order=self._order,
            default=self._default,
            safety=self._watch.wishes(safety=True),
            manual=self._manual,
            holds=tuple(hold.wish for hold in self.holds),
            triggers=self._watch.wishes(safety=False),
        )

    def _tell_manual(self, mode: str, who: str, state: ManualState) -> None:
        self._events.add("manual", {"mode": mode, "who": who, "state": state})

    def _tell_hold(self, hold: Hold, state: HoldState) -> None:
        self._events.add("hold", {**msgspec.to_builtins(hold_view(hold, self._clock())), "state": state})
