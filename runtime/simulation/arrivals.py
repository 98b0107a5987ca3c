"""When requests come, and what sensors say at a moment: a trace and a seed made into numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from device_profiles import Trigger
from runtime.deciding.triggers import Reading
from runtime.errors import SourceError
from runtime.simulation.trace import Arrivals, Trace, TraceError

Times = NDArray[np.float64]


def request_times(trace: Trace, generator: np.random.Generator, rate: float = 1.0) -> Times:
    """When requests come, in order, float64 [N].

    Args:
        trace: Whose.
        generator: What decides about those at random; a trace without any leaves it alone.
        rate: Factor on how often requests come. Recorded ones stay as they are.

    Raises:
        TraceError: The trace comes to no request at all.
    """
    parts = [_times(one, trace.seconds, generator, rate) for one in trace.requests]
    times = np.sort(np.concatenate(parts), kind="stable")
    if not len(times):
        raise TraceError(f"trace {trace.name}: found no request, expected at least one; raise a rate or lengthen it")
    return times


def _times(one: Arrivals, seconds: float, generator: np.random.Generator, rate: float) -> Times:
    until_s = seconds if one.until_s is None else one.until_s
    span = until_s - one.from_s
    if one.kind == "recorded":
        times = np.array(one.at_s, np.float64)
        return times[(times >= one.from_s) & (times < until_s)]
    if one.kind == "bursts":
        assert one.every_s is not None
        assert one.count is not None
        assert one.within_s is not None
        begins = np.arange(one.from_s, until_s, one.every_s / rate)
        offsets = np.arange(one.count) * (one.within_s / one.count)
        times = (begins[:, None] + offsets[None, :]).ravel()
        return times[times < until_s]
    assert one.per_second is not None
    if one.kind == "constant":
        return one.from_s + np.arange(0, span, 1.0 / (one.per_second * rate))
    # Of a Poisson process with a known number of events, the events lie uniformly.
    return one.from_s + span * generator.random(generator.poisson(span * one.per_second * rate))


class Sensors:
    """Reads a trace as ``runtime.sensing.sources.Sources`` reads a board.

    Args:
        trace: Whose readings.
        clock: Seconds since the trace began.
    """

    def __init__(self, trace: Trace, clock: Clock) -> None:
        self._readings = trace.readings
        self._clock = clock

    def read(self, rule: Trigger) -> Reading:
        """Present reading of a trigger's source.

        Raises:
            SourceError: The trace has none.
        """
        readings = self._readings
        points: Sequence[tuple[float, float | str]]
        match rule.source:
            case "battery":
                points = readings.battery
            case "temperature":
                points = readings.temperature
            case "charger":
                points = readings.charger
            case _:
                points = readings.triggers.get(rule.name, ())
        if not points:
            raise SourceError(f"trigger {rule.name}: the trace has no readings of {rule.source}; add some")
        return reading_at(points, self._clock.now_s)


class Clock:
    """Virtual time in seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Seconds since the beginning."""
        return self.now_s


def reading_at(points: Sequence[tuple[float, float | str]], now_s: float) -> Reading:
    """What points in time say at a moment: numbers on the line between two, a text until the next."""
    place = bisect_right(points, now_s, key=lambda point: point[0]) - 1
    place = max(place, 0)
    begun_s, before = points[place]
    if place + 1 == len(points) or isinstance(before, str):
        return before
    ends_s, after = points[place + 1]
    if isinstance(after, str) or ends_s <= begun_s:
        return before
    share = min(max((now_s - begun_s) / (ends_s - begun_s), 0.0), 1.0)
    return before + share * (after - before)
