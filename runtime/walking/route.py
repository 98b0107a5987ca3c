"""Which modes to pass on the way from one to another."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import UnknownMode
from runtime.plan.bundle import Transition
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable


@dataclass(frozen=True)
class Leg:
    """One transition of a route, forward or back.

    Attributes:
        begin: Mode it leaves.
        end: Mode it reaches.
        chunks: Writes in walking order.
    """

    begin: str
    end: str
    chunks: ChunkList


def route(transitions: Sequence[Transition], table: RowTable, begin: str, end: str) -> tuple[Leg, ...]:
    """The way from ``begin`` to ``end`` with the fewest legs, and among those the fewest bytes (Dijkstra).

    Fewest legs first: who asks for a mode next to the present one gets the path that was measured between the two,
    not a cheaper detour over modes nobody asked for.

    Raises:
        UnknownMode: No path leads there.
    """
    legs: dict[str, list[tuple[int, Leg]]] = {}
    for transition in transitions:
        start, stop = transition.ends
        cost = transition.chunks.total_bytes(table)
        legs.setdefault(start, []).append((cost, Leg(start, stop, transition.chunks)))
        legs.setdefault(stop, []).append((cost, Leg(stop, start, transition.chunks.reversed())))
    # The counter breaks ties by the order of the plan, so that a route is the same on every machine.
    counter = 0
    heap: list[tuple[int, int, int, str, tuple[Leg, ...]]] = [(0, 0, counter, begin, ())]
    seen: set[str] = set()
    while heap:
        legs_so_far, spent, _, mode, way = heapq.heappop(heap)
        if mode == end:
            return way
        if mode in seen:
            continue
        seen.add(mode)
        for cost, leg in legs.get(mode, []):
            counter += 1
            heapq.heappush(heap, (legs_so_far + 1, spent + cost, counter, leg.end, (*way, leg)))
    raise UnknownMode(f"route: found no path from {begin} to {end}, expected transitions that connect them")
