"""Walks a network from mode to mode, one increment at a time, and says honestly how it ended."""

from __future__ import annotations

import threading
import time
from functools import partial

from device_profiles.schema import Writes
from runtime.errors import Busy, Closed, JournalError, NoThread
from runtime.memory.recorder import Recorder
from runtime.plan.costs import retried_bytes, split, write_seconds
from runtime.walking.allocator import give_back
from runtime.walking.bank import Increment, Retries
from runtime.walking.behind import behind
from runtime.walking.engine import Engine, LiveRunner, Runner
from runtime.walking.helm import Helm
from runtime.walking.operation import Operation, Outcome, Result
from runtime.walking.pacer import Pacer
from runtime.walking.retarget import Way
from runtime.walking.rows import RowTable
from runtime.walking.table import Event, Phase, after
from runtime.walking.walk import Walk
from runtime.walking.walkable import Plan


class Controller(Helm):
    """The one that decides about the mode of one network.

    Args:
        plan: Runners and routes.
        engine: What answers; it must stand at ``mode``, or where ``go_on`` says.
        mode: Mode to begin with.
        writes: Write budget of the device.
        live: The live runner, when the engine answers from it; None when it answers from a compact one.
        recorder: Is told of every walk; without one, nothing is remembered over a restart.
        release: Release of the plan, recorded with a mode whose canary was right.
        guard_every: Increments between two questions of the guard on the way; 0 for none.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        mode: str,
        writes: Writes,
        live: LiveRunner | None,
        recorder: Recorder | None = None,
        *,
        release: int = 0,
        guard_every: int = 0,
    ) -> None:
        super().__init__(plan, engine, mode, recorder or Recorder())
        self._writes = writes
        self._live = live
        self._release = release
        self._guard_every = guard_every
        self._thread: threading.Thread | None = None

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
            if not legs:
                operation = self._operation(target)
                operation.advance(1.0)
                operation.finish(Result(Outcome.COMMITTED, target, "", 0.0, 0, 0.0))
                return operation
            return self._begin(target, Way.along(self._mode, legs, self._plan.table))

    def go_on(self, target: str, way: Way) -> Operation:
        """Go on with a walk that a restart cut short; the engine must stand at the begin of the way.

        Args:
            target: Where the way leads, the mode that was left included.
            way: From the present state.

        Raises:
            NoThread: The system has no thread to spare.
        """
        with self._changed:
            # The weights stand on the way already: whatever comes first, a fault or a cancel, they have to go back.
            return self._begin(target, way, self._live)

    def close(self) -> None:
        """Stop a walk where it stands and take no more switches; the weights stay on a state of the path."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _begin(self, target: str, way: Way, live: LiveRunner | None = None) -> Operation:
        """Start the thread of a walk; ``live`` is what stands on the way already."""
        operation = self._operation(target)
        walk = Walk(operation, way, way.start, Pacer(self._writes, time.monotonic()), live)
        self._phase = after(self._phase, Event.SWITCH)
        self._current, self._walk = operation, walk
        self._thread = threading.Thread(target=self._run, args=(walk,), name="geoshift-walk", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._phase, self._current, self._walk, self._thread = Phase.IDLE, None, None, None
            raise NoThread(f"switch to {target}: {error}; nothing was changed, call again later") from error
        return operation

    def _run(self, walk: Walk) -> None:
        """Walk, verify, and end with one result; runs on a thread of its own."""
        self._engine.longest_stall_s = 0.0
        while self._under_way(walk):
            back = False
            try:
                self._take_up(walk)
                back = self._phase is Phase.ROLLING_BACK
                if back:
                    self._return(walk)
                else:
                    self._go(walk)
            except Exception as error:  # noqa: BLE001  # a walk must end with a result, whatever a device throws at it
                self._fault(walk, error)
                if back:
                    self._rebuild(walk)
        # Once this switch has ended, the phase is that of the next one.
        if self._walk is walk:
            self._recorder.stopped()
            walk.note("the network was closed during the walk")
            self._end(walk, None, Outcome.FAILED)

    def _go(self, walk: Walk) -> None:
        """Walk to the mode asked for, until it is reached or the phase says to turn or to end."""
        self._recorder.begun(self._mode, walk.operation.target, walk.way, "walking")
        live = walk.live = self._lift()
        while self._write(walk, live, Phase.WALKING):
            # Paused, cancelled or turned since the last write: look again.
            if self._arrive(walk):
                self._verify(walk, live)
                return

    def _return(self, walk: Walk) -> None:
        """Walk back to the mode that was left, if anything of the walk is in the weights that answer."""
        if self._engine.closed:
            self._end(walk, Event.FAULT, Outcome.FAILED)
            return
        outcome = Outcome.ROLLED_BACK if walk.reason else Outcome.CANCELLED
        # Otherwise nothing was written, or a failed write made the engine answer from weights rebuilt from the bundle.
        if walk.live is not None and walk.live is self._live:
            walk.turn_back(self._turned(walk, self._mode))
            self._recorder.begun(self._mode, self._mode, walk.way, "rolling-back")
            if not self._write(walk, walk.live, Phase.ROLLING_BACK):
                return
            try:
                self._rest(self._plan.rest(self._mode, walk.live), walk.live)
            except Exception as error:  # noqa: BLE001  # the live network stands at the mode and answers on
                self._fault(walk, error)
        self._remember_rest(walk)
        self._end(walk, Event.RETURN, outcome)

    def _rebuild(self, walk: Walk) -> None:
        """The way back failed too: answer from the mode that was left as the bundle has it, or answer no more."""
        try:
            if not self._engine.closed and self._live is walk.live:
                # Not made beforehand: persistent weights are rewritten for it, and they answer until then.
                self._engine.replace(self._rescue)
        except Exception as error:  # noqa: BLE001  # the last line of defence: it answers no more; say why
            self._fault(walk, error)
        if self._engine.closed:
            self._end(walk, Event.FAULT, Outcome.FAILED)
        else:
            self._remember_rest(walk)
            self._end(walk, Event.RETURN, Outcome.ROLLED_BACK)

    def _remember_rest(self, walk: Walk) -> None:
        """Record that the mode that was left is reached again; if that fails, what is recorded leads there too."""
        try:
            self._recorder.rested(self._mode)
        except JournalError as error:
            with self._changed:
                walk.note(str(error))

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
        give_back()

    def _write(self, walk: Walk, live: LiveRunner, phase: Phase) -> bool:
        """Write increments while ``phase`` lasts; True when the last one is written."""
        table, chunks, ask_every = self._plan.table, walk.way.chunks, self._guard_every
        writes, pacer = self._writes, walk.pacer
        pacer.turn(time.monotonic())
        ahead = split(chunks, table, writes, lambda: pacer.budget, walk.position)
        for number, (begin, end, size) in enumerate(ahead, 1):
            if not self._await_turn(walk, phase, pacer.due_s):
                return False
            pacer.begin(time.monotonic())
            increment = Increment.gather(table, chunks, begin, end)
            self._recorder.intend(end)
            writing = _Writing(live, increment, size, table, writes)
            stall_s = self._engine.between_jobs(writing, self._rescue)
            # Until then the memory is busy with what it was given.
            free_s = writing.begun_s + write_seconds(size + writing.retried, writes)
            pacer.end(time.monotonic(), free_s, stall_s)
            walk.pauses += writes.quiesce_required
            walk.advance(end, size, back=phase is Phase.ROLLING_BACK)
            walk.wrote_again(sum(len(rows) for _, rows in writing.retries), writing.retried)
            self._recorder.wrote(chunks, begin, end, size, writing.retries, writing.retried)
            if ask_every and phase is Phase.WALKING and number % ask_every == 0:
                self._ask_guard(walk, live)
        return self._await_turn(walk, phase, pacer.free_s)

    def _ask_guard(self, walk: Walk, live: LiveRunner) -> None:
        """Turn back if the weights on the way answer worse than the plan says."""
        leg, _ = walk.way.place(walk.position)
        if reason := behind(partial(self._plan.guard, live, leg)):
            self._doubt(walk, leg, reason)

    def _verify(self, walk: Walk, live: LiveRunner) -> None:
        """Decide by the canary, asked of the weights just written and of what will answer, if the mode is reached."""
        target = walk.operation.target
        self._recorder.stands("verifying")
        runner = self._plan.rest(target, live)
        reason = behind(partial(self._plan.canary, live))
        if not reason and runner is not live:
            reason = behind(partial(self._plan.canary, runner))
        if reason:
            if target == self._mode:
                self._engine.close()  # there is no other mode to go back to
            self._refuse(walk, reason)
            return
        self._recorder.rested(target, self._release)
        self._rest(runner, live)
        self._mode = target
        self._end(walk, Event.ACCEPT, Outcome.COMMITTED)

    def _rescue(self) -> LiveRunner:
        """The mode that was left, rebuilt from the bundle."""
        self._live = self._plan.live(self._mode)
        return self._live


class _Writing:
    """One increment on its way into the memory, while the engine is closed to callers where they take turns.

    Attributes:
        begun_s: When writing began, on the monotonic clock.
        retries: What was written again.
        retried: Bytes of that.
    """

    def __init__(self, live: LiveRunner, increment: Increment, size: int, table: RowTable, writes: Writes) -> None:
        self._live, self._increment, self._size, self._table, self._writes = live, increment, size, table, writes
        self.begun_s = 0.0
        self.retries: Retries = ()
        self.retried = 0

    def __call__(self) -> None:
        """Write; a declared pause lasts as long as the memory is busy, though it may take what it is given sooner."""
        self.begun_s = time.monotonic()
        self.retries = self._live.bank.write(self._increment)
        self.retried = retried_bytes(self.retries, self._table, self._writes)
        if self._writes.quiesce_required:
            ready = self.begun_s + write_seconds(self._size + self.retried, self._writes)
            time.sleep(max(0.0, ready - time.monotonic()))
