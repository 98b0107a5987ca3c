"""Plays a trace with several strategies and puts the results side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from device_profiles import Figure, Profile
from device_profiles.figure import Origin
from device_profiles.schema import Writes
from runtime.device.succession import macs_of
from runtime.errors import BundleError
from runtime.plan.bundle import Bundle
from runtime.plan.costs import wanted_policy
from runtime.plan.fit import Policy, check_profile_modes, resolved
from runtime.plan.graphs import live_session
from runtime.sensing.energy import by_power
from runtime.simulation.answers import AnswerBook, Labels
from runtime.simulation.arrivals import request_times
from runtime.simulation.choosing import choose
from runtime.simulation.device import with_triggers
from runtime.simulation.latency import check_latency, latency_of_profile, measure_latency
from runtime.simulation.paths import Paths, Place, paths_of
from runtime.simulation.play import Cast, Played, family_of, play
from runtime.simulation.result import Assumption, StrategyOutcome, TraceResult, resting_on_assumed
from runtime.simulation.room import room_for
from runtime.simulation.simulator import PLANNED, STRATEGIES, why_not
from runtime.simulation.tally import tally, window_of
from runtime.simulation.trace import Trace
from runtime.walking.bank import InPlaceBank
from runtime.walking.engine import LiveRunner
from runtime.walking.session import Session

ALL = (PLANNED, *STRATEGIES)
DEFAULT = (PLANNED, "ordered", "zero-first", "naive", "flip", "reload")
"""What is played unless somebody asks for more."""
STEPS = 10
"""Parts of a trace after which those who wait are told how far it is."""
MOST_PATH_BYTES = 64 * 1024 * 1024
"""Rows of strategies that are kept: those of a ramp take ten times the weights that move."""


@dataclass
class Stage:
    """A plan ready to be played many times: its session, its paths, and the answers that are known already.

    Attributes:
        bundle: The plan.
        session: Its live network.
        book: Answers by state.
        paths: Strategy to what it writes, the one that was asked for last at the end.
        verdicts: What canary and guard say, by question and state.
    """

    bundle: Bundle
    session: Session
    book: AnswerBook
    paths: dict[str, Paths] = field(default_factory=dict)
    verdicts: dict[tuple[str, Place], str] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Bundle, threads: int = 1) -> Stage:
        """Open a plan's live network."""
        return cls(bundle, live_session(bundle, threads), AnswerBook(bundle.evaluation))

    def of_strategy(self, name: str) -> Paths:
        """What a strategy writes; compiled once, or again where rows are large."""
        found = self.paths.pop(name, None)
        own = sum(rows.nbytes for rows in self.bundle.table.pool.values())
        # Before others are made: two ramps of a large network at once would be much.
        while self.paths and sum(one.own_bytes - own for one in self.paths.values()) > MOST_PATH_BYTES:
            self.paths.pop(next(iter(self.paths)))
        found = self.paths[name] = found or paths_of(self.bundle, name)
        return found


def simulate_trace(
    bundle: Bundle,
    profile: Profile,
    trace: Trace,
    strategies: Sequence[str] | None = None,
    *,
    seed: int = 0,
    latency_s: Mapping[str, float] | None = None,
    latency_source: str = "given",
    bytes_per_increment: int | None = None,
    increments_per_second: float | None = None,
    second_copy: bool | None = None,
    policy: str | None = None,
    rate: float = 1.0,
    window_s: float | None = None,
    series: bool = True,
    stage: Stage | None = None,
    step: Callable[[str], None] = lambda name: None,
    keep: Callable[[str, Played], None] | None = None,
) -> TraceResult:
    """Play a trace on a virtual clock with several strategies.

    The same requests come at the same times and ask about the same held-out samples, whatever the strategy. With
    ``latency_s`` given, or a profile that knows its speed, the same seed gives the same result on every machine.

    Args:
        bundle: A checked plan.
        profile: The device.
        trace: What happens to it.
        strategies: Names; None for ``DEFAULT``.
        seed: Decides about everything that is random.
        latency_s: Seconds of one answer at each mode, and under ``live`` of the dense graph on weights that move; None
            for the profile's figures, and where it has none for what is measured on this machine.
        latency_source: Where ``latency_s`` comes from, in words.
        bytes_per_increment: Write budget in place of the profile's.
        increments_per_second: Pace in place of the profile's.
        second_copy: Whether a second copy of weights can be held, in place of what the profile says.
        policy: ``auto``, ``in-place`` or ``shadow``, in place of the profile's; ``persistent`` is played as in-place.
        rate: Factor on how often requests come.
        window_s: Length of the windows of time; None for 60 of them, or fewer where few requests come.
        series: Whether the result holds the windows.
        stage: What was opened of this plan before.
        step: Called ``STEPS`` times with each strategy and how far it is, as its trace is played.
        keep: Called with each strategy and all that happened.

    Raises:
        BundleError: The plan does not fit the profile, or has no transition.
        TraceError: The trace asks for what the plan does not have.
    """
    if not bundle.transitions:
        raise BundleError(f"{bundle.path}: found no transition, expected at least one to simulate")
    check_profile_modes(bundle.manifest, profile, str(bundle.path))
    stage = stage or Stage.of(bundle, 1)
    latency, source = _latency(bundle, profile, latency_s, latency_source)
    device, whose = with_triggers(profile, trace, bundle)
    order = by_power(macs_of(bundle.manifest))
    writes = _replaced(profile.writes, bytes_per_increment, increments_per_second)
    copy = profile.memory.second_copy if second_copy is None else second_copy
    held = _policy(bundle, profile, policy, second_copy=copy)
    cast = Cast(bundle, stage.session, stage.book, latency, order, held, stage.verdicts)
    # One stream for each kind of chance, so that another rate does not draw other samples at the same times.
    arrivals, drawn = (np.random.default_rng([seed, stream]) for stream in (1, 2))
    times = request_times(trace, arrivals, rate)
    samples = drawn.integers(0, len(bundle.evaluation), len(times))
    window = window_s or window_of(trace.seconds, len(times))
    truth = bundle.evaluation.labels[samples]
    modes = _ModeAnswers(stage, order, samples)
    outcomes: dict[str, StrategyOutcome] = {}
    left_out: dict[str, str] = {}
    for name in DEFAULT if strategies is None else strategies:
        room = room_for(name, bundle, profile, second_copy=copy, policy=held)
        if why := why_not(bundle, name) or room.why_not:
            left_out[name] = why
            for _ in range(STEPS):
                step(name)
            continue
        played = play(
            name,
            cast,
            device,
            trace,
            paths=stage.of_strategy(name),
            times=times,
            samples=samples,
            writes=writes,
            room=room,
            tell=_Teller(step, name, trace.seconds),
        )
        if keep is not None:
            keep(name, played)
        ends = np.unique(played.ends[played.mixed])
        outcomes[name] = tally(
            played, device, trace, writes, room,
            times=times, truth=truth, dense_label=modes.labels(bundle.manifest.modes[0].name),
            mode_right={place: modes.labels(order[place]) == truth for place in ends.tolist()},
            window_s=window, series=series,
        )  # fmt: skip
        del played  # of a large network, it holds two copies of the weights
    return TraceResult(
        trace=trace.name,
        description=trace.description,
        seconds=trace.seconds,
        deadline_ms=trace.deadline_ms,
        profile=profile.name,
        bundle=bundle.id,
        seed=seed,
        modes=order,
        triggers=whose,
        samples=len(bundle.evaluation),
        dense_accuracy=float((modes.labels(bundle.manifest.modes[0].name) == truth).mean()),
        bytes_per_increment=writes.bytes_per_increment,
        increments_per_second=writes.increments_per_second,
        second_copy=copy,
        policy=held,
        latency_ms={name: seconds * 1e3 for name, seconds in latency.items()},
        latency_source=source,
        window_s=window,
        strategies=outcomes,
        left_out=left_out,
        choice=choose(outcomes, left_out),
        assumptions=(used := assumptions(profile, writes)),
        assumed=resting_on_assumed(used, own_speed=source == _OWN_SPEED),
    )


def _replaced(writes: Writes, bytes_per_increment: int | None, increments_per_second: float | None) -> Writes:
    """Write limits, some of them given for a simulation."""
    given = {"bytes_per_increment": bytes_per_increment, "increments_per_second": increments_per_second}
    return structs.replace(writes, **{name: value for name, value in given.items() if value is not None})


def _policy(bundle: Bundle, profile: Profile, policy: str | None, *, second_copy: bool) -> Policy:
    """How weights are held that are walked, as a network decides when it is opened."""
    origin = f"{bundle.path} on {profile.name}"
    device = structs.replace(profile, memory=structs.replace(profile.memory, second_copy=second_copy))
    wanted = wanted_policy(device, policy, origin) or device.bank.policy
    if wanted not in ("auto", "in-place", "shadow", "persistent"):
        raise BundleError(f"{origin}: policy: found {wanted!r}, expected auto, in-place, shadow or persistent")
    return "shadow" if resolved(bundle, device, wanted) == "shadow" else "in-place"


class _Teller:
    """Tells whoever waits how far a trace is played."""

    def __init__(self, step: Callable[[str], None], name: str, seconds: float) -> None:
        self._step, self._name, self._seconds = step, name, seconds
        self._told = 0

    def __call__(self, now_s: float) -> None:
        """So far it is."""
        while self._told < STEPS and now_s >= self._told * self._seconds / STEPS:
            self._step(f"{self._name}, {self._told * self._seconds / STEPS:,.0f} of {self._seconds:,.0f} s")
            self._told += 1


class _ModeAnswers:
    """What the modes answer to the requests of a trace, asked for when it is needed."""

    def __init__(self, stage: Stage, order: tuple[str, ...], samples: NDArray[np.int64]) -> None:
        self._stage = stage
        self._order = order
        self._samples = samples
        self._known: dict[str, Labels] = {}

    def labels(self, mode: str) -> Labels:
        """Label of each request at a mode, int32 [N]."""
        if mode not in self._known:
            bundle, session = self._stage.bundle, self._stage.session
            runner = LiveRunner(session, InPlaceBank(bundle.table, bundle.states[mode], session.bind))
            place = (mode, mode, 0)
            family = family_of("", place)
            self._known[mode] = self._stage.book.answers(family, place, self._samples, runner.run)
        return self._known[mode]


def _latency(
    bundle: Bundle, profile: Profile, given: Mapping[str, float] | None, words: str
) -> tuple[dict[str, float], str]:
    if given is not None:
        return check_latency(given, bundle), words
    if (known := latency_of_profile(bundle, profile)) is not None:
        return known, _OWN_SPEED
    return measure_latency(bundle, profile.threads), "measured on this machine: the profile names no speed"


_OWN_SPEED = "the profile's target.macs_per_second and target.overhead_ms"
_FIGURES = (
    "target.macs_per_second", "target.overhead_ms", "writes.bytes_per_second", "writes.endurance_writes",
    "writes.verify.mean_writes", "energy.idle_w", "energy.joules_per_mac", "energy.joules_per_byte_written",
)  # fmt: skip


def assumptions(profile: Profile, writes: Writes) -> tuple[Assumption, ...]:
    """The figures that a simulation uses, with where each comes from; plain numbers with their origin.

    Args:
        profile: The device.
        writes: Its write limits, some of them maybe replaced for this simulation.
    """
    found: list[Assumption] = []
    for name in _FIGURES:
        value: object = profile
        for part in name.split("."):
            value = None if value is None else getattr(value, part)
        if isinstance(value, Figure):
            found.append(Assumption(name=name, value=value.value, provenance=value.provenance, source=value.source))
    plain: dict[str, float] = {
        "writes.bytes_per_increment": writes.bytes_per_increment,
        "writes.increments_per_second": writes.increments_per_second,
        "writes.stall_budget_ms": profile.writes.stall_budget_ms,
        "memory.weights_bytes": profile.memory.weights_bytes,
        "queue_limit": profile.queue_limit,
    }
    for name, number in plain.items():
        origin = profile.origins.get(name)
        if name.startswith("writes.") and getattr(writes, name[7:]) != getattr(profile.writes, name[7:]):
            origin = Origin(provenance="assumed", source="given for this simulation, in place of the profile's")
        found.append(
            Assumption(
                name=name,
                value=float(number),
                provenance="assumed" if origin is None else origin.provenance,
                source="a choice of the profile" if origin is None else origin.source,
            )
        )
    return tuple(found)
