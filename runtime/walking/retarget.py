"""Ways over the mode graph, and how to turn from the middle of one to another without a jump.

A way is a row of legs, joined to one chunk list, of which the first leg may be entered in its middle. From any place on
it there are two ways to go: on to the end of the present leg, or back to its beginning. Both only write rows that the
plan has measured, in the order in which it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.walking.chunks import ChunkList
from runtime.walking.route import Leg
from runtime.walking.rows import RowTable

Router = Callable[[str, str], tuple[Leg, ...]]
"""Legs between two modes."""


@dataclass(frozen=True, eq=False)
class Way:
    """What is to be walked.

    Attributes:
        at: Mode at which the first leg begins; without legs, the mode that is reached already.
        legs: Transitions, one after the other.
        start: Chunks of the first leg that were behind when this way was taken.
        chunks: The chunks of all legs, joined; what is walked begins at ``start``.
    """

    at: str
    legs: tuple[Leg, ...]
    start: int
    chunks: ChunkList

    @classmethod
    def along(cls, at: str, legs: tuple[Leg, ...], table: RowTable, start: int = 0) -> Way:
        """The way over some legs."""
        chunks = ChunkList.join([leg.chunks for leg in legs]) if legs else ChunkList.build(table.names, {}, [])
        return cls(at, legs, start, chunks)

    def share(self, position: int) -> float:
        """How much of the way is behind at a position, 0 to 1."""
        length = len(self.chunks) - self.start
        return (position - self.start) / length if length else 1.0

    def place(self, position: int) -> tuple[Leg, int]:
        """Leg on which a position is, and the chunks of it that are behind; at a mode, the end of the leg before."""
        for leg in self.legs:
            if position <= len(leg.chunks):
                return leg, position
            position -= len(leg.chunks)
        raise AssertionError("a position beyond the end of a way")


def turn(way: Way, position: int, target: str, route: Router, table: RowTable) -> Way:
    """The way from a place on another way to a mode: over the fewest legs, then bytes; if equal, back rather than on.

    Args:
        way: Where the network walks now.
        position: Chunks of ``way`` that are written.
        target: Where to go.
        route: Routes between modes; asked only where there is a choice.
        table: Row versions.

    Raises:
        UnknownMode: No path leads there.
    """

    def onward(mode: str) -> tuple[Leg, ...]:
        return () if mode == target else route(mode, target)

    if not way.legs:
        return Way.along(way.at, onward(way.at), table)
    leg, behind = way.place(position)
    back = Leg(leg.end, leg.begin, leg.chunks.reversed())
    ways = []
    for one, done in ((back, len(leg.chunks) - behind), (leg, behind)):
        rest = onward(one.end)
        if done == len(one.chunks):
            found = Way.along(one.end, rest, table)
        else:
            found = Way.along(one.begin, (one, *rest), table, done)
        if one.end == target:
            # One leg at most, and the other side cannot do with fewer.
            return found
        ways.append(found)
    return min(ways, key=lambda one: (len(one.legs), int(one.chunks.chunk_bytes(table)[one.start :].sum())))
