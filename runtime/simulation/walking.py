"""The controller on a virtual clock: the same table, way, increments, bank and questions, and another way of waiting.

``runtime.walking.controller`` waits on a thread until an increment is due. Here whoever owns the clock asks when
something is due and calls ``advance`` then. What is decided at that moment is decided by ``runtime.walking.helm``, as
on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from device_profiles.schema import Writes
from runtime.errors import BundleError, Busy
from runtime.memory.recorder import Recorder
from runtime.plan.costs import mean_writes, split, write_seconds
from runtime.simulation.ledger import Ledger
from runtime.simulation.line import Line
from runtime.simulation.paths import Paths, Place
from runtime.simulation.questions import Asking, Questions
from runtime.walking.bank import Increment
from runtime.walking.engine import Engine, LiveRunner, Runner
from runtime.walking.helm import Helm
from runtime.walking.operation import Operation, Outcome, Result
from runtime.walking.pacer import Pacer
from runtime.walking.retarget import Way
from runtime.walking.route import Leg
from runtime.walking.rows import RowTable
from runtime.walking.table import Event, Phase, after
from runtime.walking.walk import Walk


class _Routes:
    """The plan of a strategy, as a helm asks for it."""

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
        raise AssertionError("the walker asks, since it knows the state")

    def guard(self, runner: Runner, leg: Leg) -> str:
        raise AssertionError("the walker asks, since it knows the state")


class Walker(Helm):
    """Walks one increment after the other, under policy in-place or shadow.

    Args:
        paths: What the strategy writes.
        live: The network, which stands at ``mode``.
        mode: Where to begin.
        writes: The device's limits.
        line: The callers' line, which an increment enters where they take turns.
        clock: Virtual seconds.
        before_write: Called before weights change.
        questions: The canary's and the guard's.
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
        questions: Questions,
        snap: bool,
    ) -> None:
        engine = Engine(live, exclusive=live.bank.exclusive, queue_limit=1)
        super().__init__(_Routes(paths, live), engine, mode, Recorder(clock=clock))
        self.ledger = Ledger(wear={layer.name: np.zeros(layer.units, np.int32) for layer in paths.table.layers})
        self._paths, self._live, self._writes, self._line, self._clock = paths, live, writes, line, clock
        self._before_write, self._questions = before_write, questions
        self._snap = snap
        self._next_s = self._begun_s = 0.0
        self._ahead: Iterator[tuple[int, int, int]] = iter(())
        self._back = False
        """Whether what is ahead leads back."""
        self._number = 0
        """Increments written since it set out."""
        self._behind_bytes = 0
        """Bytes that the second copy lacks, under policy shadow."""
        self._asking: Asking | None = None

    @property
    def place(self) -> Place:
        """State that answers now."""
        walk = self._walk
        if walk is None or not walk.way.legs:
            return self._at, self._at, 0
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
            return self._at, self._at
        leg, _ = walk.way.place(walk.position)
        return leg.begin, leg.end

    @property
    def dense(self) -> bool:
        """Whether the dense graph answers now."""
        return self._walk is not None or not self._snap

    @property
    def asking(self) -> bool:
        """Whether the canary or the guard is being asked."""
        return self._asking is not None

    @property
    def _at(self) -> str:
        """Mode that the weights stand at where they are on no leg."""
        return self._mode if self._walk is None else self._walk.way.at

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
        self._begun_s = self._clock()
        pacer = Pacer(self._writes, self._begun_s)
        self._current, self._walk = operation, Walk(operation, way, way.start, pacer, self._live)
        self._set_out(self._walk, self._begun_s)
        return operation

    def due_s(self) -> float | None:
        """When the next increment, the answer of a question or the end of the walk is due."""
        walk = self._walk
        if walk is None:
            return None
        if self._asking is not None:
            return self._asking.due_s
        # Whoever turns it wakes it up; the memory has to be free all the same.
        return walk.pacer.free_s if self._woken(walk) else self._next_s

    def advance(self, now_s: float) -> None:
        """Turn if somebody wants that; else hear what canary or guard say, write the next increment, or end."""
        walk = self._walk
        assert walk is not None, "only a walk is advanced"
        if self._asking is not None:
            if self._asking.done(now_s):
                self._asking = None
                self._hear(walk, now_s)
            return
        if self._woken(walk):
            self._turn(walk, now_s)
        step = next(self._ahead, None)
        if step is not None:
            self._write(walk, now_s, *step)
        elif self._back:
            self._finish(walk, now_s, Event.RETURN, Outcome.ROLLED_BACK if walk.reason else Outcome.CANCELLED)
        else:
            assert self._arrive(walk), "nothing comes between on a virtual clock"
            self._ask(now_s, *self._questions.canary_cost(walk.operation.target))

    def stop(self, now_s: float) -> None:
        """The trace is over."""
        if self._walk is not None:
            self.ledger.walking_s += now_s - self._begun_s

    def _woken(self, walk: Walk) -> bool:
        """Whether the way is to change: another mode was asked for, or it is to go back."""
        return self._current is not walk.operation or self._back != (self._phase is Phase.ROLLING_BACK)

    def _turn(self, walk: Walk, now_s: float) -> None:
        """Take the way that is wanted now."""
        if self._current is not walk.operation:
            self._take_up(walk)
            self.ledger.turned += 1
        if self._phase is Phase.ROLLING_BACK:
            walk.turn_back(self._turned(walk, self._mode))
        self._set_out(walk, now_s)

    def _set_out(self, walk: Walk, now_s: float) -> None:
        """Begin to write along the present way; the first increment is due as soon as the memory is free."""
        self._back, self._number = self._phase is Phase.ROLLING_BACK, 0
        walk.pacer.turn(now_s)
        self._next_s = walk.pacer.due_s
        self._ahead = split(walk.way.chunks, self._paths.table, self._writes, lambda: walk.pacer.budget, walk.position)

    def _write(self, walk: Walk, now_s: float, begin: int, end: int, size: int) -> None:
        table, chunks, writes = self._paths.table, walk.way.chunks, self._writes
        increment = Increment.gather(table, chunks, begin, end)
        exclusive = self._live.bank.exclusive
        # The copy that answers next lacks the increment before, too.
        physical = (size if exclusive else size + self._behind_bytes) * mean_writes(writes)
        seconds = write_seconds(physical, writes)
        walk.pacer.begin(now_s)
        self._before_write()
        self._live.bank.write(increment)
        done_s = self._line.job(now_s, seconds) if exclusive else now_s + seconds
        stall_s = seconds if exclusive else 0.0
        self._behind_bytes = size
        walk.pacer.end(done_s, done_s, stall_s)
        walk.advance(end, size, back=self._back)
        self.ledger.write(now_s, size, physical, stall_s)
        for name, rows, _ in increment.writes:
            self.ledger.wear[name][rows] += 1
        self._number += 1
        self._next_s = walk.pacer.due_s if end < len(chunks) else walk.pacer.free_s
        every = self._questions.every
        if every and self._phase is Phase.WALKING and self._number % every == 0:
            self._ask(done_s, *self._questions.guard_cost())

    def _ask(self, now_s: float, seconds: float, macs: int) -> None:
        self._asking = Asking(self._line, now_s, seconds)
        self.ledger.asked.append((now_s, macs))

    def _hear(self, walk: Walk, now_s: float) -> None:
        """What the canary says at the end, or the guard on the way."""
        if self._phase is not Phase.VERIFYING:
            leg, _ = walk.way.place(walk.position)
            if reason := self._questions.guard(self.place, self._live, leg):
                self._doubt(walk, leg, reason)
            self._next_s = max(self._next_s, now_s)
            return
        target = walk.operation.target
        reason = self._questions.canary(self.place, self._live)
        if not reason:
            self._mode = target
            self._finish(walk, now_s, Event.ACCEPT, Outcome.COMMITTED)
            return
        if target == self._mode:
            raise BundleError(f"mode {target}: {reason}; there is no other to go back to: run `geoshift verify`")
        self._refuse(walk, reason)

    def _finish(self, walk: Walk, now_s: float, event: Event, outcome: Outcome) -> None:
        """The switch is over."""
        self.ledger.walking_s += now_s - self._begun_s
        self.ledger.switches += outcome is Outcome.COMMITTED
        self.ledger.rolled_back += outcome is Outcome.ROLLED_BACK
        self._end(walk, event, outcome)
