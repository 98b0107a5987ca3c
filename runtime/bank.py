"""The weights in memory while they are written, under two policies.

``in-place`` keeps one copy. Whoever reads or writes must have the engine to itself, which the engine sees to.
``shadow`` keeps two: readers use the front one, an increment is written to the back one and the two change places, so
nobody ever waits. Both hold only the moved tensors; the rest of the network is constant.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from runtime.chunks import ChunkList
from runtime.rows import Floats, Ints, RowTable, State

W = TypeVar("W")
"""What a session makes of named tensors (bound weights)."""
W_co = TypeVar("W_co", covariant=True)


@dataclass(frozen=True)
class Increment:
    """Row values ready to be copied: gathered before the engine is closed, so that copying is all that is left."""

    writes: tuple[tuple[str, Ints, Floats], ...]

    @classmethod
    def gather(cls, table: RowTable, chunks: ChunkList, begin: int, end: int) -> Increment:
        """Collect the values that chunks ``begin`` to ``end`` (exclusive) write."""
        runs = chunks.runs(begin, end)
        return cls(tuple((run.layer, run.rows, table.rows(run.layer, run.rows, run.versions)) for run in runs))


def increments(
    chunks: ChunkList, table: RowTable, budget: Callable[[], int], begin: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Split a list, from chunk ``begin`` on, into increments of at most ``budget()`` bytes and at least one chunk.

    The budget is asked for anew before each increment.

    Yields:
        First chunk, the one after the last, and bytes of each increment.
    """
    cumulative = np.concatenate([[0], chunks.chunk_bytes(table).cumsum()])
    while begin < len(chunks):
        end = max(begin + 1, int(np.searchsorted(cumulative, cumulative[begin] + budget(), side="right")) - 1)
        yield begin, end, int(cumulative[end] - cumulative[begin])
        begin = end


class Bank(Protocol[W_co]):
    """Moved weights that are read by inference and written by a walk."""

    exclusive: bool
    """Whether readers and the writer must take turns."""

    def read(self) -> AbstractContextManager[W_co]:
        """Weights of one state; they do not change while the context is open."""
        ...

    def write(self, increment: Increment) -> None:
        """Make the increment visible as a whole to every reader that comes after."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Memory that the moved tensors take, copies included."""
        ...


class InPlaceBank(Generic[W]):
    """One copy of the moved tensors.

    Args:
        table: Row versions.
        state: Versions to begin with.
        bind: Turns named tensors into what readers get; it must alias them, not copy.
    """

    exclusive = True

    def __init__(self, table: RowTable, state: State, bind: Callable[[Mapping[str, Floats]], W]) -> None:
        self._table = table
        self._tensors = table.tensors(state)
        self._bound = bind(self._tensors)

    @contextmanager
    def read(self) -> Iterator[W]:
        """Weights as they stand; the caller must have its turn."""
        yield self._bound

    def write(self, increment: Increment) -> None:
        """Copy the rows; the caller must have its turn."""
        _copy(self._table, self._tensors, increment)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the one copy."""
        return _size(self._tensors)


class ShadowBank(Generic[W]):
    """Two copies of the moved tensors, read and written by turns.

    Args:
        table: Row versions.
        state: Versions to begin with.
        bind: Turns named tensors into what readers get; it must alias them, not copy.
    """

    exclusive = False

    def __init__(self, table: RowTable, state: State, bind: Callable[[Mapping[str, Floats]], W]) -> None:
        self._table = table
        self._tensors = [table.tensors(state), table.tensors(state)]
        self._bound = [bind(tensors) for tensors in self._tensors]
        self._readers: tuple[set[object], set[object]] = (set(), set())
        self._front = 0
        self._behind = Increment(())
        self._changed = threading.Condition()
        self._writer = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[W]:
        """The front copy, held until the context closes."""
        reader = object()
        try:
            # Inside, since Ctrl-C may come in between: a reader that never leaves would stop all writing.
            with self._changed:
                side = self._front
                self._readers[side].add(reader)
            yield self._bound[side]
        finally:
            with self._changed:
                for readers in self._readers:
                    readers.discard(reader)
                self._changed.notify_all()

    def write(self, increment: Increment) -> None:
        """Write to the back copy once its last reader has left, then make it the front one."""
        with self._writer:
            back = 1 - self._front
            with self._changed:
                self._changed.wait_for(lambda: not self._readers[back])
            # No reader can come to the back copy: new ones enter the front, which only this thread changes.
            _copy(self._table, self._tensors[back], self._behind)
            _copy(self._table, self._tensors[back], increment)
            with self._changed:
                self._front = back
            self._behind = increment

    @property
    def weight_bytes(self) -> int:
        """Bytes of both copies."""
        return sum(_size(tensors) for tensors in self._tensors)


def _copy(table: RowTable, tensors: Mapping[str, Floats], increment: Increment) -> None:
    for name, rows, values in increment.writes:
        table.write(tensors, name, rows, values)


def _size(tensors: Mapping[str, Floats]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
