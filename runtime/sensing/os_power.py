"""Tells the operating system to save power or to spend it, before or after a walk, and takes that back.

Only what the profile lists by name is ever done. A list of commands is all or nothing: when one fails, those before it
are undone, the last one first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device_profiles import Command
from runtime.errors import CommandFailed
from runtime.sensing.programs import run

Stage = Literal["before", "after", "undo"]
Report = Callable[[Stage, str, bool, str], None]
"""Is told stage, name of the command, whether it worked, and what went wrong."""


@dataclass(frozen=True)
class Tools:
    """Where the programs of the system are.

    Attributes:
        nvpmodel: NVIDIA's program that sets a Jetson's power mode.
        powerprofilesctl: Client of power-profiles-daemon.
        root: Directory that stands for ``/``, for sysfs.
    """

    nvpmodel: str = "/usr/sbin/nvpmodel"
    powerprofilesctl: str = "/usr/bin/powerprofilesctl"
    root: Path = Path("/")


@dataclass(frozen=True)
class Undo:
    """What takes a command back.

    Attributes:
        name: The command.
        argv: Program to run, or None.
        settings: Files to write, each with what stood there before.
    """

    name: str
    argv: tuple[str, ...] | None = None
    settings: tuple[tuple[Path, str], ...] = ()


class OsPower:
    """Does and undoes the commands of a profile.

    Args:
        commands: The profile's list.
        report: Is told of each command.
        tools: Where the programs are.
    """

    def __init__(self, commands: Mapping[str, Command], report: Report, tools: Tools | None = None) -> None:
        self._commands = commands
        self._report = report
        self._tools = tools or Tools()

    def apply(self, stage: Stage, names: tuple[str, ...]) -> tuple[Undo, ...]:
        """Do commands in order.

        Args:
            stage: When, for the report.
            names: Names in the profile's list.

        Returns:
            What takes them back, in the order they were done.

        Raises:
            CommandFailed: One failed; those before it were undone.
        """
        done: tuple[Undo, ...] = ()
        for name in names:
            try:
                done = (*done, self._apply(name, self._commands[name]))
            except CommandFailed as error:
                self._report(stage, name, False, str(error))
                self.undo(done)
                raise
            self._report(stage, name, True, "")
        return done

    def undo(self, done: tuple[Undo, ...]) -> None:
        """Take commands back, the last one first. One that cannot be taken back is reported, and the rest goes on."""
        for one in reversed(done):
            try:
                if one.argv is not None:
                    run(one.name, one.argv, self._commands[one.name].timeout_s)
                for path, value in one.settings:
                    _write(one.name, path, value)
            except CommandFailed as error:
                self._report("undo", one.name, False, str(error))
            else:
                if one.argv is not None or one.settings:
                    self._report("undo", one.name, True, "")

    def _apply(self, name: str, command: Command) -> Undo:
        if command.governor is not None:
            return self._governor(name, command.governor)
        if command.nvpmodel is not None:
            return self._nvpmodel(name, command.nvpmodel, command.timeout_s)
        if command.power_profile is not None:
            return self._power_profile(name, command.power_profile, command.timeout_s)
        assert command.argv is not None, "the loader lets through commands of exactly one kind"
        run(name, command.argv, command.timeout_s)
        return Undo(name, command.undo)

    def _governor(self, name: str, governor: str) -> Undo:
        """Set the governor of every group of processors that share a clock."""
        folder = self._tools.root / "sys/devices/system/cpu/cpufreq"
        policies = sorted(folder.glob("policy*"))
        if not policies:
            raise CommandFailed(
                f"command {name}: found no policy in {folder}, expected one; this machine has no cpufreq"
            )
        for policy in policies:
            known = _read(name, policy / "scaling_available_governors").split()
            if governor not in known:
                raise CommandFailed(
                    f"command {name}: {policy.name}: found governor {governor!r}, expected one of {', '.join(known)}"
                )
        before: tuple[tuple[Path, str], ...] = ()
        for policy in policies:
            path = policy / "scaling_governor"
            try:
                was = _read(name, path)
                _write(name, path, governor)
            except CommandFailed:
                self.undo((Undo(name, settings=before),))
                raise
            before = (*before, (path, was))
        return Undo(name, settings=before)

    def _nvpmodel(self, name: str, number: int, timeout_s: float) -> Undo:
        """Set the power mode of a Jetson, and see that it is set: a change that wants a reboot is not made."""
        program = self._tools.nvpmodel
        was = _mode_number(name, run(name, (program, "-q"), timeout_s))
        if was == number:
            return Undo(name)
        run(name, (program, "-m", str(number)), timeout_s)
        found = _mode_number(name, run(name, (program, "-q"), timeout_s))
        if found != number:
            raise CommandFailed(
                f"command {name}: found mode {found} after nvpmodel -m {number}, expected {number}; "
                "some changes need a reboot: make this one by hand"
            )
        return Undo(name, (program, "-m", str(was)))

    def _power_profile(self, name: str, profile: str, timeout_s: float) -> Undo:
        program = self._tools.powerprofilesctl
        was = run(name, (program, "get"), timeout_s)
        if was == profile:
            return Undo(name)
        run(name, (program, "set", profile), timeout_s)
        return Undo(name, (program, "set", was))


def _mode_number(name: str, printed: str) -> int:
    """The number that ``nvpmodel -q`` prints on the line after the mode's name; warnings may stand before them."""
    numbers = [line for line in printed.splitlines() if line.strip().isdecimal()]
    if not numbers:
        raise CommandFailed(f"command {name}: found {printed[:100]!r} from nvpmodel -q, expected a line with a number")
    return int(numbers[-1])


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise CommandFailed(f"command {name}: {path}: {error.strerror}; expected a file of cpufreq") from error


def _write(name: str, path: Path, value: str) -> None:
    try:
        # Never created: a setting is a file that the kernel made.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode("ascii"))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CommandFailed(
            f"command {name}: {path}: {error.strerror} for {value!r}; run the service as a user who may write it"
        ) from error
