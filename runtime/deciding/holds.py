"""Holds: wishes of programs, kept until they are released, end by themselves, or a switch by hand cancels them.

As in power-profiles-daemon, the hold of lowest power wins and a change by hand drops them all. There the daemon sees a
program end; here a program may be on another machine, so a hold can have a time limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.deciding.arbiter import Wish
from runtime.errors import Conflict, UnknownHold

LIMIT = 100
"""Holds at once: a program that forgets to release must not fill the memory."""


@dataclass(frozen=True)
class Hold:
    """One hold.

    Attributes:
        id: Its name, for the release.
        mode: Mode asked for.
        who: Who placed it.
        reason: Why.
        created_s: When, on the device's clock.
        until_s: When it ends by itself; None for no end.
    """

    id: str
    mode: str
    who: str
    reason: str
    created_s: float
    until_s: float | None

    @property
    def wish(self) -> Wish:
        """What it asks for."""
        return Wish(self.mode, self.id, f"{self.who}: {self.reason}" if self.reason else self.who, self.until_s)


Holds = tuple[Hold, ...]


def place(holds: Holds, hold: Hold) -> Holds:
    """The holds with one more.

    Raises:
        Conflict: There are too many.
    """
    if len(holds) >= LIMIT:
        raise Conflict(f"hold {hold.mode}: found {len(holds)} holds, expected fewer than {LIMIT}; release some first")
    return (*holds, hold)


def release(holds: Holds, hold_id: str) -> Holds:
    """The holds without one.

    Raises:
        UnknownHold: There is none with this id.
    """
    rest = tuple(hold for hold in holds if hold.id != hold_id)
    if len(rest) == len(holds):
        known = ", ".join(hold.id for hold in holds) or "none"
        raise UnknownHold(f"release {hold_id!r}: found no such hold, expected one of {known}; it may have ended")
    return rest


def expire(holds: Holds, now_s: float) -> tuple[Holds, Holds]:
    """The holds that last on, and those that have ended."""
    over = tuple(hold for hold in holds if not hold.wish.stands(now_s))
    return tuple(hold for hold in holds if hold not in over), over
