"""When a device changes its mode by itself: what is watched, and the thresholds that begin and end it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_profiles.errors import Path, Problem
from device_profiles.os_commands import Command, unknown_command

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?![\s\S])",
        description="a name of 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
    ),
]


class Trigger(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A mode that is asked for while something lasts: two thresholds, or a text that the reading equals."""

    name: Annotated[Name, Meta(description="what to call it")]
    mode: Annotated[Name, Meta(description="mode it asks for while active")]
    source: Annotated[
        Literal["battery", "charger", "temperature", "file", "command"],
        Meta(
            description="what is read: battery level in percent; charger, 'plugged' or 'unplugged'; temperature in "
            "degrees Celsius; the content of a file or the output of a command, as a number or a text"
        ),
    ]
    enter_below: Annotated[float | None, Meta(description="becomes active below this reading")] = None
    leave_above: Annotated[float | None, Meta(description="with enter_below: becomes inactive above this reading")] = (
        None
    )
    enter_above: Annotated[float | None, Meta(description="becomes active above this reading")] = None
    leave_below: Annotated[float | None, Meta(description="with enter_above: becomes inactive below this reading")] = (
        None
    )
    equals: Annotated[str | None, Meta(description="active while the reading is this text")] = None
    dwell_s: Annotated[
        float, Meta(ge=0, le=86400, description="seconds that a reading must last before the trigger changes")
    ] = 0.0
    zone: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        Meta(description="for temperature: type of the thermal zone; without it, the hottest zone"),
    ] = None
    path: Annotated[
        Annotated[str, Meta(min_length=1, max_length=4096)] | None,
        Meta(description="for file: its absolute path"),
    ] = None
    command: Annotated[Name | None, Meta(description="for command: a name among 'commands', one with 'argv'")] = None


_NUMBERS = ("enter_below", "leave_above", "enter_above", "leave_below")
_CONDITIONS = (("enter_below", "leave_above"), ("enter_above", "leave_below"), ("equals",))
_OF_SOURCE = {"zone": "temperature", "path": "file", "command": "command"}


def trigger_conflicts(
    kinds: Mapping[str, tuple[Trigger, ...]], modes: Iterable[str], commands: Mapping[str, Command]
) -> Iterator[Problem]:
    """The rules of triggers that their type cannot say.

    Args:
        kinds: Name of the section to its triggers.
        modes: The modes there are.
        commands: The commands there are.

    Yields:
        What is wrong.
    """
    modes = tuple(modes)
    seen: dict[str, Path] = {}
    for section, triggers in kinds.items():
        for place, trigger in enumerate(triggers):
            path: Path = (section, place)
            if (first := seen.setdefault(trigger.name, path)) != path:
                where = f"{first[0]}[{first[1]}]"
                yield Problem(
                    (*path, "name"), f"{trigger.name!r} again (first at {where})", "every name once", "rename one"
                )
            if trigger.mode not in modes:
                known = ", ".join(modes)
                yield Problem((*path, "mode"), repr(trigger.mode), f"one of the modes {known}", "correct the name")
            yield from _condition(trigger, path)
            yield from _source(trigger, path, commands)


def _condition(trigger: Trigger, path: Path) -> Iterator[Problem]:
    given = {name for name in (*_NUMBERS, "equals") if getattr(trigger, name) is not None}
    if given not in [set(condition) for condition in _CONDITIONS]:
        found = " and ".join(repr(name) for name in (*_NUMBERS, "equals") if name in given) or "no condition"
        yield Problem(
            path,
            found,
            "either enter_below and leave_above, or enter_above and leave_below, or equals",
            "say when it begins and when it ends",
        )
        return
    enter, leave = trigger.enter_below, trigger.leave_above
    if enter is not None and leave is not None and leave < enter:
        yield Problem((*path, "leave_above"), f"{leave:g}", f"at least {enter:g}, as enter_below says", "raise it")
    enter, leave = trigger.enter_above, trigger.leave_below
    if enter is not None and leave is not None and leave > enter:
        yield Problem((*path, "leave_below"), f"{leave:g}", f"at most {enter:g}, as enter_above says", "lower it")


def _source(trigger: Trigger, path: Path, commands: Mapping[str, Command]) -> Iterator[Problem]:
    for field, source in _OF_SOURCE.items():
        value = getattr(trigger, field)
        if value is not None and trigger.source != source:
            yield Problem((*path, field), repr(value), f"none with source {trigger.source!r}", "drop it")
        if value is None and trigger.source == source and field != "zone":
            yield Problem((*path, field), "no such key", f"one with source {source!r}", "add it")
    if trigger.path is not None and not trigger.path.startswith("/"):
        yield Problem((*path, "path"), repr(trigger.path), "an absolute path", "write the whole path")
    if trigger.path is not None and "\0" in trigger.path:
        yield Problem((*path, "path"), "a zero character", "text without it", "remove it")
    if trigger.command is not None:
        found = commands.get(trigger.command)
        if found is None:
            yield unknown_command((*path, "command"), trigger.command, commands, "correct the name, or add the command")
        elif found.argv is None:
            yield unknown_command(
                (*path, "command"),
                trigger.command,
                [name for name, known in commands.items() if known.argv is not None],
                "name a command with 'argv': the others print nothing",
            )
    if trigger.source == "charger" and trigger.equals not in ("plugged", "unplugged"):
        found_text = "no 'equals'" if trigger.equals is None else repr(trigger.equals)
        yield Problem((*path, "equals"), found_text, "'plugged' or 'unplugged'", "say which of them makes it active")
    if trigger.source in ("battery", "temperature") and trigger.equals is not None:
        yield Problem(
            (*path, "equals"), repr(trigger.equals), "thresholds, as a number is read", "give enter and leave"
        )
