"""The state of a switch, which those who asked for it and the thread that walks it share under one lock."""

from __future__ import annotations

import threading
import time

from runtime.errors import IllegalEvent
from runtime.memory.recorder import Recorder
from runtime.walking.engine import Engine
from runtime.walking.operation import Operation, Outcome, Result
from runtime.walking.retarget import Way, turn
from runtime.walking.route import Leg
from runtime.walking.table import Event, Phase, after
from runtime.walking.walk import Walk
from runtime.walking.walkable import Plan


class Helm:
    """Who steers, and where to.

    Callers pause, resume, cancel and retarget the current operation. The walking thread asks here whether it may write
    on, and says here what became of it. When another mode is asked for, the new operation is the current one at once;
    the walk takes it up after its present increment.

    Args:
        plan: Routes.
        engine: Knows the longest stall.
        mode: Mode to begin with.
        recorder: Is told when a walk is paused.
    """

    def __init__(self, plan: Plan, engine: Engine, mode: str, recorder: Recorder) -> None:
        self._plan = plan
        self._engine = engine
        self._mode = mode
        self._recorder = recorder
        self._phase = Phase.IDLE
        self._changed = threading.Condition()
        self._current: Operation | None = None
        self._walk: Walk | None = None
        """The walk under way; its operation is the current one but for the moment until it has turned."""
        self._closed = False

    @property
    def mode(self) -> str:
        """Mode reached last; during a walk the one it left."""
        return self._mode

    @property
    def phase(self) -> Phase:
        """What the controller is doing."""
        return self._phase

    def _operation(self, target: str) -> Operation:
        return Operation(self._mode, target, self._handle, self._retarget)

    def _handle(self, operation: Operation, event: Event) -> None:
        """Apply an event that the caller of an operation sends."""
        with self._changed:
            self._follow(operation, event)
            self._changed.notify_all()

    def _retarget(self, operation: Operation, target: str) -> Operation:
        """Have the walk turn to another mode as soon as it has written its present increment."""
        with self._changed:
            self._plan.route(self._mode, target)
            if self._walk is not None and self._walk.reason:
                raise IllegalEvent(
                    f"retarget: the walk is on its way back, since {self._walk.reason}; wait for its end"
                )
            self._follow(operation, Event.RETARGET)
            assert self._walk is not None, "a switch under way has a walk"
            if operation is not self._walk.operation:
                operation.finish(Result(Outcome.RETARGETED, self._mode, "", 0.0, 0, 0.0))  # it never had its turn
            self._current = self._operation(target)
            self._changed.notify_all()
            return self._current

    def _follow(self, operation: Operation, event: Event) -> None:
        """The lock must be held."""
        if operation is not self._current:
            raise IllegalEvent(f"{event.value}: the switch {operation.begin} → {operation.target} is over")
        self._phase = after(self._phase, event)

    def _under_way(self, walk: Walk) -> bool:
        """Whether there is anything left to do."""
        with self._changed:
            return self._walk is walk and not self._closed

    def _take_up(self, walk: Walk) -> None:
        """Turn to another mode, if one was asked for."""
        with self._changed:
            if self._current is not walk.operation:
                self._succeed(walk)
                walk.take(self._turned(walk, walk.operation.target))

    def _turned(self, walk: Walk, target: str) -> Way:
        """The way to a mode from where the walk stands."""
        return turn(walk.way, walk.position, target, self._plan.route, self._plan.table)

    def _succeed(self, walk: Walk) -> None:
        """The operation that was turned away from ends; the lock must be held."""
        if self._current is not None and self._current is not walk.operation:
            walk.succeed(self._current, self._mode, self._engine.longest_stall_s)
            self._engine.longest_stall_s = 0.0

    def _fault(self, walk: Walk, error: Exception) -> None:
        """Note what went wrong, and turn back if that is not under way."""
        with self._changed:
            # What was asked for meanwhile cannot be reached either.
            self._succeed(walk)
            walk.note(*(f"{type(one).__name__}: {one}" for one in _causes(error)))
            if self._phase is not Phase.ROLLING_BACK:
                self._phase = after(self._phase, Event.FAULT)

    def _doubt(self, walk: Walk, leg: Leg, reason: str) -> None:
        """The guard is not content with the weights on the way: turn back, if that is not under way."""
        with self._changed:
            self._succeed(walk)
            if self._phase in (Phase.WALKING, Phase.PAUSED):
                walk.note(f"{leg.begin} → {leg.end}: {reason}")
                self._phase = after(self._phase, Event.REJECT)

    def _refuse(self, walk: Walk, reason: str) -> None:
        """The canary says that the mode is not reached: turn back."""
        with self._changed:
            walk.note(f"{walk.operation.target}: {reason}")
            self._phase = after(self._phase, Event.REJECT)

    def _await_turn(self, walk: Walk, phase: Phase, due: float) -> bool:
        """Wait until the next increment is due; False when the walk is to turn or end."""
        recorded = False
        while True:
            with self._changed:
                left = due - time.monotonic()
                paused = self._phase is Phase.PAUSED and phase is Phase.WALKING
                turned = self._current is not walk.operation
                if self._closed or turned or not (paused or self._phase is phase):
                    return False
                if not paused and left <= 0:
                    return True
                if recorded or not paused:
                    self._changed.wait(None if paused else min(left, threading.TIMEOUT_MAX))
                    continue
            # It may stand for long: a restart is to find the place exactly. Not under the lock, a disk may be slow.
            self._recorder.stands("paused")
            recorded = True

    def _arrive(self, walk: Walk) -> bool:
        """All is written: verify from now on, unless a caller's event came first."""
        with self._changed:
            if self._phase is not Phase.WALKING or self._current is not walk.operation:
                return False
            self._phase = after(self._phase, Event.ARRIVE)
            return True

    def _end(self, walk: Walk, event: Event | None, outcome: Outcome) -> None:
        """Say the final word, unless another mode was asked for just now: then the walk goes on."""
        with self._changed:
            if self._current is not walk.operation and event is not None:
                return
            self._succeed(walk)
            if event is not None:
                self._phase = after(self._phase, event)
            result = walk.result(outcome, self._mode, self._engine.longest_stall_s)
            self._current = self._walk = None
        behind = {Outcome.COMMITTED: 1.0, Outcome.FAILED: walk.operation.progress}
        walk.operation.advance(behind.get(outcome, 0.0))
        walk.operation.finish(result)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and those it came on top of, the first one first."""
    before = None if error.__suppress_context__ else error.__context__
    return [*(_causes(before) if before is not None else []), error]
