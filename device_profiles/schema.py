"""What a device profile says: types, limits, and the rules that join its parts.

The types are the format; ``docs/profile.schema.json`` is exported from them. A constructor checks nothing:
profiles from outside come through ``device_profiles.loader``, which checks types, limits and ``conflicts``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_profiles.energy import Energy
from device_profiles.errors import Path, Problem
from device_profiles.os_commands import Command, command_conflicts, unknown_command
from device_profiles.triggers import Name, Trigger, trigger_conflicts

SCHEMA = "geoshift.profile/1"

# The largest integer that every JSON reader keeps exactly.
LARGEST = 2**53 - 1

# `(?![\s\S])` is "end of text" in Python and in JSON Schema alike; `$` would let a final line break through.
ModeName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?![\s\S])",
        description="a name of 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
    ),
]

_ONE_OF_COUNT_FRACTION = {
    "oneOf": [
        {"required": ["count"], "properties": {"count": {"type": "integer"}}},
        {"required": ["fraction"], "properties": {"fraction": {"type": "number"}}},
    ]
}
_NAME_OR_ROLE = {
    "oneOf": [
        {
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "role": {"type": "null"}, "position": {"type": "null"}},
        },
        {"required": ["role"], "properties": {"role": {"type": "string"}, "name": {"type": "null"}}},
    ]
}


class Memory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory the device spares for a network."""

    weights_bytes: Annotated[
        int, Meta(gt=0, le=LARGEST, description="bytes of memory that weights may take, copies included")
    ]


class Writes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast weights may be written while the network answers."""

    bytes_per_increment: Annotated[
        int, Meta(gt=0, le=LARGEST, description="bytes of weights written between two inferences")
    ]
    increments_per_second: Annotated[float, Meta(gt=0, description="increments written in a second at most")]
    stall_budget_ms: Annotated[
        float, Meta(gt=0, description="milliseconds by which one increment may delay an inference")
    ]


class Bank(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How live weights are held."""

    policy: Annotated[
        Literal["auto", "in-place", "shadow", "persistent"],
        Meta(
            description="in-place: one copy of the tensors that move, answers and writes take turns; shadow: two, "
            "and answers never wait; persistent: one, in a file that keeps it without power; auto: shadow where memory "
            "allows it, else in-place"
        ),
    ] = "auto"
    snap: Annotated[bool, Meta(description="whether the physically smaller graph is used once a mode is reached")] = (
        True
    )


class Guard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accuracy a user insists on."""

    max_drop_points: Annotated[
        float,
        Meta(
            gt=0,
            le=100,
            description="worst accepted paired accuracy drop against the dense mode, in percentage points, "
            "anywhere on a path",
        ),
    ]
    canary_every_increments: Annotated[
        int,
        Meta(
            ge=0,
            le=LARGEST,
            description="increments after which the canary samples are asked on the way too; 0 for none: they are "
            "always asked at its end",
        ),
    ] = 0


class Selector(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which layers a change acts on: one by its name, or those of a role."""

    name: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="module path of one layer, e.g. features.0")
    ] = None
    role: Annotated[
        Literal["convolution", "classifier"] | None,
        Meta(description="kind of layer; without position, all of them whose units can be removed"),
    ] = None
    position: Annotated[
        Annotated[int, Meta(ge=-LARGEST, le=LARGEST, extra_json_schema={"not": {"const": 0}})] | None,
        Meta(description="which of the layers of the role whose units can be removed: 1 is the first, -1 the last"),
    ] = None


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many units of the selected layers are removed or restored: a count or a fraction."""

    layer: Annotated[Selector, Meta(description="the layers to change", extra_json_schema=_NAME_OR_ROLE)]
    count: Annotated[
        Annotated[int, Meta(ge=1, le=LARGEST)] | None,
        Meta(
            description="number of units; over several layers, divided in proportion to the units they are taken from"
        ),
    ] = None
    fraction: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(
            description="share of the units of each layer: to remove, of those in the dense network; to restore, of "
            "those that are removed at that point"
        ),
    ] = None


_Changes = tuple[Annotated[Change, Meta(extra_json_schema=_ONE_OF_COUNT_FRACTION)], ...]


class Mode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename={"from_": "from"}):
    """A power mode: another mode and what is changed in it. Removals come first, then restorations, then ``macs``."""

    from_: Annotated[ModeName | None, Meta(description="mode this one is made from; the dense mode alone has none")] = (
        None
    )
    remove: Annotated[_Changes, Meta(description="units taken out")] = ()
    restore: Annotated[_Changes, Meta(description="removed units brought back")] = ()
    macs: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(
            description="share of the dense network's multiply-accumulates that may be left: the planner removes "
            "further units where that costs least"
        ),
    ] = None
    before: Annotated[
        tuple[Name, ...], Meta(max_length=16, description="commands run before a walk to this mode begins, in order")
    ] = ()
    after: Annotated[
        tuple[Name, ...], Meta(max_length=16, description="commands run once this mode is reached, in order")
    ] = ()
    description: Annotated[str, Meta(description="a line for people")] = ""


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device, what it allows, and the power modes it is asked to offer."""

    schema: Annotated[Literal["geoshift.profile/1"], Meta(description="version of this format")]
    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9-]+(?![\s\S])",
            max_length=64,
            description="a name of at most 64 lowercase letters, digits and dashes",
        ),
    ]
    description: Annotated[str, Meta(description="a line for people")]
    threads: Annotated[int, Meta(ge=1, le=1024, description="threads that compute one inference")]
    channel_block: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="channels that the device computes together: where the planner divides a target for "
            "multiply-accumulates, convolutions keep whole blocks of filters, since a part of one costs as much",
        ),
    ] = 1
    memory: Annotated[Memory, Meta(description="memory the device spares")]
    writes: Annotated[Writes, Meta(description="pace of writing weights")]
    bank: Annotated[Bank, Meta(description="how live weights are held")]
    guard: Annotated[Guard, Meta(description="the accuracy insisted on")]
    queue_limit: Annotated[int, Meta(ge=1, le=LARGEST, description="callers that may wait for an answer at once")] = 64
    modes: Annotated[dict[ModeName, Mode], Meta(min_length=1, max_length=64, description="power modes by name")]
    transitions: Annotated[
        tuple[tuple[ModeName, ModeName], ...],
        Meta(description="pairs of modes that are walked between, each pair both ways"),
    ]
    default_mode: Annotated[
        ModeName | None, Meta(description="mode wanted while nobody asks for another; without it, the dense mode")
    ] = None
    energy: Annotated[Energy | None, Meta(description="energy model, for a device without a meter")] = None
    commands: Annotated[
        dict[Name, Command], Meta(max_length=64, description="the only programs and settings it may use, by name")
    ] = {}
    triggers: Annotated[tuple[Trigger, ...], Meta(max_length=64, description="what changes the mode by itself")] = ()
    safety: Annotated[
        tuple[Trigger, ...], Meta(max_length=64, description="triggers that nobody can overrule, for limits of safety")
    ] = ()
    poll_s: Annotated[
        float, Meta(ge=0.1, le=60, description="seconds between two readings of what triggers and safety watch")
    ] = 2.0


def nearest(word: object, known: Iterable[str]) -> str:
    """A "did you mean" for a mistyped word, or an empty text if nothing is near it."""
    close = difflib.get_close_matches(str(word)[:100], list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def conflicts(profile: Profile) -> Iterator[Problem]:
    """The rules between parts of a profile that its types cannot say, checked one after the other."""
    yield from _origins(profile.modes)
    for name, mode in profile.modes.items():
        for kind, changes in (("remove", mode.remove), ("restore", mode.restore)):
            for place, change in enumerate(changes):
                yield from _change(change, ("modes", name, kind, place))
        for kind, names in (("before", mode.before), ("after", mode.after)):
            for place, command in enumerate(names):
                if command not in profile.commands:
                    path: Path = ("modes", name, kind, place)
                    yield unknown_command(path, command, profile.commands, "correct the name, or add the command")
    yield from _transitions(profile)
    if profile.default_mode is not None and profile.default_mode not in profile.modes:
        yield _unknown_mode(("default_mode",), profile.default_mode, profile.modes)
    yield from command_conflicts(profile.commands)
    sections = {"triggers": profile.triggers, "safety": profile.safety}
    yield from trigger_conflicts(sections, profile.modes, profile.commands)


def _origins(modes: dict[str, Mode]) -> Iterator[Problem]:
    dense = [name for name, mode in modes.items() if mode.from_ is None]
    if not dense:
        yield Problem(("modes",), "no mode without 'from'", "exactly one, the dense network", "add the dense mode")
    for name in dense[1:]:
        yield Problem(
            ("modes", name),
            f"no 'from', as in {dense[0]!r}",
            "exactly one mode without 'from', the dense network",
            "say which mode this one is made from",
        )
    for name, mode in modes.items():
        if mode.from_ is None:
            for kind in ("remove", "restore", "macs"):
                if getattr(mode, kind):
                    yield Problem(
                        ("modes", name, kind),
                        "a change in the dense mode",
                        "none, since a mode without 'from' is the dense network",
                        "add 'from', or move the change to another mode",
                    )
            continue
        if mode.from_ not in modes:
            yield _unknown_mode(("modes", name, "from"), mode.from_, modes)
        elif name in (cycle := _ancestors(name, modes)) and name == min(cycle):
            walk = " → ".join([name, *cycle])
            yield Problem(
                ("modes", name, "from"),
                f"the cycle {walk}",
                "modes that lead back to the dense one",
                "make one of them from a mode outside the cycle",
            )
        if not mode.remove and not mode.restore and mode.macs is None:
            yield Problem(
                ("modes", name),
                "none of 'remove', 'restore' and 'macs'",
                f"at least one change against {mode.from_!r}",
                "add a change, or drop the mode",
            )


def _ancestors(name: str, modes: dict[str, Mode]) -> list[str]:
    seen: list[str] = []
    mode: Mode | None = modes[name]
    while mode is not None and mode.from_ is not None and mode.from_ not in seen:
        seen.append(mode.from_)
        mode = modes.get(mode.from_)
    return seen


def _change(change: Change, path: Path) -> Iterator[Problem]:
    if (change.count is None) == (change.fraction is None):
        found = "neither 'count' nor 'fraction'" if change.count is None else "both 'count' and 'fraction'"
        yield Problem(path, found, "exactly one of them", "say how many units either as a count or as a fraction")
    chosen, place = change.layer, (*path, "layer")
    if (chosen.name is None) == (chosen.role is None):
        found = "neither 'name' nor 'role'" if chosen.name is None else "both 'name' and 'role'"
        yield Problem(place, found, "exactly one of them", "choose one layer by name, or layers by role")
    elif chosen.name is not None and chosen.position is not None:
        yield Problem((*place, "position"), str(chosen.position), "none beside 'name'", "drop it, or choose by 'role'")
    if chosen.position == 0:
        yield Problem((*place, "position"), "0", "1 for the first, 2 for the second, -1 for the last", "count from 1")


def _transitions(profile: Profile) -> Iterator[Problem]:
    modes = profile.modes
    seen: dict[frozenset[str], int] = {}
    for place, pair in enumerate(profile.transitions):
        path: Path = ("transitions", place)
        for end in pair:
            if end not in modes:
                yield _unknown_mode(path, end, modes)
        if pair[0] == pair[1]:
            yield Problem(path, f"{pair[0]!r} twice", "two distinct modes", "name another mode, or drop the pair")
        elif (first := seen.setdefault(frozenset(pair), place)) != place:
            yield Problem(
                path,
                f"the pair {pair[0]!r}, {pair[1]!r} again (first at transitions[{first}])",
                "each pair once, as it is walked both ways",
                "drop one of the two",
            )
    reached = {name for name, mode in modes.items() if mode.from_ is None}
    if len(reached) != 1:
        return
    while grown := {end for pair in profile.transitions if reached & set(pair) for end in pair} - reached:
        reached |= grown
    for name in modes:
        if name not in reached:
            yield Problem(
                ("modes", name),
                "no transition that leads to it",
                "a way from the dense mode over 'transitions'",
                f"add a pair with {name!r} to 'transitions', or drop the mode",
            )


def _unknown_mode(path: Path, found: str, modes: Iterable[str]) -> Problem:
    known = ", ".join(modes)
    return Problem(path, repr(found), f"one of the modes {known}", f"{nearest(found, modes)}correct the name")
