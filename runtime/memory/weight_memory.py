"""Persistent weight memory: a mapped file that stands for a crossbar or for flash, and a bank in it.

The file is a header of one page (8 bytes of magic, length and CRC-32 of a text, the text: JSON with the bundle's id, a
digest of the layout and the size), then the tensors of the moved layers, each at a multiple of 64 bytes. It is made
whole under another name and then put in place, so a file that is there was whole once.

Rows are written one after the other and each from its beginning, as such hardware does. A power cut leaves rows of
the increment that was announced old, new, or torn; all others are untouched.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np

from runtime.errors import JournalError, StateError
from runtime.memory.files import Files
from runtime.walking.bank import Increment, Retries, copied_bytes, put
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, Ints, MovedLayer, RowTable, State

W = TypeVar("W")
MAGIC: Final = b"GSWMEM1\n"
HEADER_BYTES: Final = 4096
ALIGNMENT: Final = 64
BLOCK_BYTES: Final = 1 << 20
"""Rows that are compared or made at once."""


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says of itself."""

    bundle: str
    layout: str
    size: int


class WeightMemory:
    """The moved tensors in a mapped file.

    Args:
        path: The file.
        table: Row versions.
        bundle: Id of the bundle that the rows are of.
        files: How to get at the disk.

    Attributes:
        tensors: Tensor name to an array over the mapped bytes, C-contiguous float32.

    Raises:
        StateError: There is no such file, or it is not of this bundle and layout.
    """

    def __init__(self, path: Path, table: RowTable, bundle: str, files: Files) -> None:
        self.path = path
        self._table = table
        self._files = files
        places, size = _layout(table)
        try:
            raw = files.read(path, HEADER_BYTES)
            if raw is None:
                raise StateError(f"{path}: found no weight memory, expected one that the journal speaks of")
            _check_header(path, raw, _Header(bundle=bundle, layout=_digest(table), size=size))
            found = path.stat().st_size
            if found != size:
                raise StateError(f"{path}: found {found} bytes, expected {size}; {_REMEDY}")
            handle = files.open(path)
            try:
                self._map = files.map(handle, size)
            finally:
                files.close(handle)
        except OSError as error:
            raise StateError(f"{path}: cannot be read: {error.strerror}") from error
        self._places = places
        self.tensors = _arrays(self._map, table, places)
        self._dirty: dict[str, tuple[int, int]] = {}
        """Tensor name to the first byte of the file, and the one after the last, that are not flushed."""

    @classmethod
    def create(cls, path: Path, table: RowTable, bundle: str, state: State, files: Files) -> WeightMemory:
        """Make the file, every row in the version that ``state`` says, in place of one that is there.

        Raises:
            StateError: It cannot be written; nothing was changed.
        """
        places, size = _layout(table)
        draft = path.with_suffix(".new")
        try:
            handle = files.create(draft)
            try:
                # Written, not only sized: a mapped file with holes would need room when a row is written.
                files.write(handle, _header(_Header(bundle=bundle, layout=_digest(table), size=size)), 0)
                files.write(handle, bytes(ALIGNMENT), size - ALIGNMENT)
                for layer, rows in _blocks(table):
                    values = table.rows(layer.name, rows, state[layer.name][rows])
                    parts = ((layer.weight, layer.columns, values[:, : layer.columns]), (layer.bias, 1, values[:, -1]))
                    for name, width, part in parts:
                        if name is not None:
                            files.write(handle, part.tobytes(), places[name] + 4 * width * int(rows[0]))
                files.sync(handle)
            finally:
                files.close(handle)
            files.rename(draft, path)
            files.sync_folder(path.parent)
        except OSError as error:
            with suppress(OSError):  # it is overwritten next time
                files.remove(draft)
            raise StateError(f"{path}: cannot be written: {error.strerror}; make room for {size} bytes") from error
        return cls(path, table, bundle, files)

    def write(self, increment: Increment) -> None:
        """Write rows, one after the other."""
        for name, rows, values in increment.writes:
            layer = self._table.layer(name)
            matrix = self.tensors[layer.weight].reshape(layer.units, -1)
            bias = None if layer.bias is None else self.tensors[layer.bias]
            self._soil(layer.weight, rows, 4 * layer.columns)
            if layer.bias is not None:
                self._soil(layer.bias, rows, 4)
            for row, value in zip(rows, values, strict=True):
                self._files.store(matrix[row], value[: layer.columns])
                if bias is not None:
                    self._files.store(bias[row : row + 1], value[layer.columns :])

    def read(self, name: str, rows: Ints) -> Floats:
        """Rows of a layer as they stand, fresh, weights first and the bias last, shape [R, width]."""
        layer = self._table.layer(name)
        weights = self.tensors[layer.weight].reshape(layer.units, -1)[rows]
        return weights if layer.bias is None else np.column_stack([weights, self.tensors[layer.bias][rows]])

    def _soil(self, name: str, rows: Ints, row_bytes: int) -> None:
        """These rows of a tensor are to be flushed; before they are written, lest a failure leave them out."""
        place = self._places[name]
        begin, end = place + row_bytes * int(rows.min()), place + row_bytes * (int(rows.max()) + 1)
        first, last = self._dirty.get(name, (begin, end))
        self._dirty[name] = min(first, begin), max(last, end)

    def sync(self) -> None:
        """Wait until all that was written would survive a power cut.

        Raises:
            JournalError: It may not; the next call tries again.
        """
        try:
            for begin, end in self._dirty.values():
                self._files.flush(self._map, begin, end)
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written: {error.strerror}; replace the disk") from error
        self._dirty.clear()

    def differing(self, state: State) -> dict[str, Ints]:
        """Rows that are not, bit for bit, of the version that ``state`` says, by layer; layers without any left out."""
        odd: dict[str, list[Ints]] = {}
        for layer, rows in _blocks(self._table):
            # As integers: -0.0 equals 0.0, and a NaN that power left behind equals nothing.
            wanted = self._table.rows(layer.name, rows, state[layer.name][rows]).view(np.int32)
            block = slice(rows[0], rows[-1] + 1)
            weights = self.tensors[layer.weight].reshape(layer.units, -1)[block].view(np.int32)
            same = (weights == wanted[:, : layer.columns]).all(axis=1)
            if layer.bias is not None:
                same &= self.tensors[layer.bias][block].view(np.int32) == wanted[:, -1]
            if not same.all():
                odd.setdefault(layer.name, []).append(rows[~same])
        return {name: np.concatenate(found) for name, found in odd.items()}

    def repair(self, chunks: ChunkList, begin: int, end: int) -> None:
        """Write an announced increment again: whatever its rows hold, they hold the new versions afterwards."""
        self.write(Increment.gather(self._table, chunks, begin, end))
        self.sync()

    def rewrite(self, state: State, rows: Mapping[str, Ints]) -> int:
        """Write rows in the version that ``state`` says; the bytes written."""
        written = 0
        for name, which in rows.items():
            layer = self._table.layer(name)
            for part in _parts(which, layer):
                values = self._table.rows(name, part, state[name][part])
                self.write(Increment(((name, part, values),)))
                written += layer.row_bytes * len(part)
        self.sync()
        return written

    def check(self, state: State) -> None:
        """Check that every row is of the version that ``state`` says.

        Raises:
            StateError: One is not; the text names the first.
        """
        for name, rows in self.differing(state).items():
            row = int(rows[0])
            raise StateError(
                f"{self.path}: layer {name}: found row {row} in no version that the journal allows, expected version "
                f"{state[name][row]}, bit for bit; something else wrote to it. {_REMEDY}"
            )


class PersistentBank(Generic[W]):
    """One copy of the moved tensors, in persistent weight memory.

    Args:
        memory: The memory; it must stand on the state to begin with.
        bind: Turns named tensors into what readers get; it must alias them, not copy.
        most_writes: Writes of a row before it counts as broken, where writes are checked; None where they are not.
    """

    exclusive = True

    def __init__(
        self, memory: WeightMemory, bind: Callable[[Mapping[str, Floats]], W], most_writes: int | None = None
    ) -> None:
        self._memory = memory
        self._most_writes = most_writes
        self._tensors = memory.tensors
        self._bound = bind(memory.tensors)
        # it is also written past this bank: where it is repaired, and where it is brought to another mode
        assert not copied_bytes(self._bound), "weights in persistent memory must be read where they are"

    @contextmanager
    def read(self) -> Iterator[W]:
        """Weights as they stand; the caller must have its turn."""
        yield self._bound

    def write(self, increment: Increment) -> Retries:
        """Copy the rows; the caller must have its turn, and the journal must have been told."""
        return put(increment, self._store, self._memory.read, self._most_writes)

    def _store(self, name: str, rows: Ints, values: Floats) -> None:
        self._memory.write(Increment(((name, rows, values),)))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the mapped tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())


_REMEDY: Final = "Remove this file to have it made anew from the bundle"


def _layout(table: RowTable) -> tuple[dict[str, int], int]:
    """Where each tensor begins, and the size of the file."""
    places: dict[str, int] = {}
    end = HEADER_BYTES
    for layer in table.layers:
        for name, count in ((layer.weight, layer.units * layer.columns), (layer.bias, layer.units)):
            if name is not None:
                places[name] = end
                end += -(-4 * count // ALIGNMENT) * ALIGNMENT
    return places, end


def _blocks(table: RowTable) -> Iterator[tuple[MovedLayer, Ints]]:
    """All rows, a little at a time: who has persistent memory has no room for a copy of it."""
    for layer in table.layers:
        for part in _parts(np.arange(layer.units, dtype=np.int32), layer):
            yield layer, part


def _parts(rows: Ints, layer: MovedLayer) -> Iterator[Ints]:
    step = max(1, BLOCK_BYTES // layer.array_bytes)
    for begin in range(0, len(rows), step):
        yield rows[begin : begin + step]


def _arrays(memory: mmap.mmap, table: RowTable, places: Mapping[str, int]) -> dict[str, Floats]:
    tensors: dict[str, Floats] = {}
    for layer in table.layers:
        for name, shape in ((layer.weight, layer.shape), (layer.bias, (layer.units,))):
            if name is not None:
                tensors[name] = np.ndarray(shape, np.float32, memory, places[name])
    return tensors


def _digest(table: RowTable) -> str:
    """What tells one layout from another: names, shapes, order."""
    told = [(layer.name, layer.weight, layer.bias, layer.shape) for layer in table.layers]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


def _header(header: _Header) -> bytes:
    text = msgspec.json.encode(header)
    size = len(text).to_bytes(4, "little")
    return (MAGIC + size + zlib.crc32(size + text).to_bytes(4, "little") + text).ljust(HEADER_BYTES, b"\0")


def _check_header(path: Path, raw: bytes, expected: _Header) -> None:
    if raw != _header(expected):
        what = "another bundle's or layout's header" if raw.startswith(MAGIC) else "no header of a weight memory"
        raise StateError(f"{path}: found {what}, expected one of bundle {expected.bundle[:16]}; {_REMEDY}")
