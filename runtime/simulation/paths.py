"""What a strategy writes on every transition of a plan: a row table, a chunk list a transition, the modes' states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from runtime.errors import UnknownMode
from runtime.plan.bundle import Bundle, Transition
from runtime.simulation.simulator import compile_strategy, ends_of
from runtime.walking.chunks import ChunkList
from runtime.walking.route import Leg, route
from runtime.walking.rows import Floats, RowTable, State

Place = tuple[str, str, int]
"""A state by name: a transition's ends and the chunks written of it; at a mode, the mode twice and 0."""


@dataclass(frozen=True)
class Paths:
    """All that a strategy may walk.

    Attributes:
        table: Rows of all its paths.
        states: Mode to its state, under this strategy.
        transitions: Forward walks with this strategy's chunk lists.
    """

    table: RowTable
    states: Mapping[str, State]
    transitions: tuple[Transition, ...]
    _routes: dict[tuple[str, str], tuple[Leg, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of the modes, in the plan's order."""
        return tuple(self.states)

    @property
    def own_bytes(self) -> int:
        """Memory that its rows take."""
        return sum(rows.nbytes for rows in self.table.pool.values())

    def route(self, begin: str, end: str) -> tuple[Leg, ...]:
        """The way between two modes, as the runtime finds it."""
        if end not in self.states:
            raise UnknownMode(f"mode: found {end!r}, expected one of {', '.join(self.states)}")
        if (begin, end) not in self._routes:
            self._routes[begin, end] = route(self.transitions, self.table, begin, end)
        return self._routes[begin, end]

    def place(self, leg: Leg, behind: int) -> Place:
        """The state after some chunks of a leg, by a name that is the same in either direction."""
        if behind in (0, len(leg.chunks)):
            mode = leg.end if behind else leg.begin
            return mode, mode, 0
        if (leg.begin, leg.end) in self._forward:
            return leg.begin, leg.end, behind
        return leg.end, leg.begin, len(leg.chunks) - behind

    @property
    def _forward(self) -> set[tuple[str, str]]:
        return {move.ends for move in self.transitions}


def paths_of(bundle: Bundle, strategy: str) -> Paths:
    """Compile a strategy for every transition of a plan.

    Args:
        bundle: The plan.
        strategy: A name of ``runtime.simulation.simulator``; ``flip`` and ``reload`` walk nothing and get the stored
            paths.

    Raises:
        BundleError: The plan does not hold what the strategy needs.
    """
    known = "planned" if strategy in ("flip", "reload") else strategy
    states: dict[str, State] = dict(bundle.states)
    grown: dict[str, list[Floats]] = {name: [bundle.table.pool[name]] for name in bundle.table.names}
    moves: dict[frozenset[str], Transition] = {}
    for move in bundle.transitions:
        start, end = ends_of(bundle, move, known)
        states |= dict(zip(move.ends, (start, end), strict=True))
        table, chunks = compile_strategy(bundle, move, known, start, end)
        chunks = _moved(bundle.table, table, chunks, grown)
        pair = frozenset(move.ends)
        # Of two paths between the same modes the runtime takes the shorter one, too.
        if pair not in moves or chunks.total_bytes(table) < moves[pair].chunks.total_bytes(table):
            moves[pair] = replace(move, chunks=chunks)
    extra = {name: np.concatenate(parts[1:]) for name, parts in grown.items() if len(parts) > 1}
    table = bundle.table.extended(extra) if extra else bundle.table
    return Paths(table, states, tuple(moves.values()))


def _moved(base: RowTable, table: RowTable, chunks: ChunkList, grown: dict[str, list[Floats]]) -> ChunkList:
    """A chunk list whose own rows go behind those that other transitions brought; ``grown`` takes them up."""
    if table is base:
        return chunks
    old, new = chunks.old.copy(), chunks.new.copy()
    for index, name in enumerate(chunks.layers):
        first = base.versions(name)
        rows = table.pool[name][len(base.pool[name]) :]
        offset = sum(len(part) for part in grown[name][1:])
        if len(rows):
            grown[name].append(rows)
        own = chunks.layer == index
        for versions in (old, new):
            versions[own & (versions >= first)] += offset
    return ChunkList(chunks.layers, chunks.layer, chunks.row, old, new)
