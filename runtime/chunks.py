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
from runtime.rows import Floats, Ints, RowTable, State


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

    def chunk_bytes(self, table: RowTable) -> NDArray[np.int64]:
        """Bytes each chunk writes, shape [C]."""
        sizes = np.array([table.layer(name).row_bytes for name in self.layers], np.int64)
        return sizes[self.layer]

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
        edges: list[int] = []
        seen: set[int] = set()
        for position in range(len(self)):
            row = int(self.row[position])
            if position and (self.layer[position] != self.layer[position - 1] or row in seen):
                edges.append(position)
                seen = set()
            seen.add(row)
        return np.array([*edges, len(self)], np.int64)

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
        state = {name: versions.copy() for name, versions in start.items()}
        for position in range(len(self)):
            index, row = int(self.layer[position]), int(self.row[position])
            old, new = int(self.old[position]), int(self.new[position])
            if not 0 <= index < len(self.layers):
                raise BundleError(
                    f"{origin}: chunk {position}: found layer {index}, expected 0..{len(self.layers) - 1}"
                )
            layer = table.layer(self.layers[index])
            if not 0 <= row < layer.units:
                raise BundleError(f"{origin}: chunk {position}: found row {row}, expected 0..{layer.units - 1}")
            if not 0 <= new < table.versions(layer.name):
                raise BundleError(
                    f"{origin}: chunk {position}: found version {new}, expected 0..{table.versions(layer.name) - 1}"
                )
            if state[layer.name][row] != old:
                raise BundleError(
                    f"{origin}: chunk {position}: found {layer.name} row {row} written from version {old}, "
                    f"expected from {state[layer.name][row]}, where this path has brought it"
                )
            state[layer.name][row] = new
        for name, versions in end.items():
            if not np.array_equal(state[name], versions):
                row = int(np.flatnonzero(state[name] != versions)[0])
                raise BundleError(
                    f"{origin}: after the last chunk: found {name} row {row} at version {state[name][row]}, "
                    f"expected {versions[row]} as in the mode this path should reach"
                )

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
