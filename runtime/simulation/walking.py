"""The controller on a virtual clock: the same table, way, increments and bank; only the waiting is another's.

``runtime.walking.controller`` waits on a thread until an increment is due. Here whoever owns the clock asks when
something is due and calls ``advance`` then. What is decided at that moment is decided by ``runtime.walking.helm``, as
on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from device_profiles.schema import Writes
from runtime.errors import Busy
from runtime.memory.recorder import Recorder
from runtime.plan.bundle import Bundle
from runtime.plan.costs import interval_s, mean_writes, rounded, split, write_seconds
from runtime.simulation.line import Line
from runtime.simulation.paths import Paths, Place
from runtime.walking.bank import Increment
from runtime.walking.engine import Engine, LiveRunner, Runner
from runtime.walking.helm import Helm
from runtime.walking.operation import Operation, Outcome, Result
from runtime.walking.retarget import Way
from runtime.walking.route import Leg
from runtime.walking.rows import Ints, RowTable
from runtime.walking.table import Event, Phase, after
from runtime.walking.walk import Walk


@dataclass
class Ledger:
    """What writing has cost so far.

    Attributes:
        written: Bytes of weights, as the runtime counts them.
        physical: Bytes with whole units of the memory and retries.
        increments: Increments.
        walking_s: Seconds during which a switch was under way.
        switches: Switches that reached their mode.
        turned: Switches that were turned to another mode on the way.
        stall_s: Longest time that callers were kept out at once.
        wear: Layer to the writes of each of its rows, retries not counted.
        spent: (seconds, bytes with retries) of each piece of writing.
    """

    written: int = 0
    physical: float = 0.0
    increments: int = 0
    walking_s: float = 0.0
    switches: int = 0
    turned: int = 0
    stall_s: float = 0.0
    wear: dict[str, Ints] = field(default_factory=dict)
    spent: list[tuple[float, float]] = field(default_factory=list)

    def write(self, at_s: float, size: int, physical: float, stall_s: float) -> None:
        """A piece was written."""
        self.written += size
        self.physical += physical
        self.increments += 1
        self.stall_s = max(self.stall_s, stall_s)
        self.spent.append((at_s, physical))


class Mover(Protocol):
    """What brings a network from mode to mode on a virtual clock."""

    ledger: Ledger

    @property
    def mode(self) -> str:
        """Mode reached last."""
        ...

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        ...

    @property
    def place(self) -> Place:
        """State that answers now."""
        ...

    @property
    def share(self) -> float:
        """How far it is from the first to the second of ``ends``, 0 to 1."""
        ...

    @property
    def ends(self) -> tuple[str, str]:
        """Modes of the leg that it is on; the mode twice at rest."""
        ...

    @property
    def dense(self) -> bool:
        """Whether the dense graph answers now, as it does on the way."""
        ...

    def switch(self, mode: str) -> Operation:
        """Begin to go to a mode."""
        ...

    def due_s(self) -> float | None:
        """When it is to be called next; None while it rests."""
        ...

    def advance(self, now_s: float) -> None:
        """Do what is due now."""
        ...

    def stop(self, now_s: float) -> None:
        """The trace is over."""
        ...

    def runner(self) -> Runner:
        """What answers now."""
        ...


class _Routes:
    """The plan of a strategy, as a helm asks for it; no canary: a strategy that fails is to be seen failing."""

    def __init__(self, paths: Paths, live: LiveRunner) -> None:
        self.table: RowTable = paths.table
        self._paths = paths
        self._live = live

    def route(self, begin: str, end: str) -> tuple[Leg, ...]:
        return self._paths.route(begin, end)

    def live(self, mode: str) -> LiveRunner:
        return self._live

    def rest(self, mode: str, live: LiveRunner) -> Runner:
        return live

    def canary(self, runner: Runner) -> str:
        return ""

    def guard(self, runner: Runner, leg: Leg) -> str:
        return ""


class Walker(Helm):
    """Walks in place, one increment after the other.

    Args:
        paths: What the strategy writes.
        live: The network, which stands at ``mode``.
        mode: Where to begin.
        writes: The device's limits.
        line: The callers' line, which an increment enters.
        clock: Virtual seconds.
        before_write: Called before weights change.
        snap: Whether a mode is answered from its compact graph.
    """

    def __init__(
        self,
        paths: Paths,
        live: LiveRunner,
        mode: str,
        writes: Writes,
        line: Line,
        clock: Callable[[], float],
        before_write: Callable[[], None],
        snap: bool,
    ) -> None:
        engine = Engine(live, exclusive=True, queue_limit=1)
        super().__init__(_Routes(paths, live), engine, mode, Recorder(clock=clock))
        self.ledger = Ledger(wear={layer.name: np.zeros(layer.units, np.int32) for layer in paths.table.layers})
        self._paths, self._live, self._writes, self._line, self._clock = paths, live, writes, line, clock
        self._before_write = before_write
        self._snap = snap
        self._due_s = self._next_s = self._begun_s = 0.0
        self._budget = writes.bytes_per_increment
        self._ahead: Iterator[tuple[int, int, int]] | None = None

    @property
    def place(self) -> Place:
        """State that answers now."""
        walk = self._walk
        if walk is None or not walk.way.legs:
            return self._mode, self._mode, 0
        return self._paths.place(*walk.way.place(walk.position))

    @property
    def share(self) -> float:
        """Share of the present leg's chunks that is behind."""
        walk = self._walk
        if walk is None or not walk.way.legs:
            return 0.0
        leg, behind = walk.way.place(walk.position)
        return behind / max(len(leg.chunks), 1)

    @property
    def ends(self) -> tuple[str, str]:
        """Modes of the present leg."""
        walk = self._walk
        if walk is None or not walk.way.legs:
            return self._mode, self._mode
        leg, _ = walk.way.place(walk.position)
        return leg.begin, leg.end

    @property
    def dense(self) -> bool:
        """Whether the dense graph answers now."""
        return self._walk is not None or not self._snap

    def runner(self) -> Runner:
        """What answers now."""
        return self._engine.runner

    def switch(self, mode: str) -> Operation:
        """Begin to walk to another mode.

        Raises:
            UnknownMode: No path leads there.
            Busy: A walk is under way.
        """
        if self._current is not None:
            raise Busy(f"switch to {mode}: found a switch to {self._current.target} under way, expected none; wait")
        legs = self._plan.route(self._mode, mode)
        operation = self._operation(mode)
        if not legs:
            operation.advance(1.0)
            operation.finish(Result(Outcome.COMMITTED, mode, "", 0.0, 0, 0.0))
            return operation
        way = Way.along(self._mode, legs, self._plan.table)
        self._phase = after(self._phase, Event.SWITCH)
        self._current, self._walk = operation, Walk(operation, way, way.start, self._live)
        self._begun_s = self._clock()
        self._set_out(self._walk, self._begun_s)
        return operation

    def due_s(self) -> float | None:
        """When the next increment, or the end of the walk, is due."""
        return None if self._walk is None else self._next_s

    def advance(self, now_s: float) -> None:
        """Turn if another mode was asked for; else write the next increment, or end."""
        walk = self._walk
        assert walk is not None, "only a walk is advanced"
        assert self._phase is Phase.WALKING, f"{self._phase}: nothing sends a virtual walk back"
        turned = self._current is not walk.operation
        self._take_up(walk)
        if turned:
            self.ledger.turned += 1
            self._set_out(walk, now_s)
        assert self._ahead is not None
        step = next(self._ahead, None)
        if step is None:
            assert self._arrive(walk), "nothing comes between on a virtual clock"
            self.ledger.walking_s += now_s - self._begun_s
            self.ledger.switches += 1
            self._mode = walk.operation.target
            self._end(walk, Event.ACCEPT, Outcome.COMMITTED)
            return
        self._write(walk, now_s, *step)

    def stop(self, now_s: float) -> None:
        """The trace is over."""
        if self._walk is not None:
            self.ledger.walking_s += now_s - self._begun_s

    def _set_out(self, walk: Walk, now_s: float) -> None:
        """Begin to write along the present way; the first increment is due at once."""
        self._due_s = self._next_s = now_s
        self._budget = self._writes.bytes_per_increment
        self._ahead = split(walk.way.chunks, self._paths.table, self._writes, lambda: self._budget, walk.position)

    def _write(self, walk: Walk, now_s: float, begin: int, end: int, size: int) -> None:
        # As the controller does: a walk that was held up does not make up for it by writing faster.
        interval = interval_s(self._writes)
        self._due_s = max(self._due_s, now_s - interval) + interval
        table, chunks = self._paths.table, walk.way.chunks
        increment = Increment.gather(table, chunks, begin, end)
        physical = size * mean_writes(self._writes)
        seconds = write_seconds(physical, self._writes)
        self._before_write()
        self._live.bank.write(increment)
        done_s = self._line.job(now_s, seconds)
        if seconds * 1e3 > self._writes.stall_budget_ms:
            self._budget = max(1, self._budget // 2)
        walk.advance(end, size, back=False)
        self.ledger.write(now_s, size, physical, seconds)
        for name, rows, _ in increment.writes:
            self.ledger.wear[name][rows] += 1
        self._next_s = max(self._due_s, done_s) if end < len(chunks) else done_s


class Replacer:
    """Replaces what answers at once: changed tensors (flip) or the whole network (reload).

    Args:
        name: ``flip`` or ``reload``.
        bundle: The plan.
        paths: States of the modes.
        mode: Where to begin.
        writes: The device's limits.
        line: The callers' line.
        clock: Virtual seconds.
        before_write: Called before what answers changes.
        make: Makes what answers at a mode.
        gap: Whether there is no room for a second copy, so that nobody is answered meanwhile.
        snap: Whether a mode is answered from its compact graph.
    """

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        paths: Paths,
        mode: str,
        writes: Writes,
        line: Line,
        clock: Callable[[], float],
        before_write: Callable[[], None],
        make: Callable[[str], Runner],
        gap: bool,
        snap: bool,
    ) -> None:
        self.mode = mode
        self.phase = Phase.IDLE
        self.ledger = Ledger(wear={layer.name: np.zeros(layer.units, np.int32) for layer in paths.table.layers})
        self._name, self._bundle, self._paths, self._writes, self._line = name, bundle, paths, writes, line
        self._clock, self._make, self._gap, self._snap = clock, make, gap, snap
        self._before_write = before_write
        self._answers = mode
        """Mode whose network answers who comes now: where there is a gap, who comes in it waits for the next one."""
        self._runner = make(mode)
        self._current: Operation | None = None
        self._sizes: list[int] = []
        self._done = 0
        self._begun_s = self._next_s = 0.0
        self._due_s = 0.0

    @property
    def place(self) -> Place:
        """State that answers now: a mode's, always."""
        return self._answers, self._answers, 0

    @property
    def share(self) -> float:
        """Share of the bytes that are written."""
        return 0.0 if self._current is None else self._current.progress

    @property
    def ends(self) -> tuple[str, str]:
        """The modes it is between."""
        return self.mode, self.mode if self._current is None else self._current.target

    @property
    def dense(self) -> bool:
        """Whether the dense graph answers now."""
        return self._name == "flip" and not self._snap

    def runner(self) -> Runner:
        """What answers now."""
        return self._runner

    def switch(self, mode: str) -> Operation:
        """Begin to write a second copy.

        Raises:
            UnknownMode: The plan has no such mode.
            Busy: One is written already.
        """
        if self._current is not None:
            raise Busy(f"switch to {mode}: found a switch to {self._current.target} under way, expected none; wait")
        self._bundle.mode(mode)
        operation = Operation(self.mode, mode, self._signal, self._retarget)
        if mode == self.mode:
            operation.advance(1.0)
            operation.finish(Result(Outcome.COMMITTED, mode, "", 0.0, 0, 0.0))
            return operation
        self.phase = after(self.phase, Event.SWITCH)
        self._begun_s = self._clock()
        self._set_out(operation)
        return operation

    def due_s(self) -> float | None:
        """When the next piece is due."""
        return None if self._current is None else self._next_s

    def advance(self, now_s: float) -> None:
        """Write the next piece, or exchange what answers once all is written."""
        operation = self._current
        assert operation is not None, "only a switch under way is advanced"
        if self._done < len(self._sizes):
            self._write(operation, now_s)
            return
        self.ledger.walking_s += now_s - self._begun_s
        self.ledger.switches += 1
        for name in self._changed(operation.target):
            self.ledger.wear[name] += 1
        self._before_write()
        self.mode, self._current, self.phase = operation.target, None, Phase.IDLE
        self._answer_from(self.mode)
        operation.finish(Result(Outcome.COMMITTED, self.mode, "", now_s - self._begun_s, 0, 0.0))

    def stop(self, now_s: float) -> None:
        """The trace is over."""
        if self._current is not None:
            self.ledger.walking_s += now_s - self._begun_s

    def bytes_to(self, mode: str) -> list[int]:
        """Bytes of each thing that is written to reach a mode from the present one."""
        if self._name == "reload":
            return [self._bundle.mode(mode).weight_bytes]
        layers = self._paths.table.layers
        changed = self._changed(mode)
        return [layer.row_bytes * layer.units for layer in layers if layer.name in changed]

    def _changed(self, mode: str) -> list[str]:
        start, end = self._paths.states[self.mode], self._paths.states[mode]
        if self._name == "reload":
            return list(self._paths.table.names)
        return [name for name in self._paths.table.names if not np.array_equal(start[name], end[name])]

    def _set_out(self, operation: Operation) -> None:
        self._current = operation
        left = sum(self.bytes_to(operation.target))
        budget = self._writes.bytes_per_increment
        self._sizes = [budget] * (left // budget) + ([left % budget] if left % budget else [])
        self._done = 0
        self._next_s = self._due_s = self._clock()

    def _write(self, operation: Operation, now_s: float) -> None:
        writes, interval = self._writes, interval_s(self._writes)
        if self._gap:
            # All in one go, since nobody can be answered before the end; at the pace that the memory takes.
            size = sum(self._sizes)
            physical = rounded(size, writes) * mean_writes(writes)
            seconds = max(write_seconds(physical, writes), (len(self._sizes) - 1) * interval)
            self._next_s = self._line.job(now_s, seconds)
            self._done = len(self._sizes)
            self._before_write()
            self._answer_from(operation.target)
            self.ledger.write(now_s, size, physical, seconds)
            operation.advance(1.0)
            return
        size = self._sizes[self._done]
        physical = rounded(size, writes) * mean_writes(writes)
        seconds = write_seconds(physical, writes)
        self._due_s = max(self._due_s, now_s - interval) + interval
        # A device that computes nothing while it writes keeps callers out; on others the copy is made beside them.
        quiet = writes.quiesce_required
        done_s = self._line.job(now_s, seconds) if quiet else now_s + seconds
        self.ledger.write(now_s, size, physical, seconds if quiet else 0.0)
        self._done += 1
        operation.advance(self._done / len(self._sizes))
        self._next_s = max(self._due_s, done_s) if self._done < len(self._sizes) else done_s

    def _answer_from(self, mode: str) -> None:
        if mode != self._answers:
            self._answers, self._runner = mode, self._make(mode)

    def _signal(self, operation: Operation, event: Event) -> None:
        raise AssertionError(f"{event}: nobody sends a virtual switch anything")

    def _retarget(self, operation: Operation, mode: str) -> Operation:
        """Drop the copy and begin another, or none if the old mode is wanted again."""
        assert operation is self._current, "only the switch under way is turned"
        self._bundle.mode(mode)
        after(self.phase, Event.RETARGET)
        turned = Operation(self.mode, mode, self._signal, self._retarget)
        now_s = self._clock()
        operation.finish(Result(Outcome.RETARGETED, self.mode, "", now_s - self._begun_s, 0, 0.0))
        self.ledger.turned += 1
        if self._gap and self._done:
            # What answered is gone: the load under way is finished first, then the other network is loaded.
            keep_s = self._next_s
            self._set_out(turned)
            self._next_s = self._due_s = keep_s
            return turned
        self._set_out(turned)
        if mode == self.mode:
            self._sizes = []
        return turned
