"""Plays many devices: plans × profiles × traces × budgets, and of each case many devices that differ by chance.

Jobs go to any ``concurrent.futures.Executor`` and come back as sums and histograms, in the order in which they were
given: memory does not grow with the number of devices, and the result does not depend on who did the work.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from device_profiles import Profile
from runtime.errors import BundleError
from runtime.plan import bundle as bundles
from runtime.simulation.histogram import Histogram
from runtime.simulation.result import resting_on_assumed
from runtime.simulation.simulate import DEFAULT, Stage, simulate_trace
from runtime.simulation.trace import Readings, Trace

BATCH: Final = 20
"""Devices of a job: enough that sending it costs nothing against playing it, and few enough to share work evenly."""
AHEAD: Final = 16
"""Jobs that are given away at once; more would only wait and take memory."""
MOST_DEVICES: Final = 1_000_000
RATE_SPREAD: Final = 0.3
"""Standard deviation of the logarithm of a device's rate of requests against the trace's."""
LEVEL_SPREAD: Final = 2.0
"""Standard deviation of what a device's battery and temperature differ from the trace's, in percent and in °C."""


class Case(Struct, frozen=True, kw_only=True):
    """What many devices have in common.

    Attributes:
        bundle: Directory of the plan; workers read it themselves.
        profile: The device.
        trace: What happens to it, on average.
        latency_s: Seconds of one answer by mode.
        bytes_per_increment: Write budget in place of the profile's.
        increments_per_second: Pace in place of the profile's.
        second_copy: Whether a second copy can be held, in place of what the profile says.
        own_speed: Whether ``latency_s`` comes from the profile's figures, some of which may be assumed.
        policy: How weights are held that are walked, in place of the profile's.
    """

    bundle: str
    profile: Profile
    trace: Trace
    latency_s: dict[str, float]
    bytes_per_increment: int | None = None
    increments_per_second: float | None = None
    second_copy: bool | None = None
    own_speed: bool = False
    policy: str | None = None


class Spread(Struct, frozen=True, kw_only=True):
    """How a number is spread over devices; within 1 %, but for the largest."""

    median: float
    q90: float
    q99: float
    most: float


class StrategySweep(Struct, frozen=True, kw_only=True):
    """One strategy over all devices of a case."""

    devices: int
    chosen: int
    """Devices for which it would have been chosen."""
    requests: int
    harmed: int
    wrong_by_transition: int
    late: int
    refused: int
    lost: int
    gained: int
    bytes_written: int
    switches: int
    rolled_back: int
    walking_s: float
    total_j: float | None
    harmed_per_1000: Spread
    p99_ms: Spread


class CaseSweep(Struct, frozen=True, kw_only=True):
    """All strategies over the devices of a case."""

    bundle: str
    profile: str
    trace: str
    bytes_per_increment: int
    increments_per_second: float
    second_copy: bool
    policy: str
    devices: int
    strategies: dict[str, StrategySweep]
    left_out: dict[str, str]
    assumed: tuple[str, ...]
    """Names of outcomes that rest on a figure which the profile says is assumed."""


class SweepResult(Struct, frozen=True, kw_only=True):
    """All cases."""

    seed: int
    devices: int
    """Of each case."""
    cases: tuple[CaseSweep, ...]


_SUMS: Final = (
    "requests", "harmed", "wrong_by_transition", "late", "refused", "lost", "gained", "bytes_written", "switches",
    "rolled_back",
)  # fmt: skip


class _Part(Struct, frozen=True, kw_only=True):
    """One strategy over the devices of a job, as it is sent back."""

    devices: int
    chosen: int
    sums: dict[str, int]
    walking_s: float
    total_j: float | None
    harmed: tuple[tuple[tuple[int, int], ...], float]
    p99: tuple[tuple[tuple[int, int], ...], float]


class _Parts(Struct, frozen=True, kw_only=True):
    """What a job sends back."""

    strategies: dict[str, _Part]
    left_out: dict[str, str]
    bytes_per_increment: int
    increments_per_second: float
    second_copy: bool
    assumed: tuple[str, ...]
    policy: str


class _Sum:
    """One strategy over the devices seen so far."""

    def __init__(self) -> None:
        self.devices = self.chosen = 0
        self.sums = dict.fromkeys(_SUMS, 0)
        self.walking_s = 0.0
        self.total_j: float | None = 0.0
        self.harmed, self.p99 = Histogram(), Histogram()

    def part(self) -> _Part:
        """As it is sent."""
        return _Part(
            devices=self.devices, chosen=self.chosen, sums=self.sums, walking_s=self.walking_s, total_j=self.total_j,
            harmed=(self.harmed.bins, self.harmed.most), p99=(self.p99.bins, self.p99.most),
        )  # fmt: skip

    def add(self, part: _Part) -> None:
        """Add what a job saw."""
        self.devices += part.devices
        self.chosen += part.chosen
        for name, value in part.sums.items():
            self.sums[name] += value
        self.walking_s += part.walking_s
        self.total_j = None if self.total_j is None or part.total_j is None else self.total_j + part.total_j
        self.harmed.merge(*part.harmed)
        self.p99.merge(*part.p99)

    def result(self) -> StrategySweep:
        """The final word."""
        return StrategySweep(
            devices=self.devices, chosen=self.chosen, walking_s=self.walking_s, total_j=self.total_j,
            harmed_per_1000=_spread(self.harmed), p99_ms=_spread(self.p99), **self.sums,
        )  # fmt: skip


def sweep(
    cases: Sequence[Case],
    devices: int,
    executor: Executor,
    *,
    strategies: Sequence[str] = DEFAULT,
    seed: int = 0,
    step: Callable[[str], None] = lambda name: None,
) -> SweepResult:
    """Play many devices of each case.

    Args:
        cases: What the devices are.
        devices: How many of each case.
        executor: Where the work is done.
        strategies: Names.
        seed: Decides about everything random; the same on any executor.
        step: Called with each job before its result is waited for.

    Raises:
        BundleError: A plan cannot be read or played, or there are too many devices.
    """
    if not 1 <= devices <= MOST_DEVICES:
        raise BundleError(f"sweep: found {devices} devices, expected 1 to {MOST_DEVICES}; correct the number")
    sums: list[dict[str, _Sum]] = [{} for _ in cases]
    heads: list[_Parts | None] = [None] * len(cases)
    for number, parts in _in_order(executor, _jobs(cases, devices, tuple(strategies), seed), step):
        heads[number] = heads[number] or parts
        for name, part in parts.strategies.items():
            sums[number].setdefault(name, _Sum()).add(part)
    found: list[CaseSweep] = []
    for case, own, head in zip(cases, sums, heads, strict=True):
        assert head is not None, "every case has a job"
        found.append(
            CaseSweep(
                bundle=case.bundle,
                profile=case.profile.name,
                trace=case.trace.name,
                bytes_per_increment=head.bytes_per_increment,
                increments_per_second=head.increments_per_second,
                second_copy=head.second_copy,
                policy=head.policy,
                devices=devices,
                strategies={name: one.result() for name, one in own.items()},
                left_out=head.left_out,
                assumed=head.assumed,
            )
        )
    return SweepResult(seed=seed, devices=devices, cases=tuple(found))


_Job = tuple[int, Case, int, int, tuple[str, ...], int]
"""Case's number, case, first device, one after the last, strategies, seed."""


def _jobs(cases: Sequence[Case], devices: int, strategies: tuple[str, ...], seed: int) -> Iterator[_Job]:
    for number, case in enumerate(cases):
        for first in range(0, devices, BATCH):
            yield number, case, first, min(first + BATCH, devices), strategies, seed


def _in_order(executor: Executor, jobs: Iterator[_Job], step: Callable[[str], None]) -> Iterator[tuple[int, _Parts]]:
    """Results in the order of the jobs, with a bounded number of jobs given away."""
    waiting: deque[tuple[_Job, Future[_Parts]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, executor.submit(_play, *job)))
            if len(waiting) >= AHEAD:
                yield _next(waiting, step)
        while waiting:
            yield _next(waiting, step)
    finally:
        for _, future in waiting:
            future.cancel()


def _next(waiting: deque[tuple[_Job, Future[_Parts]]], step: Callable[[str], None]) -> tuple[int, _Parts]:
    (number, case, first, *_), future = waiting.popleft()
    step(f"{case.trace.name} on {case.profile.name}, device {first}")
    return number, future.result()


def _play(number: int, case: Case, first: int, last: int, strategies: tuple[str, ...], seed: int) -> _Parts:
    """One job: some devices of a case."""
    stage = _stage(case.bundle)
    sums: dict[str, _Sum] = {}
    left_out: dict[str, str] = {}
    result = None
    for device in range(first, last):
        trace, rate, own_seed = device_of(case.trace, seed, number, device)
        result = simulate_trace(
            stage.bundle, case.profile, trace, strategies, seed=own_seed, latency_s=case.latency_s, rate=rate,
            bytes_per_increment=case.bytes_per_increment, increments_per_second=case.increments_per_second,
            second_copy=case.second_copy, policy=case.policy, series=False, stage=stage,
        )  # fmt: skip
        left_out |= result.left_out
        for name, outcome in result.strategies.items():
            own = sums.setdefault(name, _Sum())
            own.devices += 1
            own.chosen += result.choice is not None and result.choice.strategy == name
            for field in _SUMS:
                own.sums[field] += getattr(outcome, field)
            own.walking_s += outcome.walking_s
            own.total_j = None if own.total_j is None or outcome.total_j is None else own.total_j + outcome.total_j
            own.harmed.add(1000 * outcome.harmed / outcome.requests)
            own.p99.add(outcome.p99_ms)
    assert result is not None, "a job has a device"
    return _Parts(
        strategies={name: one.part() for name, one in sums.items()},
        left_out=left_out,
        bytes_per_increment=result.bytes_per_increment,
        increments_per_second=result.increments_per_second,
        second_copy=result.second_copy,
        assumed=resting_on_assumed(result.assumptions, own_speed=case.own_speed),
        policy=result.policy,
    )


def device_of(trace: Trace, seed: int, case: int, device: int) -> tuple[Trace, float, int]:
    """What one device of a case meets: its own readings, rate of requests, and seed.

    Args:
        trace: What the case meets on average.
        seed: The sweep's.
        case: Number of the case.
        device: Number of the device.
    """
    chance = np.random.default_rng([seed, case, device])
    rate = float(np.exp(chance.normal(0.0, RATE_SPREAD)))
    battery, temperature = chance.normal(0.0, LEVEL_SPREAD, 2).tolist()
    readings = trace.readings
    own = Readings(
        battery=tuple((at_s, min(max(level + battery, 0.0), 100.0)) for at_s, level in readings.battery),
        temperature=tuple((at_s, level + temperature) for at_s, level in readings.temperature),
        charger=readings.charger,
        triggers=readings.triggers,
    )
    return msgspec.structs.replace(trace, readings=own), rate, int(chance.integers(2**31))


@functools.lru_cache(maxsize=2)
def _stage(path: str) -> Stage:
    """A plan, read once by each worker; the answers it has learnt stay with it."""
    return Stage.of(bundles.read(path))


def _spread(seen: Histogram) -> Spread:
    return Spread(median=seen.quantile(0.5), q90=seen.quantile(0.9), q99=seen.quantile(0.99), most=seen.most)
