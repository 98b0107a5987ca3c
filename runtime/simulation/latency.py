"""How long one answer takes at each mode: by the profile's figures, or measured here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import numpy as np

from device_profiles import Profile
from runtime.plan.bundle import Bundle
from runtime.plan.graphs import compact_session, live_session
from runtime.simulation.trace import TraceError
from runtime.walking.bank import InPlaceBank
from runtime.walking.engine import CompactRunner, Engine, LiveRunner, Runner

LIVE: Final = "live"
"""Key of the dense graph on weights that move, which answers on the way."""
GAP_S: Final = 5e-3
"""On average between two answers that are measured. Requests come apart, and the caches are another's meanwhile: then a
network of ten microseconds takes twice as long on an idle machine, and seven times on a busy one."""


def latency_of_profile(bundle: Bundle, profile: Profile) -> dict[str, float] | None:
    """Seconds of one answer by mode, from the profile's figures; None where it has none.

    On the way the dense graph answers, which computes as much as the dense mode.
    """
    rate, overhead = profile.target.macs_per_second, profile.target.overhead_ms
    if rate is None or rate.value <= 0:
        return None
    fixed_s = 0.0 if overhead is None else overhead.value / 1e3
    modes = bundle.manifest.modes
    return {mode.name: fixed_s + mode.macs / rate.value for mode in modes} | {
        LIVE: fixed_s + modes[0].macs / rate.value
    }


def measure_latency(
    bundle: Bundle, threads: int, *, seconds: float = 0.5, rounds: int = 3, gap_s: float = GAP_S
) -> dict[str, float]:
    """Median seconds of one answer by mode on this machine, through the runtime's engine.

    The modes take turns, so that a machine that is busy for a moment does not slow one of them alone. Only one network
    is held at a time.

    Args:
        bundle: The plan.
        threads: Threads that compute one answer.
        seconds: Time spent on each mode in each round.
        rounds: Rounds.
        gap_s: Mean seconds between two answers; they are as random as those between requests.
    """
    rng = np.random.default_rng(0)
    names = (*(mode.name for mode in bundle.manifest.modes), LIVE)
    seen: dict[str, list[float]] = {name: [] for name in names}
    inputs = bundle.evaluation.inputs
    for _ in range(rounds):
        for name in names:
            engine = Engine(_runner(bundle, name, threads), exclusive=True, queue_limit=1)
            for place in range(5):
                engine.infer(inputs[place % len(inputs)][None])
            until = time.perf_counter() + seconds
            place = 0
            while time.perf_counter() < until:
                x = inputs[place % len(inputs)][None]
                begun = time.perf_counter()
                engine.infer(x)
                answered = time.perf_counter()
                seen[name].append(answered - begun)
                place += 1
                # Spinning, not sleeping: a core that wakes up takes longer, which is no matter of the runtime's.
                gap_end = answered + rng.exponential(gap_s)
                while time.perf_counter() < gap_end:
                    time.sleep(0)
    return {name: float(np.median(times)) for name, times in seen.items()}


def _runner(bundle: Bundle, name: str, threads: int) -> Runner:
    """What answers at a mode, or on the way."""
    if name != LIVE:
        return CompactRunner(compact_session(bundle, name, threads))
    session = live_session(bundle, threads)
    return LiveRunner(session, InPlaceBank(bundle.table, bundle.table.dense(), session.bind))


def check_latency(latency_s: Mapping[str, float], bundle: Bundle) -> dict[str, float]:
    """Seconds by mode, complete.

    Args:
        latency_s: Mode to seconds; ``live`` may be left out, and is the dense mode's then.
        bundle: The plan.

    Raises:
        TraceError: A mode is missing or unknown, or a time is not a positive number.
    """
    modes = [mode.name for mode in bundle.manifest.modes]
    if missing := [name for name in modes if name not in latency_s]:
        raise TraceError(f"latency: found none of {', '.join(missing)}, expected one of every mode of the plan")
    if unknown := sorted(set(latency_s) - {*modes, LIVE}):
        raise TraceError(f"latency: found {', '.join(unknown)}, expected only {', '.join(modes)} and {LIVE}")
    for name, value in latency_s.items():
        if not 0 < value < float("inf"):
            raise TraceError(f"latency of {name}: found {value}, expected a positive number of seconds")
    return {LIVE: latency_s[modes[0]], **latency_s}
