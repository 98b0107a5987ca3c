"""The rules between parts of a profile that its types cannot say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from device_profiles.errors import Path, Problem
from device_profiles.hardware_rules import hardware_conflicts
from device_profiles.os_commands import command_conflicts, unknown_command
from device_profiles.schema import Change, Mode, Profile, Selector, nearest
from device_profiles.triggers import trigger_conflicts

_CHANGES = ("remove", "restore", "macs", "watts", "latency_ms", "sparsity", "weights")
"""What may make a mode another one than that which it is made from."""


def conflicts(profile: Profile) -> Iterator[Problem]:
    """The rules between parts of a profile that its types cannot say, checked one after the other."""
    yield from _origins(profile.modes)
    for name, mode in profile.modes.items():
        for kind, changes in (("remove", mode.remove), ("restore", mode.restore)):
            for place, change in enumerate(changes):
                yield from _change(change, ("modes", name, kind, place))
        for place, chosen in enumerate(mode.sparse_layers):
            yield from _selector(chosen, ("modes", name, "sparse_layers", place))
        for kind, names in (("before", mode.before), ("after", mode.after)):
            for place, command in enumerate(names):
                if command not in profile.commands:
                    path: Path = ("modes", name, kind, place)
                    yield unknown_command(path, command, profile.commands, "correct the name, or add the command")
    yield from _transitions(profile)
    if profile.default_mode is not None and profile.default_mode not in profile.modes:
        yield _unknown_mode(("default_mode",), profile.default_mode, profile.modes)
    yield from hardware_conflicts(profile)
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
            for kind in (*_CHANGES, "sparse_layers"):
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
        if not any(getattr(mode, kind) for kind in _CHANGES):
            yield Problem(
                ("modes", name),
                f"none of {', '.join(map(repr, _CHANGES[:-1]))} and {_CHANGES[-1]!r}",
                f"at least one change against {mode.from_!r}",
                "add a change, or drop the mode",
            )
        yield from _other_targets(name, mode, modes)


def _other_targets(name: str, mode: Mode, modes: dict[str, Mode]) -> Iterator[Problem]:
    """What a sparse mode and another network's weights go together with."""
    if mode.sparse_layers and mode.sparsity is None:
        yield Problem(
            ("modes", name, "sparse_layers"),
            "layers, but no 'sparsity'",
            "both or neither",
            "say how sparse these layers are to be, or drop them",
        )
    origin = modes.get(mode.from_ or "")
    if mode.weights is not None:
        for kind in (*_CHANGES[:-1], "sparse_layers"):
            if getattr(mode, kind):
                yield Problem(
                    ("modes", name, kind),
                    "a change beside 'weights'",
                    "none, since another network is taken as it is",
                    "drop one of the two, or make two modes",
                )
        if origin is not None and origin.from_ is not None:
            yield Problem(
                ("modes", name, "from"),
                repr(mode.from_),
                "the dense mode, since another network has all units",
                "name the mode without 'from'",
            )
    if origin is not None and (origin.weights is not None or origin.sparsity is not None):
        what = "another network" if origin.weights is not None else "sparse"
        yield Problem(
            ("modes", name, "from"),
            f"{mode.from_!r}, which is {what}",
            "the dense mode, or one that only lacks units",
            f"make it from what {mode.from_!r} is made from, {origin.from_!r}",
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
    yield from _selector(change.layer, (*path, "layer"))


def _selector(chosen: Selector, place: Path) -> Iterator[Problem]:
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
