"""The programs and kernel settings that a device may touch, by name: nothing outside this list is ever run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_profiles.errors import Path, Problem

_Argv = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=4096)], ...], Meta(min_length=1, max_length=64)]
_KINDS = ("argv", "governor", "nvpmodel", "power_profile")


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something the operating system can be told. All kinds but ``argv`` are undone to what was there before."""

    argv: Annotated[
        _Argv | None, Meta(description="program, by its absolute path, and its arguments; no shell reads them")
    ] = None
    undo: Annotated[
        _Argv | None, Meta(description="program and arguments that take back what 'argv' did; without it, nothing does")
    ] = None
    governor: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,16}(?![\s\S])")] | None,
        Meta(description="cpufreq governor for all processors, such as powersave"),
    ] = None
    nvpmodel: Annotated[
        Annotated[int, Meta(ge=0, le=255)] | None, Meta(description="number of the nvpmodel power mode of a Jetson")
    ] = None
    power_profile: Annotated[
        Literal["power-saver", "balanced", "performance"] | None,
        Meta(description="profile of power-profiles-daemon, set with powerprofilesctl"),
    ] = None
    timeout_s: Annotated[
        float, Meta(gt=0, le=120, description="seconds after which the program is stopped and counts as failed")
    ] = 10.0


def command_conflicts(commands: Mapping[str, Command]) -> Iterator[Problem]:
    """The rules of each command that its type cannot say."""
    for name, command in commands.items():
        path: Path = ("commands", name)
        kinds = [kind for kind in _KINDS if getattr(command, kind) is not None]
        if len(kinds) != 1:
            found = " and ".join(repr(kind) for kind in kinds) or "none of them"
            yield Problem(path, found, f"exactly one of {', '.join(_KINDS)}", "make one command of each")
        if command.undo is not None and command.argv is None:
            yield Problem(
                (*path, "undo"), "an 'undo' without 'argv'", "none, as the setting from before is put back", "drop it"
            )
        for kind in ("argv", "undo"):
            argv = getattr(command, kind)
            if argv is None:
                continue
            if not argv[0].startswith("/"):
                yield Problem(
                    (*path, kind, 0),
                    repr(argv[0]),
                    "the absolute path of a program",
                    "write the whole path, so that no search path decides what is run",
                )
            for place, word in enumerate(argv):
                if "\0" in word:
                    yield Problem((*path, kind, place), "a zero character", "text without it", "remove it")


def unknown_command(path: Path, found: str, known: Iterable[str], remedy: str) -> Problem:
    """The problem of a name that the list of commands does not have."""
    names = ", ".join(known) or "(there is none)"
    return Problem(path, repr(found), f"one of the commands {names}", remedy)
