"""Walks a network from mode to mode, one increment at a time, and says honestly how it ended."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from device_profiles.schema import Writes
from runtime.bank import Increment, increments
from runtime.chunks import ChunkList
from runtime.engine import Engine, LiveRunner, Runner
from runtime.errors import Busy, Closed, IllegalEvent, NoThread
from runtime.operation import Operation, Outcome, Result
from runtime.route import Leg
from runtime.rows import RowTable
from runtime.table import Event, Phase, after


class Plan(Protocol):
    """What a controller needs to know of the plan it walks."""

    table: RowTable

    def route(self, begin: str, end: str) -> tuple[Leg, ...]:
        """Legs between two modes."""
        ...

    def live(self, mode: str) -> LiveRunner:
        """Fresh live network that stands at a mode."""
        ...

    def rest(self, mode: str, live: LiveRunner) -> Runner:
        """What answers once a mode is reached: its compact network, or ``live`` itself."""
        ...

    def canary(self, runner: Runner) -> str:
        """Why the runner may not be trusted, or nothing."""
        ...


@dataclass
class _Account:
    """Mutable account of one operation, touched by its walking thread alone."""

    operation: Operation
    chunks: ChunkList
    live: LiveRunner | None = None
    """What is written to; None before the first write."""
    position: int = 0
    written: int = 0
    begun: float = 0.0
    reason: str = ""

    def note(self, *trouble: str) -> None:
        """Add to why it ended so."""
        self.reason = "; then ".join([part for part in (self.reason, *trouble) if part])


class Controller:
    """The one that decides about the mode of one network.

    Args:
        plan: Runners and routes.
        engine: What answers; it must stand at ``mode``.
        mode: Mode to begin with.
        writes: Write budget of the device.
        live: The live runner, when the engine answers from it; None when it answers from a compact one.
    """

    def __init__(self, plan: Plan, engine: Engine, mode: str, writes: Writes, live: LiveRunner | None) -> None:
        self._plan = plan
        self._engine = engine
        self._mode = mode
        self._writes = writes
        self._budget = writes.bytes_per_increment
        self._live = live
        self._phase = Phase.IDLE
        self._changed = threading.Condition()
        self._current: Operation | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def mode(self) -> str:
        """Mode reached last; during a walk the one it left."""
        return self._mode

    @property
    def phase(self) -> Phase:
        """What the controller is doing."""
        return self._phase

    def switch(self, target: str) -> Operation:
        """Begin to walk to another mode.

        Raises:
            UnknownMode: No path leads there.
            Busy: Another switch is under way.
            Closed: The network was closed, or failed.
            NoThread: The system has no thread to spare.
        """
        with self._changed:
            if self._closed or self._phase is Phase.FAILED:
                raise Closed(f"switch: the network is {'closed' if self._closed else 'failed'}; open it again")
            if self._current is not None:
                raise Busy(
                    f"switch to {target}: found a switch {self._current.begin} → {self._current.target} under way, "
                    "expected none; wait for it or cancel it"
                )
            legs = self._plan.route(self._mode, target)
            operation = Operation(self._mode, target, self._handle)
            if not legs:
                operation.advance(1.0)
                operation.finish(Result(Outcome.COMMITTED, target, "", 0.0, 0, 0.0))
                return operation
            walk = _Account(operation, ChunkList.join([leg.chunks for leg in legs]), begun=time.monotonic())
            self._phase = after(self._phase, Event.SWITCH)
            self._current = operation
            self._thread = threading.Thread(target=self._run, args=(walk,), name="geoshift-walk", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                self._phase, self._current, self._thread = Phase.IDLE, None, None
                raise NoThread(f"switch to {target}: {error}; nothing was changed, call again later") from error
            return operation

    def close(self) -> None:
        """Stop a walk where it stands and take no more switches; the weights stay on a state of the path."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _handle(self, operation: Operation, event: Event) -> None:
        """Apply an event that the caller of an operation sends."""
        with self._changed:
            if operation is not self._current:
                raise IllegalEvent(f"{event.value}: the switch {operation.begin} → {operation.target} is over")
            self._phase = after(self._phase, event)
            self._changed.notify_all()

    def _run(self, walk: _Account) -> None:
        """Walk, verify, and end with one result; runs on a thread of its own."""
        self._engine.longest_stall_s = 0.0
        try:
            self._go(walk)
        except Exception as error:  # noqa: BLE001  # a walk must end with a result, whatever a device throws at it
            self._fault(walk, error)
        # Once this switch has ended, the phase is that of the next one.
        if self._current is walk.operation and self._phase is Phase.ROLLING_BACK:
            try:
                self._return(walk)
            except Exception as error:  # noqa: BLE001  # as above
                self._fault(walk, error)
                self._rebuild(walk)
        if self._current is walk.operation:
            walk.note("the network was closed during the walk")
            self._end(walk, None, Outcome.FAILED)

    def _go(self, walk: _Account) -> None:
        """Walk to the mode asked for, until it is reached or the phase says to turn or to end."""
        live = walk.live = self._lift()
        while self._write(walk, live, walk.chunks, Phase.WALKING):
            # Paused or cancelled since the last write: look again.
            if self._arrive():
                self._verify(walk, live)
                return

    def _return(self, walk: _Account) -> None:
        """Walk back to the mode that was left, if anything of the walk is in the weights that answer."""
        if self._engine.closed:
            self._end(walk, Event.FAULT, Outcome.FAILED)
            return
        outcome = Outcome.ROLLED_BACK if walk.reason else Outcome.CANCELLED
        # Otherwise nothing was written, or a failed write made the engine answer from weights rebuilt from the bundle.
        if walk.live is not None and walk.live is self._live:
            walk.position = len(walk.chunks) - walk.position
            if not self._write(walk, walk.live, walk.chunks.reversed(), Phase.ROLLING_BACK):
                return
            try:
                self._rest(self._plan.rest(self._mode, walk.live), walk.live)
            except Exception as error:  # noqa: BLE001  # the live network stands at the mode and answers on
                self._fault(walk, error)
        self._end(walk, Event.RETURN, outcome)

    def _rebuild(self, walk: _Account) -> None:
        """The way back failed too: answer from the mode that was left as the bundle has it, or answer no more."""
        try:
            if not self._engine.closed and self._live is walk.live:
                self._engine.swap(self._rescue())
        except Exception as error:  # noqa: BLE001  # the last line of defence: stop answering and say why
            self._fault(walk, error)
            self._engine.close()
        if self._engine.closed:
            self._end(walk, Event.FAULT, Outcome.FAILED)
        else:
            self._end(walk, Event.RETURN, Outcome.ROLLED_BACK)

    def _fault(self, walk: _Account, error: Exception) -> None:
        """Note what went wrong, and turn back if that is not under way."""
        walk.note(*(f"{type(one).__name__}: {one}" for one in _causes(error)))
        with self._changed:
            if self._phase is not Phase.ROLLING_BACK:
                self._phase = after(self._phase, Event.FAULT)

    def _lift(self) -> LiveRunner:
        """Answer from the live network, built anew if a compact one answers now."""
        if self._live is None:
            live = self._plan.live(self._mode)
            self._engine.swap(live)
            self._live = live
        return self._live

    def _rest(self, runner: Runner, live: LiveRunner) -> None:
        """Answer from what a mode rests on."""
        self._engine.swap(runner)
        self._live = live if runner is live else None

    def _write(self, walk: _Account, live: LiveRunner, chunks: ChunkList, phase: Phase) -> bool:
        """Write increments while ``phase`` lasts; True when the last one is written."""
        table = self._plan.table
        interval, due = 1.0 / self._writes.increments_per_second, time.monotonic()
        self._budget = self._writes.bytes_per_increment
        for begin, end, size in increments(chunks, table, lambda: self._budget, walk.position):
            if not self._await_turn(phase, due):
                return False
            # A walk that was held up does not make up for it by writing faster.
            due = max(due, time.monotonic() - interval) + interval
            increment = Increment.gather(table, chunks, begin, end)
            stall_s = self._engine.between_jobs(partial(live.bank.write, increment), self._rescue)
            if stall_s * 1e3 > self._writes.stall_budget_ms:
                # Callers waited longer than the device allows: write less at once for the rest of this walk.
                self._budget = max(1, self._budget // 2)
            walk.position = end
            walk.written += size
            done = end / len(chunks)
            walk.operation.advance(done if phase is Phase.WALKING else 1.0 - done)
        return self._await_turn(phase, 0.0)

    def _await_turn(self, phase: Phase, due: float) -> bool:
        """Wait until the next increment is due; False when the walk is to turn or end."""
        with self._changed:
            while True:
                left = due - time.monotonic()
                paused = self._phase is Phase.PAUSED and phase is Phase.WALKING
                if self._closed or not (paused or self._phase is phase):
                    return False
                if not paused and left <= 0:
                    return True
                self._changed.wait(None if paused else min(left, threading.TIMEOUT_MAX))

    def _arrive(self) -> bool:
        """All is written: verify from now on, unless a pause or a cancellation came first."""
        with self._changed:
            if self._phase is not Phase.WALKING:
                return False
            self._phase = after(self._phase, Event.ARRIVE)
            return True

    def _verify(self, walk: _Account, live: LiveRunner) -> None:
        """Decide by the canary, asked of the weights just written and of what will answer, if the mode is reached."""
        target = walk.operation.target
        runner = self._plan.rest(target, live)
        if reason := self._plan.canary(live) or ("" if runner is live else self._plan.canary(runner)):
            walk.note(f"{target}: {reason}")
            with self._changed:
                self._phase = after(self._phase, Event.REJECT)
            return
        self._rest(runner, live)
        self._mode = target
        self._end(walk, Event.ACCEPT, Outcome.COMMITTED)

    def _rescue(self) -> LiveRunner:
        """The mode that was left, rebuilt from the bundle in fresh memory."""
        self._live = self._plan.live(self._mode)
        return self._live

    def _end(self, walk: _Account, event: Event | None, outcome: Outcome) -> None:
        """Say the final word."""
        result = Result(
            outcome=outcome,
            mode=self._mode,
            reason=walk.reason,
            seconds=time.monotonic() - walk.begun,
            bytes_written=walk.written,
            longest_stall_ms=self._engine.longest_stall_s * 1e3,
        )
        with self._changed:
            if event is not None:
                self._phase = after(self._phase, event)
            self._current = None
        behind = {Outcome.COMMITTED: 1.0, Outcome.FAILED: walk.operation.progress}
        walk.operation.advance(behind.get(outcome, 0.0))
        walk.operation.finish(result)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and those it came on top of, the first one first."""
    before = None if error.__suppress_context__ else error.__context__
    return [*(_causes(before) if before is not None else []), error]
