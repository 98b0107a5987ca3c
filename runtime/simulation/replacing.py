"""The rivals of walking: what answers is replaced at once, by a copy of what changes or by another network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from device_profiles.schema import Writes
from runtime.errors import Busy
from runtime.plan.bundle import Bundle
from runtime.plan.costs import interval_s, mean_writes, rounded, write_seconds
from runtime.simulation.ledger import Ledger
from runtime.simulation.line import Line
from runtime.simulation.paths import Paths, Place
from runtime.walking.engine import Runner
from runtime.walking.operation import Operation, Outcome, Result
from runtime.walking.pacer import Pacer
from runtime.walking.table import Event, Phase, after


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
        self._pacer = Pacer(writes, 0.0)
        self._sizes: list[int] = []
        self._done = 0
        self._begun_s = self._next_s = 0.0

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

    @property
    def asking(self) -> bool:
        """Never: these are played without a canary, at their best."""
        return False

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
        self._pacer = Pacer(self._writes, self._begun_s)
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
        # Where nobody can be answered before the end, no pauses are made for callers.
        budget = self._writes.bytes_per_increment if self._gap else self._pacer.budget
        self._sizes = [budget] * (left // budget) + ([left % budget] if left % budget else [])
        self._done = 0
        self._pacer.turn(self._clock())
        self._next_s = self._pacer.due_s

    def _write(self, operation: Operation, now_s: float) -> None:
        writes = self._writes
        if self._gap:
            # All in one go, since nobody can be answered before the end; at the pace that the memory takes.
            size = sum(self._sizes)
            physical = rounded(size, writes) * mean_writes(writes)
            seconds = max(write_seconds(physical, writes), (len(self._sizes) - 1) * interval_s(writes))
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
        self._pacer.begin(now_s)
        # A device that computes nothing while it writes keeps callers out; on others the copy is made beside them.
        quiet = writes.quiesce_required
        done_s = self._line.job(now_s, seconds) if quiet else now_s + seconds
        self.ledger.write(now_s, size, physical, seconds if quiet else 0.0)
        self._done += 1
        operation.advance(self._done / len(self._sizes))
        self._pacer.end(done_s, done_s, 0.0)
        self._next_s = self._pacer.due_s if self._done < len(self._sizes) else done_s

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
            self._next_s = keep_s
            return turned
        self._set_out(turned)
        if mode == self.mode:
            self._sizes = []
        return turned
