"""Ordered chunk lists: what a path compiles to, and what is walked on a device.

A chunk is the atomic write: one row of one layer, from the version it has to the version it gets. The states of a
transition are the prefixes of its list; its way back is the reversed list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BundleError
from runtime.walking.rows import Floats, Ints, RowTable, State


@dataclass(frozen=True)
class Run:
    """Neighbouring chunks of one layer, in order, no row twice: they can be copied in one go."""

    layer: str
    rows: Ints
    versions: Ints


@dataclass(frozen=True, eq=False)
class ChunkList:
    """An ordered list of row writes.

    Attributes:
        layers: Layer names that ``layer`` indexes.
        layer: Index of the layer of each chunk, int32 [C].
        row: Row it writes, int32 [C].
        old: Version the row has before, int32 [C].
        new: Version it has after, int32 [C].
    """

    layers: tuple[str, ...]
    layer: Ints
    row: Ints
    old: Ints
    new: Ints

    def __len__(self) -> int:
        return len(self.layer)

    @classmethod
    def build(cls, layers: tuple[str, ...], start: State, writes: list[tuple[str, int, int]]) -> ChunkList:
        """List from (layer, row, new version) writes; writes that would change nothing are left out."""
        state = {name: versions.copy() for name, versions in start.items()}
        kept: list[tuple[int, int, int, int]] = []
        for name, row, new in writes:
            old = int(state[name][row])
            if old != new:
                kept.append((layers.index(name), row, old, new))
                state[name][row] = new
        columns = np.array(kept, np.int32).reshape(-1, 4)
        return cls(layers, *(np.ascontiguousarray(columns[:, i]) for i in range(4)))

    @classmethod
    def join(cls, lists: list[ChunkList]) -> ChunkList:
        """One list that walks several, one after the other; all must index the same layers."""
        first = lists[0]
        if any(other.layers != first.layers for other in lists):
            raise BundleError("chunk lists of different plans cannot be joined")
        return cls(
            first.layers,
            *(np.concatenate([getattr(one, name) for one in lists]) for name in ("layer", "row", "old", "new")),
        )

    def reversed(self) -> ChunkList:
        """The way back."""
        return ChunkList(self.layers, self.layer[::-1], self.row[::-1], self.new[::-1], self.old[::-1])

    def chunk_bytes(self, table: RowTable, granularity: int = 1) -> NDArray[np.int64]:
        """Bytes each chunk writes, shape [C].

        Args:
            table: Row versions.
            granularity: Smallest write of the device in bytes; a row takes a whole multiple of it.
        """
        sizes = [-(-table.layer(name).row_bytes // granularity) * granularity for name in self.layers]
        return np.array(sizes, np.int64)[self.layer]

    def total_bytes(self, table: RowTable) -> int:
        """Bytes the whole list writes."""
        return int(self.chunk_bytes(table).sum())

    def state_at(self, start: State, position: int) -> dict[str, Ints]:
        """State after the first ``position`` chunks, as fresh arrays."""
        state = {name: versions.copy() for name, versions in start.items()}
        for run in self.runs(0, position):
            state[run.layer][run.rows] = run.versions
        return state

    def runs(self, begin: int, end: int) -> Iterator[Run]:
        """Chunks ``begin`` to ``end`` (exclusive) as runs that may each be copied at once."""
        edges = self._edges
        while begin < end:
            stop = min(end, int(edges[np.searchsorted(edges, begin, side="right")]))
            yield Run(self.layers[int(self.layer[begin])], self.row[begin:stop], self.new[begin:stop])
            begin = stop

    @cached_property
    def _edges(self) -> NDArray[np.int64]:
        """Positions where a run must end: the layer changes, or a row would come a second time."""
        # A run that begins at s goes on until a chunk whose row, or whose layer's end, came at s or later.
        changes = np.flatnonzero(np.diff(self.layer)) + 1
        barred = self._before.copy()
        barred[changes] = changes - 1
        barred = np.maximum.accumulate(barred)
        edges, begin = [], 0
        while begin < len(self):
            begin = int(np.searchsorted(barred, begin))
            edges.append(begin)
        return np.array(edges or [0], np.int64)

    @cached_property
    def _before(self) -> NDArray[np.int64]:
        """Position of the chunk that last wrote the same row before each chunk, -1 where none did; shape [C]."""
        keys = (self.layer.astype(np.int64) << 32) + self.row
        order = np.argsort(keys, kind="stable")
        before = np.full(len(self), -1, np.int64)
        again = np.flatnonzero(np.diff(keys[order]) == 0)
        before[order[again + 1]] = order[again]
        return before

    def torn(self, table: RowTable, position: int, elements: int) -> tuple[str, Ints, Floats]:
        """What chunk ``position`` leaves in memory when it stops after ``elements`` numbers.

        Returns:
            Layer name, row index [1] and row value [1, width], for ``RowTable.write`` on the state at ``position``.
        """
        name = self.layers[int(self.layer[position])]
        row = self.row[position : position + 1]
        value = table.rows(name, row, self.old[position : position + 1])
        value[0, :elements] = table.rows(name, row, self.new[position : position + 1])[0, :elements]
        return name, row, value

    def check(self, table: RowTable, start: State, end: State, origin: str) -> None:
        """Check that the list leads from ``start`` to ``end`` and writes only what the table has.

        Raises:
            BundleError: It does not; the text names the chunk.
        """
        # An index that is out of range is looked up as the last entry, which has no row; its chunk is refused.
        units = np.array([*(table.layer(name).units for name in self.layers), 0], np.int64)
        stored = np.array([*(table.versions(name) for name in self.layers), 0], np.int64)
        wrong_layer = (self.layer < 0) | (self.layer >= len(self.layers))
        layer = np.where(wrong_layer, len(self.layers), self.layer)
        wrong_row = (self.row < 0) | (self.row >= units[layer])
        wrong_new = (self.new < 0) | (self.new >= stored[layer])
        position = _first(wrong_layer | wrong_row | wrong_new)
        known = slice(0, position)
        expected = self._expected(start, layer, known)
        stale = _first(self.old[known] != expected)
        if stale < position:
            name, row = self.layers[int(layer[stale])], int(self.row[stale])
            raise BundleError(
                f"{origin}: chunk {stale}: found {name} row {row} written from version {int(self.old[stale])}, "
                f"expected from {int(expected[stale])}, where this path has brought it"
            )
        if position < len(self):
            for wrong, what, found, count in (
                (wrong_layer, "layer", self.layer, len(self.layers)),
                (wrong_row, "row", self.row, int(units[layer[position]])),
                (wrong_new, "version", self.new, int(stored[layer[position]])),
            ):
                if wrong[position]:
                    raise BundleError(
                        f"{origin}: chunk {position}: found {what} {int(found[position])}, expected 0..{count - 1}"
                    )
        state = self._end(start)
        for name, versions in end.items():
            if not np.array_equal(state[name], versions):
                row = int(np.flatnonzero(state[name] != versions)[0])
                raise BundleError(
                    f"{origin}: after the last chunk: found {name} row {row} at version {state[name][row]}, "
                    f"expected {versions[row]} as in the mode this path should reach"
                )

    def _end(self, start: State) -> dict[str, Ints]:
        """State after the last chunk; as ``state_at`` says, in time that does not depend on the order of chunks."""
        last = np.ones(len(self), bool)
        last[self._before[self._before >= 0]] = False
        state = {name: versions.copy() for name, versions in start.items()}
        for index, name in enumerate(self.layers):
            own = last & (self.layer == index)
            state[name][self.row[own]] = self.new[own]
        return state

    def _expected(self, start: State, layer: Ints, known: slice) -> Ints:
        """Version that each chunk finds, by the chunks before it or by ``start``; all indices are in range."""
        begins = np.cumsum([0, *(len(start[name]) for name in self.layers)])
        versions = np.concatenate([np.zeros(0, np.int32), *(start[name] for name in self.layers)])
        before = self._before[known]
        return np.where(before >= 0, self.new[before], versions[begins[layer[known]] + self.row[known]])

    def arrays(self) -> dict[str, Ints]:
        """The list as named arrays for a file."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in ("layer", "row", "old", "new")}

    @classmethod
    def from_arrays(cls, layers: tuple[str, ...], arrays: Mapping[str, NDArray[np.generic]], origin: str) -> ChunkList:
        """List from named arrays of a file.

        Raises:
            BundleError: An array is missing, unknown, or has a wrong type or length.
        """
        names = ("layer", "row", "old", "new")
        if set(arrays) != set(names):
            raise BundleError(f"{origin}: found arrays {sorted(arrays)}, expected {sorted(names)}")
        length = arrays["layer"].shape[0] if arrays["layer"].ndim == 1 else -1
        for name in names:
            if arrays[name].dtype != np.int32 or arrays[name].shape != (length,):
                raise BundleError(
                    f"{origin}: array {name}: found {arrays[name].dtype}{list(arrays[name].shape)}, "
                    f"expected int32 and one length for all four"
                )
        return cls(layers, *(arrays[name].astype(np.int32) for name in names))


def _first(wrong: NDArray[np.bool_]) -> int:
    """Position of the first that is wrong, the length if none is."""
    return int(wrong.argmax()) if wrong.any() else len(wrong)
