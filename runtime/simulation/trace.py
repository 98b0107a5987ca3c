"""What happens to a device over time: when it is asked, and what its sensors and its users say. YAML or CSV.

Everything in a trace is stated in seconds since its beginning. It names no network: its triggers may ask for the
``lowest``, ``middle`` or ``dense`` mode of whatever plan is played, and a profile's own triggers go before them.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from device_profiles import Trigger, loader
from device_profiles.errors import GeoshiftError, ProfileError
from device_profiles.schema import nearest
from device_profiles.triggers import Name, trigger_conflicts

SCHEMA: Final = "geoshift.trace/1"
MOST_SECONDS: Final = 7 * 86400
MOST_REQUESTS: Final = 2_000_000
"""Requests of one trace: a hundred a second for five hours. Each takes some 30 bytes while a strategy is played."""
MOST_CSV_BYTES: Final = 32 * 1024 * 1024
_MOST_POINTS: Final = 10_000
RELATIVE: Final = ("lowest", "middle", "dense")
"""Modes that every plan has: that of lowest power, the middle one of all in order of power, and the dense one."""

Seconds = Annotated[float, Meta(ge=0, le=MOST_SECONDS, description="seconds since the trace began")]
Level = tuple[Seconds, float]
Said = tuple[Seconds, Annotated[str, Meta(max_length=64)]]


class TraceError(GeoshiftError):
    """A trace is refused. Correct what the text names."""


class Arrivals(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Requests of one kind, between two moments."""

    kind: Annotated[
        Literal["constant", "poisson", "bursts", "recorded"],
        Meta(
            description="constant: equally far apart; poisson: at random; bursts: many within a short time, again and "
            "again; recorded: at given times"
        ),
    ]
    per_second: Annotated[
        Annotated[float, Meta(gt=0, le=1e5)] | None, Meta(description="requests a second, of constant and poisson")
    ] = None
    every_s: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="seconds between two bursts")] = None
    count: Annotated[Annotated[int, Meta(ge=1, le=100_000)] | None, Meta(description="requests of one burst")] = None
    within_s: Annotated[Annotated[float, Meta(ge=0)] | None, Meta(description="seconds that one burst lasts")] = None
    at_s: Annotated[tuple[Seconds, ...], Meta(max_length=_MOST_POINTS, description="times, of recorded")] = ()
    from_s: Annotated[Seconds, Meta(description="when the first may come")] = 0.0
    until_s: Annotated[Seconds | None, Meta(description="when no more come; None for the end of the trace")] = None


class Readings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What sensors say: points in time. Numbers between two points lie on a line, texts stay until the next point."""

    battery: Annotated[tuple[Level, ...], Meta(max_length=_MOST_POINTS, description="percent")] = ()
    temperature: Annotated[
        tuple[Level, ...], Meta(max_length=_MOST_POINTS, description="degrees Celsius, of every thermal zone")
    ] = ()
    charger: Annotated[tuple[Said, ...], Meta(max_length=_MOST_POINTS, description="'plugged' or 'unplugged'")] = ()
    triggers: Annotated[
        dict[Name, tuple[tuple[Seconds, float | str], ...]],
        Meta(max_length=64, description="what the file or command of a trigger says, by the trigger's name"),
    ] = {}


class ByHand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A user asks for a mode, or gives control back."""

    at_s: Seconds
    mode: Annotated[Name, Meta(description="a mode, lowest, middle, dense, or auto to give control back")]
    lease_s: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="seconds that it counts; None for until given back")
    ] = None


class Held(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A program holds a mode for a while."""

    at_s: Seconds
    mode: Annotated[Name, Meta(description="a mode, lowest, middle or dense")]
    lease_s: Annotated[float, Meta(gt=0, description="seconds until it ends")]


class Trace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A trace.

    Raises nothing by itself: ``load_trace`` and ``parse_trace`` check what types cannot say.
    """

    schema: Annotated[Literal["geoshift.trace/1"], Meta(description="version of this format")]
    name: Annotated[Name, Meta(description="what to call it")]
    description: Annotated[str, Meta(max_length=1000, description="a line or two for people")] = ""
    seconds: Annotated[float, Meta(gt=0, le=MOST_SECONDS, description="how long it is")]
    deadline_ms: Annotated[
        float, Meta(gt=0, description="an answer that takes longer than this after its request is late")
    ] = 100.0
    requests: Annotated[tuple[Arrivals, ...], Meta(min_length=1, max_length=64, description="who asks, and when")]
    readings: Annotated[Readings, Meta(description="what sensors say")] = Readings()
    triggers: Annotated[
        tuple[Trigger, ...],
        Meta(max_length=64, description="triggers for a profile that has none; modes may be lowest, middle or dense"),
    ] = ()
    manual: Annotated[tuple[ByHand, ...], Meta(max_length=_MOST_POINTS, description="what users ask for")] = ()
    holds: Annotated[tuple[Held, ...], Meta(max_length=_MOST_POINTS, description="what programs hold")] = ()


def trace_names() -> tuple[str, ...]:
    """Names of the traces that come with geoshift, in alphabetical order."""
    folder = resources.files("runtime.simulation") / "traces"
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


def load_trace(source: str | os.PathLike[str]) -> Trace:
    """A trace by the name of a bundled one, or from a YAML or CSV file.

    Args:
        source: Name or path; a bundled name goes before a file of that name.

    Raises:
        TraceError: There is none, it cannot be read, or it breaks a rule of the format.
    """
    origin, known = os.fspath(source), trace_names()
    if isinstance(source, str) and source in known:
        text = (resources.files("runtime.simulation") / "traces" / f"{source}.yaml").read_text("utf-8")
        return parse_trace(text, f"{source}.yaml")
    path = Path(source)
    expected = f"a YAML or CSV file or one of the bundled traces {', '.join(known)}"
    limit = MOST_CSV_BYTES if path.suffix == ".csv" else loader.MAX_BYTES
    try:
        if not path.is_file():
            raise TraceError(f"{origin}: found no such file, expected {expected}; {nearest(origin, known)}give another")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise TraceError(f"{origin}: {error.strerror or error}; expected {expected}") from error
    if len(raw) > limit:
        raise TraceError(f"{origin}: found more than {limit} bytes, expected at most {limit}; cut it into several")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise TraceError(f"{origin}, line {line}: found bytes that are not UTF-8; save the file as UTF-8") from error
    return parse_csv(text, origin, path.stem) if path.suffix == ".csv" else parse_trace(text, origin)


def parse_trace(text: str, origin: str) -> Trace:
    """A trace from YAML text.

    Raises:
        TraceError: It is not YAML, or it breaks a rule of the format.
    """
    try:
        trace = loader.structure(Trace, text, origin)
    except ProfileError as error:
        raise TraceError(str(error).replace("(whole profile)", "(whole trace)")) from error
    return checked(trace, origin)


def checked(trace: Trace, origin: str) -> Trace:
    """The trace, once the rules that its types cannot say are found to hold.

    Raises:
        TraceError: One does not.
    """
    if problems := list(_conflicts(trace)):
        raise TraceError("\n".join(f"{origin}: {problem}" for problem in problems[:20]))
    return trace


_NEEDS: Final = {
    "constant": ("per_second",),
    "poisson": ("per_second",),
    "bursts": ("every_s", "count", "within_s"),
    "recorded": ("at_s",),
}
_GIVEN: Final = ("per_second", "every_s", "count", "within_s", "at_s")


def _conflicts(trace: Trace) -> Iterator[str]:
    expected_requests = 0.0
    for place, one in enumerate(trace.requests):
        key = f"requests[{place}]"
        given = [name for name in _GIVEN if getattr(one, name) not in (None, ())]
        if given != list(_NEEDS[one.kind]):
            yield (
                f"{key}: found {', '.join(given) or 'no rate'}, expected {', '.join(_NEEDS[one.kind])} and no other of "
                f"{', '.join(_GIVEN)} with kind {one.kind!r}; correct it"
            )
            continue
        until_s = trace.seconds if one.until_s is None else one.until_s
        if not one.from_s < until_s <= trace.seconds:
            yield (
                f"{key}: found from_s {one.from_s:g} and until_s {until_s:g}, expected from_s below until_s and "
                f"neither after seconds, {trace.seconds:g}; correct it"
            )
        if one.at_s and (list(one.at_s) != sorted(one.at_s) or one.at_s[-1] > trace.seconds):
            yield f"{key}.at_s: found times out of order or after seconds, {trace.seconds:g}; sort them"
        if one.every_s is not None and one.within_s is not None and one.within_s > one.every_s:
            yield f"{key}.within_s: found {one.within_s:g}, expected at most every_s, {one.every_s:g}; shorten it"
        expected_requests += _expected(one, until_s - one.from_s)
    if expected_requests > MOST_REQUESTS:
        yield (
            f"requests: found about {expected_requests:,.0f}, expected at most {MOST_REQUESTS:,}; "
            "shorten the trace or lower a rate"
        )
    yield from _points(trace)
    for name, plans in (("manual", trace.manual), ("holds", trace.holds)):
        times = [one.at_s for one in plans]
        if times != sorted(times) or (times and times[-1] > trace.seconds):
            yield f"{name}: found times out of order or after seconds, {trace.seconds:g}; sort them"
    for problem in trigger_conflicts({"triggers": trace.triggers}, {one.mode for one in trace.triggers}, {}):
        yield f"{problem.key}: found {problem.found}, expected {problem.expected}; {problem.remedy}"
    for place, trigger in enumerate(trace.triggers):
        if trigger.source == "command":
            yield f"triggers[{place}].source: found 'command', expected another: a trace runs nothing; use 'file'"


def _expected(one: Arrivals, seconds: float) -> float:
    """About how many requests these are."""
    if one.kind == "recorded":
        return len(one.at_s)
    if one.kind == "bursts":
        assert one.every_s is not None
        assert one.count is not None
        return math.ceil(seconds / one.every_s) * one.count
    assert one.per_second is not None
    return seconds * one.per_second


def _points(trace: Trace) -> Iterator[str]:
    readings = trace.readings
    rows: list[tuple[str, tuple[tuple[float, float | str], ...]]] = [
        ("battery", readings.battery),
        ("temperature", readings.temperature),
        ("charger", readings.charger),
        *((f"triggers.{name}", points) for name, points in readings.triggers.items()),
    ]
    for name, points in rows:
        times = [at_s for at_s, _ in points]
        if times != sorted(times):
            yield f"readings.{name}: found times out of order, expected rising ones; sort them"
        if times and times[0] > 0:
            yield f"readings.{name}: found a first point at {times[0]:g} s, expected one at 0; add what it says then"
    for at_s, said in readings.charger:
        if said not in ("plugged", "unplugged"):
            yield f"readings.charger: found {said!r} at {at_s:g} s, expected 'plugged' or 'unplugged'; correct it"
    for at_s, level in readings.battery:
        if not 0 <= level <= 100:
            yield f"readings.battery: found {level:g} at {at_s:g} s, expected 0 to 100 percent; correct it"


_COLUMNS: Final = ("at_s", "event", "value")
_EVENTS: Final = ("request", "battery", "temperature", "charger", "mode", "deadline_ms", "end")


def parse_csv(text: str, origin: str, name: str) -> Trace:
    """A trace from CSV: the columns ``at_s``, ``event``, ``value``, one row an event, in order of time.

    Events are ``request``; ``battery``, ``temperature`` and ``charger`` with a reading; ``mode`` with what a user asks
    for; ``deadline_ms`` with the deadline; ``end``. Without ``end`` the trace ends a second after its last event.

    Raises:
        TraceError: It is not CSV of these columns, or it breaks a rule of the format.
    """
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(rows, [])
        if tuple(one.strip() for one in header) != _COLUMNS:
            raise TraceError(f"{origin}, line 1: found {','.join(header)[:80]!r}, expected {','.join(_COLUMNS)}")
        times: list[float] = []
        levels: dict[str, list[tuple[float, float]]] = {"battery": [], "temperature": []}
        charger: list[tuple[float, str]] = []
        manual: list[ByHand] = []
        deadline_ms, end_s, last_s = 100.0, None, 0.0
        for row in rows:
            if not row:
                continue
            place = f"{origin}, line {rows.line_num}"
            at_s, event, value = _cells(row, place)
            if at_s < last_s:
                raise TraceError(
                    f"{place}: at_s: found {at_s:g} after {last_s:g}, expected rising times; sort the rows"
                )
            last_s = at_s
            match event:
                case "request":
                    times.append(at_s)
                case "battery" | "temperature":
                    levels[event].append((at_s, _number(value, f"{place}: value")))
                case "charger":
                    charger.append((at_s, value))
                case "mode":
                    manual.append(ByHand(at_s=at_s, mode=value))
                case "deadline_ms":
                    deadline_ms = _number(value, f"{place}: value")
                case _:
                    end_s = at_s
            if len(times) > MOST_REQUESTS:
                raise TraceError(f"{place}: found more than {MOST_REQUESTS:,} requests; cut the trace into several")
    except csv.Error as error:
        raise TraceError(f"{origin}, line {rows.line_num}: {error}; expected CSV") from error
    if not times:
        raise TraceError(f"{origin}: found no request, expected at least one row with event 'request'; add some")
    trace = Trace(
        schema=SCHEMA,
        name="".join(one if one.isalnum() else "-" for one in name).strip("-")[:64] or "trace",
        description=f"{len(times):,} recorded requests",
        seconds=end_s if end_s is not None else last_s + 1.0,
        deadline_ms=deadline_ms,
        requests=(Arrivals(kind="recorded", at_s=tuple(times)),),
        readings=Readings(
            battery=tuple(levels["battery"]), temperature=tuple(levels["temperature"]), charger=tuple(charger)
        ),
        manual=tuple(manual),
    )
    if not 0 < trace.seconds <= MOST_SECONDS:
        raise TraceError(f"{origin}: found {trace.seconds:g} seconds, expected at most {MOST_SECONDS}; cut it")
    return checked(trace, origin)


def _cells(row: list[str], place: str) -> tuple[float, str, str]:
    if len(row) not in (2, 3):
        raise TraceError(f"{place}: found {len(row)} cells, expected {','.join(_COLUMNS)}; correct the row")
    event = row[1].strip()
    if event not in _EVENTS:
        raise TraceError(f"{place}: event: found {event[:60]!r}, expected one of {', '.join(_EVENTS)}; correct it")
    at_s = _number(row[0], f"{place}: at_s")
    if at_s < 0:
        raise TraceError(f"{place}: at_s: found {at_s:g}, expected 0 or more; times count from the trace's beginning")
    return at_s, event, row[2].strip() if len(row) == 3 else ""


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TraceError(f"{place}: found {text[:60]!r}, expected a finite number; correct it")
    return value


def as_builtins(trace: Trace) -> dict[str, object]:
    """The trace as plain data."""
    data: dict[str, object] = msgspec.to_builtins(trace)
    return data
