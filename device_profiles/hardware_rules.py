"""The rules of what a profile says about hardware that its types cannot say."""

from __future__ import annotations

from collections.abc import Iterator

from device_profiles.errors import Path, Problem
from device_profiles.figure import Figure
from device_profiles.numbers import numbers
from device_profiles.schema import Mode, Profile, nearest

_TARGETS = ("macs", "watts", "latency_ms")
_COMPARED = 512
"""Numbers that a mistyped path in ``origins`` is compared with; the built-in profiles have 25."""
_NEVER_LIVE = ("microcontroller", "neuromorphic", "crossbar")
"""Architectures that ONNX Runtime does not run on."""


def hardware_conflicts(profile: Profile) -> Iterator[Problem]:
    """What contradicts itself in target, weights, memory, writes, targets of modes, and origins."""
    yield from _target(profile)
    yield from _weights(profile)
    yield from _writes(profile)
    for name, mode in profile.modes.items():
        yield from _mode_targets(name, mode, profile)
    yield from _trade_off(profile)
    yield from _origins(profile)


def _target(profile: Profile) -> Iterator[Problem]:
    target = profile.target
    if target.runs == "live" and target.architecture in _NEVER_LIVE:
        yield Problem(
            ("target", "runs"),
            f"'live' on architecture {target.architecture!r}",
            "'simulate', as ONNX Runtime does not run there",
            "write runs: simulate",
        )
    rate = target.macs_per_second
    if rate is not None and rate.value == 0:
        yield _zero(("target", "macs_per_second", "value"), "the number, or leave the figure out")
    seen: set[str] = set()
    for place, name in enumerate(target.operators):
        if name in seen:
            path: Path = ("target", "operators", place)
            yield Problem(path, f"{name!r} again", "every operator once", "keep one of the two")
        seen.add(name)


def _weights(profile: Profile) -> Iterator[Problem]:
    weights = profile.weights
    if weights.format == "int":
        if weights.bits is None:
            yield Problem(
                ("weights", "bits"), "no such key", "an integer of 2 to 16 with format 'int'",
                "add it (bits of one code, the sign's included)",
            )  # fmt: skip
        return
    if weights.bits is not None:
        yield Problem(
            ("weights", "bits"), str(weights.bits), f"none with format {weights.format!r}, which has its own bits",
            "drop it, or write format: int",
        )  # fmt: skip
    for field, plain in (("scale", "row"), ("scales", "any"), ("sign", "signed"), ("bias", "float32")):
        if (found := getattr(weights, field)) != plain:
            yield Problem(
                ("weights", field), repr(found), f"none with format {weights.format!r}, which has no codes",
                "drop it, or write format: int",
            )  # fmt: skip


def _writes(profile: Profile) -> Iterator[Problem]:
    writes, bank, memory = profile.writes, profile.bank, profile.memory
    if writes.granularity_bytes > writes.bytes_per_increment:
        yield Problem(
            ("writes", "granularity_bytes"),
            str(writes.granularity_bytes),
            f"at most {writes.bytes_per_increment}, as writes.bytes_per_increment says",
            "raise writes.bytes_per_increment: no increment is smaller than the smallest write",
        )
    if writes.bytes_per_second is not None and writes.bytes_per_second.value == 0:
        yield _zero(("writes", "bytes_per_second", "value"), "the rate, or leave the figure out for no limit")
    if writes.endurance_writes is not None and writes.endurance_writes.value < 1:
        yield Problem(
            ("writes", "endurance_writes", "value"), f"{writes.endurance_writes.value:g}", "at least 1",
            "give the writes that a cell stands, or leave the figure out where it does not wear",
        )  # fmt: skip
    if writes.verify is not None:
        mean, most = writes.verify.mean_writes.value, writes.verify.most_writes
        if not 1 <= mean <= most:
            yield Problem(
                ("writes", "verify", "mean_writes", "value"), f"{mean:g}",
                f"at least 1, the first write, and at most {most}, as writes.verify.most_writes says",
                "correct one of the two",
            )  # fmt: skip
    if bank.policy == "shadow":
        path: Path = ("bank", "policy")
        if not memory.second_copy:
            yield Problem(
                path, "'shadow'", "'in-place', 'persistent' or 'auto', as memory.second_copy is false",
                "name another policy",
            )  # fmt: skip
        elif writes.quiesce_required:
            yield Problem(
                path, "'shadow'", "'in-place', 'persistent' or 'auto', as writes.quiesce_required is true",
                "name another policy: no second copy is written while the first one answers",
            )  # fmt: skip


def _mode_targets(name: str, mode: Mode, profile: Profile) -> Iterator[Problem]:
    path: Path = ("modes", name)
    given = [one for one in _TARGETS if getattr(mode, one) is not None]
    if len(given) > 1:
        found = " and ".join(map(repr, given))
        yield Problem(path, found, "at most one of 'macs', 'watts' and 'latency_ms'", "drop the others")
    energy, target = profile.energy, profile.target
    if mode.watts is not None:
        here = (*path, "watts")
        idle = None if energy is None else energy.idle_w
        needed = {
            "energy.idle_w": idle,
            "energy.joules_per_mac": None if energy is None else energy.joules_per_mac,
            "energy.inferences_per_second": None if energy is None else energy.inferences_per_second,
        }
        yield from _needed(here, mode.watts, needed)
        yield from _above(here, mode.watts, idle, "energy.idle_w, which no network goes below")
    if mode.latency_ms is not None:
        here = (*path, "latency_ms")
        yield from _needed(here, mode.latency_ms, {"target.macs_per_second": target.macs_per_second})
        yield from _above(here, mode.latency_ms, target.overhead_ms, "target.overhead_ms, which every inference takes")


def _needed(path: Path, found: float, figures: dict[str, Figure | float | None]) -> Iterator[Problem]:
    missing = [name for name, value in figures.items() if value is None]
    if missing:
        yield Problem(
            path, f"{found:g}, but no {', '.join(missing)}", "the figures that it is computed from",
            "add them, or give the mode as 'macs'; `geoshift profiles measure` finds them on a board",
        )  # fmt: skip


def _above(path: Path, found: float, least: Figure | None, name: str) -> Iterator[Problem]:
    if least is not None and found <= least.value:
        yield Problem(path, f"{found:g}", f"more than {least.value:g}, {name}", "raise it")


def _trade_off(profile: Profile) -> Iterator[Problem]:
    energy = profile.energy
    if profile.trade_off == "energy" and (energy is None or energy.joules_per_byte_written is None):
        yield Problem(
            ("trade_off",), "'energy', but no energy.joules_per_byte_written", "the figure that it is computed from",
            "add it, or minimise bytes, which energy grows with",
        )  # fmt: skip


def _origins(profile: Profile) -> Iterator[Problem]:
    if not profile.origins:
        return
    known = {one.key: one for one in numbers(profile)}
    # Profiles come from strangers too: a limit to what a mistyped name is compared with.
    plain = [name for name, one in known.items() if not one.figure][:_COMPARED]
    for name in profile.origins:
        path: Path = ("origins", name)
        if name not in known:
            yield Problem(
                path, "no number of this profile", "the path of one, such as writes.bytes_per_increment",
                f"{nearest(name, plain)}correct or remove it",
            )  # fmt: skip
        elif known[name].figure:
            yield Problem(
                path, "a figure", "a plain number, since a figure says itself where it comes from",
                f"remove it, and write provenance and source at {name}",
            )  # fmt: skip


def _zero(path: Path, remedy: str) -> Problem:
    return Problem(path, "0", "a number above 0", f"give {remedy}")
