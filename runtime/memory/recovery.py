"""Where a network begins after a restart: on the state that the journal speaks of, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.errors import StateError, UnknownMode
from runtime.memory.journal import Standing, WalkEntry
from runtime.walking.retarget import Router, Way, turn
from runtime.walking.route import Leg
from runtime.walking.rows import RowTable, State

Resume = Literal["back", "forward"]


@dataclass(frozen=True)
class Place:
    """Where a network stands, and how it came there.

    Attributes:
        mode: Mode reached last.
        state: Its state, or that of the place on the way.
        walk: What the journal says of the walk; None at rest.
        way: The way that was walked; None at rest.
        position: Chunks of it that are written once an announced increment is repaired.
    """

    mode: str
    state: State
    walk: WalkEntry | None = None
    way: Way | None = None
    position: int = 0


def find(standing: Standing, table: RowTable, states: Mapping[str, State], route: Router, origin: str) -> Place:
    """The place that a record speaks of.

    Args:
        standing: The record.
        table: Row versions of the bundle.
        states: Mode name to its state.
        route: Routes between modes.
        origin: What to call the journal in errors.

    Raises:
        StateError: It speaks of modes, legs or chunks that the bundle does not have.
    """
    walk = standing.walk
    named = [standing.mode, *([walk.at, walk.target] if walk else [])]
    for mode in named:
        if mode not in states:
            raise _foreign(origin, f"mode {mode!r}", f"one of {', '.join(states)}")
    if walk is None:
        return Place(standing.mode, states[standing.mode])
    legs: list[Leg] = []
    here = walk.at
    for begin, end in walk.legs:
        found = _direct(route, begin, end)
        if begin != here or found is None:
            raise _foreign(origin, f"a leg {begin} → {end}", f"a transition of the bundle from {here}")
        legs.append(found)
        here = end
    if here != walk.target:
        raise _foreign(origin, f"a way to {here}", f"one to {walk.target}")
    way = Way.along(walk.at, tuple(legs), table, walk.start)
    if not walk.start <= walk.position <= walk.intended <= len(way.chunks):
        raise _foreign(
            origin,
            f"chunks {walk.start}, {walk.position}, {walk.intended}",
            f"them in this order and at most {len(way.chunks)}",
        )
    state = way.chunks.state_at(states[walk.at], walk.intended)
    return Place(standing.mode, state, walk, way, walk.intended)


def onward(place: Place, resume: Resume | None, route: Router, table: RowTable) -> tuple[str, Way] | None:
    """Where to go from a place on the way, and how; None at rest.

    A walk that was on its way back goes on back. Any other goes to the nearer end: fewer bytes to write, and back if
    they are equal, since the mode that was left has proved itself on this device.

    Args:
        place: Where the network stands.
        resume: ``back`` to the mode that was left, ``forward`` to the one that was wanted; None for the nearer.
        route: Routes between modes.
        table: Row versions.
    """
    if place.way is None or place.walk is None:
        return None
    back, forward = (turn(place.way, place.position, mode, route, table) for mode in (place.mode, place.walk.target))
    if resume is None:
        resume = "back" if _bytes(back, table) <= _bytes(forward, table) else "forward"
    return (place.mode, back) if resume == "back" else (place.walk.target, forward)


def _bytes(way: Way, table: RowTable) -> int:
    return int(way.chunks.chunk_bytes(table)[way.start :].sum())


def _direct(route: Router, begin: str, end: str) -> Leg | None:
    """The transition between two modes, or None if there is none."""
    try:
        legs = route(begin, end)
    except UnknownMode:
        return None
    return legs[0] if len(legs) == 1 else None


def _foreign(origin: str, found: str, expected: str) -> StateError:
    return StateError(
        f"{origin}: found {found}, expected {expected}; the journal is not of this bundle or of another version of "
        "geoshift: open it with that one, or remove the state directory to begin in the dense mode"
    )
