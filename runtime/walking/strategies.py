"""How a transition is written: strategies compile two states to a chunk list.

All of them start and end on the same states; they differ in the order of the writes and in the values written on the
way. Rows whose end is zero belong to removed units, rows whose start is zero to restored ones; the rest are the rows
of layers that read those units and make up for them (readers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.walking.chunks import ChunkList
from runtime.walking.rows import ZERO, Floats, Ints, RowTable, State

Point = Mapping[str, Floats]
"""A configuration as rows: layer name to [units, width]."""


@dataclass(frozen=True)
class Compiled:
    """A chunk list and the rows it needs beside those of the table it was compiled from.

    Attributes:
        chunks: The ordered writes.
        rows: Layer name to rows that extend the table's pools, [rows, width].
        stops: Positions at which a block ends, beside those where one has to: the layer changes, or a row comes again.
    """

    chunks: ChunkList
    rows: Mapping[str, Floats]
    stops: tuple[int, ...] = ()

    def table(self, table: RowTable) -> RowTable:
        """Table that knows every version the list writes."""
        return table.extended(self.rows) if self.rows else table


def naive(table: RowTable, start: State, end: State) -> Compiled:
    """Overwrite in storage order: layer by layer, row by row."""
    return _one_pass(table, start, [_changed(table, start, end)], end)


def zero_first(table: RowTable, start: State, end: State) -> Compiled:
    """Switch units off first, let their readers make up for it afterwards, restored units last."""
    return _one_pass(table, start, list(_roles(table, start, end, "removed", "reader", "restored")), end)


def ordered(table: RowTable, start: State, end: State) -> Compiled:
    """Write every row once, each at a time when it harms least.

    Restored units come first: their readers' columns are still zero, so nothing reads them. Then the readers, the
    one nearest to the output first, so that a layer changes only once what stands behind it expects it. Removed units
    come last: by then nothing reads them.
    """
    restored, reader, removed = _roles(table, start, end, "restored", "reader", "removed")
    return _one_pass(table, start, [restored, dict(reversed(reader.items())), removed], end)


def linear(table: RowTable, start: State, end: State, steps: int) -> Compiled:
    """Straight line in weight space, all changed rows at each of ``steps`` points, in storage order."""
    return _through(table, start, end, _line(table, start, end, steps), [_changed(table, start, end)])


def ramp(table: RowTable, start: State, end: State, steps: int) -> Compiled:
    """Readers along a straight line in ``steps`` points, restored units before it and removed ones after it."""
    restored, reader, removed = _roles(table, start, end, "restored", "reader", "removed")
    reader = dict(reversed(reader.items()))
    middle = _through(table, start, end, _line(table, start, end, steps), [reader], before=[restored])
    tail = ChunkList.build(_names(table), middle.chunks.state_at(start, len(middle.chunks)), _writes(removed, end))
    return Compiled(ChunkList.join([middle.chunks, tail]), middle.rows)


def waypoints(table: RowTable, start: State, end: State, points: Sequence[Point]) -> Compiled:
    """Write all changed rows at each given point, the layer nearest to the output first, and then the end.

    Args:
        table: Rows known so far.
        start: State before.
        end: State after; the last given point is not required to be there.
        points: Configurations between the two, in order, neither end among them.
    """
    changed = _changed(table, start, end)
    for name in _names(table):
        origin = _all_rows(table, name, start)
        moving = [(point[name] != origin).any(axis=1) for point in points if name in point]
        if moving:
            rows = np.union1d(changed.get(name, []), np.flatnonzero(np.any(moving, axis=0)))
            changed[name] = rows.astype(np.int32)
    changed = {name: changed[name] for name in reversed(_names(table)) if len(changed.get(name, []))}
    return _through(table, start, end, points, [changed])


_Rows = dict[str, Ints]


def _changed(table: RowTable, start: State, end: State) -> _Rows:
    """Rows that differ, by layer in forward order; layers without any are left out."""
    rows = {layer.name: np.flatnonzero(start[layer.name] != end[layer.name]).astype(np.int32) for layer in table.layers}
    return {name: indices for name, indices in rows.items() if len(indices)}


def _roles(table: RowTable, start: State, end: State, *roles: str) -> tuple[_Rows, ...]:
    """Changed rows split by what they are for, in the order asked for."""
    split: dict[str, _Rows] = {"removed": {}, "restored": {}, "reader": {}}
    for name, rows in _changed(table, start, end).items():
        removed, restored = end[name][rows] == ZERO, start[name][rows] == ZERO
        for role, mask in (("removed", removed), ("restored", restored), ("reader", ~removed & ~restored)):
            if mask.any():
                split[role][name] = rows[mask]
    return tuple(split[role] for role in roles)


def _one_pass(table: RowTable, start: State, groups: Sequence[_Rows], end: State) -> Compiled:
    """Write each row of each group once, with its end version."""
    writes = [write for group in groups for write in _writes(group, end)]
    return Compiled(ChunkList.build(_names(table), start, writes), {})


def _writes(rows: _Rows, end: State) -> list[tuple[str, int, int]]:
    """Each of the rows, once, with its end version."""
    return [(name, int(row), int(end[name][row])) for name, indices in rows.items() for row in indices]


def _line(table: RowTable, start: State, end: State, steps: int) -> list[Point]:
    """Points w0 + (k / steps) (w1 - w0) for k = 1..steps-1, restricted to layers that change."""
    ends = [{name: _all_rows(table, name, state) for name in _changed(table, start, end)} for state in (start, end)]
    points: list[Point] = []
    for k in range(1, steps):
        t = np.float32(k / steps)
        points.append({name: ends[0][name] + t * (ends[1][name] - ends[0][name]) for name in ends[0]})
    return points


def _all_rows(table: RowTable, name: str, state: State) -> Floats:
    return table.rows(name, np.arange(table.layer(name).units, dtype=np.int32), state[name])


def _through(
    table: RowTable,
    start: State,
    end: State,
    points: Sequence[Point],
    groups: Sequence[_Rows],
    before: Sequence[_Rows] = (),
) -> Compiled:
    """Write the rows of ``groups`` at every point and finally with their end version; ``before`` once at first."""
    writes = [write for group in before for write in _writes(group, end)]
    extra: dict[str, list[Floats]] = {}
    stored = {name: table.versions(name) for name in _names(table)}
    for point in points:
        for group in groups:
            for name, rows in group.items():
                extra.setdefault(name, []).append(np.asarray(point[name][rows], np.float32))
                writes += [(name, int(row), stored[name] + i) for i, row in enumerate(rows)]
                stored[name] += len(rows)
    writes += [write for group in groups for write in _writes(group, end)]
    rows_by_layer = {name: np.concatenate(parts) for name, parts in extra.items()}
    return Compiled(ChunkList.build(_names(table), start, writes), rows_by_layer)


def _names(table: RowTable) -> tuple[str, ...]:
    return tuple(layer.name for layer in table.layers)
