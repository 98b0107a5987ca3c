"""Carries switches out, one after the other: commands before, the walk, commands after or their undoing, the end."""

from __future__ import annotations

from typing import Final

from device_profiles import GeoshiftError
from runtime.deciding.steering import Steering
from runtime.device.operations import Entry
from runtime.device.switches import Switches
from runtime.device.views import OutcomeName
from runtime.errors import CommandFailed
from runtime.sensing.os_power import OsPower, Undo
from runtime.walking.operation import Operation, Outcome, Result

GLANCE_S: Final = 0.05
"""Between two looks at the progress of a walk, for those who follow it. Its end is noticed at once."""


class Walker:
    """Carries out what a steering decides; run it on a thread of its own.

    Args:
        switches: Where switches come from.
        steering: Is told how they end.
        commands: Mode to the names of the commands before and after a walk to it.
        os_power: Runs them.
    """

    def __init__(
        self,
        switches: Switches,
        steering: Steering,
        commands: dict[str, tuple[tuple[str, ...], tuple[str, ...]]],
        os_power: OsPower,
    ) -> None:
        self._switches = switches
        self._steering = steering
        self._commands = commands
        self._os_power = os_power

    def run(self) -> None:
        """Carry out switch after switch, until the device is closed."""
        while (entry := self._switches.next()) is not None:
            try:
                self._carry(entry)
            except Exception as error:  # noqa: BLE001  # a switch must end with a result, and the next one must have its turn
                if entry.final is None:
                    self._steering.finish(entry, "failed", f"{type(error).__name__}: {error}", None)

    def _carry(self, entry: Entry) -> None:
        before, after = self._commands.get(entry.target, ((), ()))
        done: tuple[Undo, ...] = ()
        trouble = ""
        try:
            if not entry.stopped:
                done = self._os_power.apply("before", before)
        except CommandFailed as error:
            trouble = str(error)
        try:
            operation = self._switches.start(entry, trouble)
        except GeoshiftError as error:
            self._os_power.undo(done)
            self._steering.finish(entry, "rolled-back", str(error), None)
            return
        if operation is None:
            self._os_power.undo(done)
            outcome: OutcomeName = "rolled-back" if trouble else entry.stopped or "cancelled"
            self._steering.finish(entry, outcome, trouble or "stopped before it began to walk", None)
            return
        result = self._follow(entry, operation)
        reason = "; then ".join(part for part in (trouble, result.reason) if part)
        if result.outcome is Outcome.COMMITTED:
            try:
                self._os_power.apply("after", after)
            except CommandFailed as error:
                # The mode is right: only the operating system did not follow.
                reason = "; then ".join(part for part in (reason, str(error)) if part)
        else:
            self._os_power.undo(done)
        cancelled = result.outcome is Outcome.CANCELLED
        self._steering.finish(entry, "rolled-back" if cancelled and trouble else result.outcome.value, reason, result)

    def _follow(self, entry: Entry, operation: Operation) -> Result:
        while True:
            try:
                return operation.wait(GLANCE_S)
            except TimeoutError:
                self._switches.tell(entry)
