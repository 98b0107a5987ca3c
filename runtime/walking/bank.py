"""The weights in memory while they are written, under two policies.

``in-place`` keeps one copy. Whoever reads or writes must have the engine to itself, which the engine sees to.
``shadow`` keeps two: readers use the front one, an increment is written to the back one and the two change places, so
nobody ever waits. Both hold only the moved tensors; the rest of the network is constant.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from runtime.errors import BrokenRow
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, Ints, RowTable, State

W = TypeVar("W")
"""What a session makes of named tensors (bound weights)."""
W_co = TypeVar("W_co", covariant=True)

Retries = tuple[tuple[str, Ints], ...]
"""Layer and rows that read back wrong and were written again, one entry for each time."""


@dataclass(frozen=True)
class Increment:
    """Row values ready to be copied: gathered before the engine is closed, so that copying is all that is left."""

    writes: tuple[tuple[str, Ints, Floats], ...]

    @classmethod
    def gather(cls, table: RowTable, chunks: ChunkList, begin: int, end: int) -> Increment:
        """Collect the values that chunks ``begin`` to ``end`` (exclusive) write."""
        runs = chunks.runs(begin, end)
        return cls(tuple((run.layer, run.rows, table.rows(run.layer, run.rows, run.versions)) for run in runs))


@runtime_checkable
class Copying(Protocol):
    """Bound weights that may read copies of the tensors, which then have to be told what was written."""

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copies."""
        ...

    def refresh(self, names: Iterable[str | None], rows: Ints) -> None:
        """Take over rows of tensors; those that are read where they are, and None, are passed over."""
        ...


def copying(bound: object) -> Copying | None:
    """Bound weights that may read copies, None for others. Asked once: the check looks at every method."""
    return bound if isinstance(bound, Copying) else None


def refresh(copies: Copying | None, table: RowTable, increment: Increment) -> None:
    """Tell bound weights that may read copies which rows of the tensors were written."""
    if copies is not None:
        for name, rows, _ in increment.writes:
            layer = table.layer(name)
            copies.refresh((layer.weight, layer.bias), rows)


def copied_bytes(bound: object) -> int:
    """Bytes of the tensors that bound weights read instead of those they were bound to."""
    copies = copying(bound)
    return 0 if copies is None else copies.copied_bytes


def increments(
    chunks: ChunkList, table: RowTable, budget: Callable[[], int], begin: int = 0, *, granularity: int = 1
) -> Iterator[tuple[int, int, int]]:
    """Split a list, from chunk ``begin`` on, into increments of at most ``budget()`` bytes and at least one chunk.

    The budget is asked for anew before each increment. A row takes a whole multiple of ``granularity`` bytes.

    Yields:
        First chunk, the one after the last, and bytes of each increment.
    """
    cumulative = np.concatenate([[0], chunks.chunk_bytes(table, granularity).cumsum()])
    while begin < len(chunks):
        end = max(begin + 1, int(np.searchsorted(cumulative, cumulative[begin] + budget(), side="right")) - 1)
        yield begin, end, int(cumulative[end] - cumulative[begin])
        begin = end


def put(
    increment: Increment,
    store: Callable[[str, Ints, Floats], None],
    load: Callable[[str, Ints], Floats],
    most_writes: int | None,
) -> Retries:
    """Write an increment, and with a limit of writes read back every row and write again what is wrong.

    Args:
        increment: What to write.
        store: Writes values to rows of a layer, once.
        load: Reads rows of a layer back, float32 [R, width].
        most_writes: Writes of one row before it counts as broken, the first included; None to read nothing back.

    Raises:
        BrokenRow: A row stays wrong; the text names it.
    """
    again: list[tuple[str, Ints]] = []
    for name, rows, values in increment.writes:
        store(name, rows, values)
        if most_writes is None:
            continue
        for _ in range(most_writes - 1):
            wrong = _differing(load(name, rows), values)
            if not len(wrong):
                break
            rows, values = rows[wrong], values[wrong]
            store(name, rows, values)
            again.append((name, rows))
        if len(wrong := _differing(load(name, rows), values)):
            row = int(rows[wrong[0]])
            raise BrokenRow(
                f"layer {name}: row {row}: found other values than were written, {most_writes} times "
                "(writes.verify.most_writes), expected the same bits: the memory is worn or broken there, replace it"
            )
    return tuple(again)


def _differing(found: Floats, wanted: Floats) -> Ints:
    """Indices of rows that differ in any bit: -0.0 equals 0.0, and a NaN equals nothing."""
    odd = np.ascontiguousarray(found).view(np.int32) != np.ascontiguousarray(wanted).view(np.int32)
    return np.flatnonzero(odd.any(axis=1)).astype(np.int32)


class Bank(Protocol[W_co]):
    """Moved weights that are read by inference and written by a walk."""

    exclusive: bool
    """Whether readers and the writer must take turns."""

    def read(self) -> AbstractContextManager[W_co]:
        """Weights of one state; they do not change while the context is open."""
        ...

    def write(self, increment: Increment) -> Retries:
        """Make the increment visible as a whole to every reader that comes after; the rows that took several writes.

        Raises:
            BrokenRow: Writes are checked, and a row stays wrong; what it left behind must not be read.
        """
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
        bind: Turns named tensors into what readers get; it must alias them, or be ``Copying``.
        most_writes: Writes of a row before it counts as broken, where writes are checked; None where they are not.
    """

    exclusive = True

    def __init__(
        self,
        table: RowTable,
        state: State,
        bind: Callable[[Mapping[str, Floats]], W],
        most_writes: int | None = None,
    ) -> None:
        self._table = table
        self._most_writes = most_writes
        self._tensors = table.tensors(state)
        self._bound = bind(self._tensors)
        self._copies = copying(self._bound)

    @contextmanager
    def read(self) -> Iterator[W]:
        """Weights as they stand; the caller must have its turn."""
        yield self._bound

    def write(self, increment: Increment) -> Retries:
        """Copy the rows; the caller must have its turn."""
        again = put(increment, self._store, self._load, self._most_writes)
        refresh(self._copies, self._table, increment)
        return again

    def _store(self, name: str, rows: Ints, values: Floats) -> None:
        self._table.write(self._tensors, name, rows, values)

    def _load(self, name: str, rows: Ints) -> Floats:
        return _read(self._table, self._tensors, name, rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the one copy, and of those that the bound weights read instead."""
        return _size(self._tensors) + copied_bytes(self._bound)


class ShadowBank(Generic[W]):
    """Two copies of the moved tensors, read and written by turns.

    Args:
        table: Row versions.
        state: Versions to begin with.
        bind: Turns named tensors into what readers get; it must alias them, or be ``Copying``.
        most_writes: Writes of a row before it counts as broken, where writes are checked; None where they are not.
    """

    exclusive = False

    def __init__(
        self,
        table: RowTable,
        state: State,
        bind: Callable[[Mapping[str, Floats]], W],
        most_writes: int | None = None,
    ) -> None:
        self._table = table
        self._most_writes = most_writes
        self._tensors = [table.tensors(state), table.tensors(state)]
        self._bound = [bind(tensors) for tensors in self._tensors]
        self._copies = [copying(bound) for bound in self._bound]
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

    def write(self, increment: Increment) -> Retries:
        """Write to the back copy once its last reader has left, then make it the front one."""
        with self._writer:
            back = 1 - self._front
            with self._changed:
                self._changed.wait_for(lambda: not self._readers[back])
            # No reader can come to the back copy: new ones enter the front, which only this thread changes.
            tensors = self._tensors[back]
            store, load = partial(self._table.write, tensors), partial(_read, self._table, tensors)
            put(self._behind, store, load, self._most_writes)
            again = put(increment, store, load, self._most_writes)
            for one in (self._behind, increment):
                refresh(self._copies[back], self._table, one)
            with self._changed:
                self._front = back
            self._behind = increment
            return again

    @property
    def weight_bytes(self) -> int:
        """Bytes of both copies, and of those that the bound weights read instead."""
        return sum(map(_size, self._tensors)) + sum(map(copied_bytes, self._bound))


def _read(table: RowTable, tensors: Mapping[str, Floats], name: str, rows: Ints) -> Floats:
    """Rows of a layer as they stand in a configuration's tensors, fresh, weights first and the bias last."""
    layer = table.layer(name)
    weights = tensors[layer.weight].reshape(layer.units, -1)[rows]
    return weights if layer.bias is None else np.column_stack([weights, tensors[layer.bias][rows]])


def _size(tensors: Mapping[str, Floats]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
