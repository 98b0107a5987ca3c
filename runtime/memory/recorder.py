"""Tells the journal what a walk does: when it must, and no more often than flash can bear.

With weights in memory, what counts is that a device restarts on *some* state of the path. So changes of the table's
state are recorded, and positions a few times a minute. With persistent weight memory it must be the *present* state, so
an increment is announced before its first row is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
import numpy as np

from runtime.errors import JournalError
from runtime.memory.journal import Counters, Journal, Standing, WalkEntry, WalkPhase
from runtime.memory.weight_memory import WeightMemory
from runtime.walking.bank import Retries
from runtime.walking.chunks import ChunkList
from runtime.walking.retarget import Way
from runtime.walking.rows import Ints

CHECKPOINTS_PER_MINUTE: Final = 12
"""A record is one block of flash. On a device that walks day and night, 12 a minute are 6.3 million blocks of 4 KiB a
year, 26 GB: little for a card that bears some TB, and a restart loses five seconds of a walk at most."""

NOWHERE: Final = Standing(bundle="", release=0, mode="")
"""What a recorder without a journal begins with."""


class Recorder:
    """What a controller tells of its walks. Called by the walking thread alone.

    Args:
        standing: Where the device stands.
        journal: Where to write it; without one, only counts are kept.
        memory: Persistent weight memory, if the weights are there.
        checkpoints_per_minute: Positions recorded in a minute at most.
        clock: Seconds, monotonic.

    Attributes:
        standing: Where the device stands now; the journal may know less.
        trouble: Why the last checkpoint was not recorded; empty if it was. The record before it holds.
    """

    def __init__(
        self,
        standing: Standing = NOWHERE,
        journal: Journal | None = None,
        memory: WeightMemory | None = None,
        *,
        checkpoints_per_minute: float = CHECKPOINTS_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.standing = standing
        self.trouble = ""
        self._journal = journal
        self._memory = memory
        self._interval_s = 60.0 / checkpoints_per_minute
        self._clock = clock
        self._recorded_s = clock()
        self._cells: dict[str, Ints] = {}
        """Writes of each row since this began, by layer."""
        self._most = 0
        """Writes of the row that was written most since then."""

    @property
    def exact(self) -> bool:
        """Whether nothing may be written that the journal does not know of."""
        return self._memory is not None

    def adopt(self, release: int) -> None:
        """A bundle is at rest in a mode whose canary was right: from now on the directory is this bundle's.

        Raises:
            JournalError: It cannot be recorded.
        """
        standing = msgspec.structs.replace(self.standing, release=max(release, self.standing.release))
        if self._journal is None or standing != self._journal.standing:
            self._write(standing)

    def begun(self, mode: str, target: str, way: Way, phase: WalkPhase) -> None:
        """A way is taken: at the begin of a switch, and when one turns.

        Raises:
            JournalError: It cannot be recorded, and must be: with persistent memory always, else before setting out. On
                a way back the older record is as good.
        """
        walk = WalkEntry(
            target=target,
            at=way.at,
            legs=tuple((leg.begin, leg.end) for leg in way.legs),
            start=way.start,
            position=way.start,
            intended=way.start,
            phase=phase,
        )
        standing = msgspec.structs.replace(self.standing, mode=mode, walk=walk, restoring=False)
        if phase == "rolling-back":
            self._write(standing) if self.exact else self._try(standing)
            return
        if self._journal is not None:
            self._journal.reserve()
        self._write(standing)

    def intend(self, end: int) -> None:
        """An increment up to chunk ``end`` (exclusive) is about to be written.

        Raises:
            JournalError: It cannot be recorded; with persistent memory it must not be written then.
        """
        if self.exact:
            self._write(self._at(intended=end))

    def wrote(
        self, chunks: ChunkList, begin: int, end: int, size: int, retries: Retries = (), retried: int = 0
    ) -> None:
        """Chunks ``begin`` to ``end`` (exclusive) of ``size`` bytes are written, and what of it was written again."""
        layers, rows = chunks.layer[begin:end], chunks.row[begin:end]
        # Not np.unique, which imports a module of numpy when it is first called: a walk is no time for that.
        parts = [(chunks.layers[index], rows[layers == index]) for index in np.flatnonzero(np.bincount(layers))]
        written: dict[str, int] = {}
        for name, own in [*parts, *retries]:
            written[name] = written.get(name, 0) + len(own)
        wear = self._wear([*parts, *retries])
        counters = _counted(self.standing.counters, written, wear, size + retried, increments=1)
        again = sum(len(own) for _, own in retries)
        counters = msgspec.structs.replace(counters, retries=counters.retries + again)
        self.standing = msgspec.structs.replace(self._at(position=end, intended=end), counters=counters)
        if not self.exact and self._clock() - self._recorded_s >= self._interval_s:
            self._try(self.standing)

    def stands(self, phase: WalkPhase) -> None:
        """The walk stands still where it is for a while."""
        self._try(self._at(phase=phase))

    def stopped(self) -> None:
        """The network is closed during a walk: a restart is to find the place exactly."""
        if self.standing.walk is not None:
            self._try(self.standing)

    def restoring(self, mode: str) -> None:
        """The persistent memory is about to be rewritten to a mode.

        Raises:
            JournalError: It cannot be recorded, and must not be done then.
        """
        self._write(msgspec.structs.replace(self.standing, mode=mode, walk=None, restoring=True))

    def restored(self, rows: Mapping[str, int], size: int) -> None:
        """Rows that were rewritten, by layer, and their bytes."""
        counters = _counted(self.standing.counters, rows, bool(rows), size)
        self.standing = msgspec.structs.replace(self.standing, restoring=False, counters=counters)

    def rested(self, mode: str, release: int | None = None) -> None:
        """A mode is reached, or reached again.

        Args:
            mode: The mode.
            release: Release of the bundle, if the mode's canary was right; a lower one than before is not recorded.

        Raises:
            JournalError: It cannot be recorded.
        """
        standing = msgspec.structs.replace(self.standing, mode=mode, walk=None, restoring=False)
        if release is not None:
            counters = msgspec.structs.replace(standing.counters, transitions=standing.counters.transitions + 1)
            release = max(release, standing.release)
            standing = msgspec.structs.replace(standing, release=release, counters=counters)
        self._write(standing)

    def _wear(self, written: Iterable[tuple[str, Ints]]) -> int:
        """Count writes of rows by layer; by how many the most of any one row rose."""
        before = self._most
        for name, rows in written:
            counts = np.bincount(rows).astype(np.int32)
            cells = self._cells.get(name, np.zeros(0, np.int32))
            if len(cells) < len(counts):
                cells = np.concatenate([cells, np.zeros(len(counts) - len(cells), np.int32)])
            cells[: len(counts)] += counts
            self._cells[name] = cells
            self._most = max(self._most, int(cells[rows].max(initial=0)))
        return self._most - before

    def _at(
        self, *, position: int | None = None, intended: int | None = None, phase: WalkPhase | None = None
    ) -> Standing:
        walk = self.standing.walk
        assert walk is not None, "no walk is under way"
        moved = msgspec.structs.replace(
            walk,
            position=walk.position if position is None else position,
            intended=walk.intended if intended is None else intended,
            phase=walk.phase if phase is None else phase,
        )
        return msgspec.structs.replace(self.standing, walk=moved)

    def _write(self, standing: Standing) -> None:
        if self._memory is not None:
            # What a record says of the memory must hold after a power cut.
            self._memory.sync()
        if self._journal is not None:
            self._journal.write(standing)
        self.standing = standing
        self._recorded_s = self._clock()
        self.trouble = ""

    def _try(self, standing: Standing) -> None:
        """Record something that is not lost if it cannot be recorded: the record before it is a state of the path."""
        self.standing = standing
        try:
            self._write(standing)
        except JournalError as error:
            self.trouble = str(error)
            # Not again at once: every attempt costs a write.
            self._recorded_s = self._clock()


def _counted(counters: Counters, rows: Mapping[str, int], wear: int, size: int, increments: int = 0) -> Counters:
    """Counters after some rows were written, and the writes of the most written row rose by ``wear``."""
    names = {**counters.row_writes, **rows}
    return msgspec.structs.replace(
        counters,
        increments=counters.increments + increments,
        bytes_written=counters.bytes_written + size,
        row_writes={name: counters.row_writes.get(name, 0) + rows.get(name, 0) for name in names},
        cell_writes=counters.cell_writes + wear,
    )
