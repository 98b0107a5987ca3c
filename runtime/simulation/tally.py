"""From what happened to every request to what a strategy cost: sums, percentiles, windows of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from device_profiles import Profile
from device_profiles.schema import Writes
from runtime.plan.costs import mean_writes
from runtime.simulation.play import Played
from runtime.simulation.result import Energy, Latency, Series, StrategyOutcome, Worst
from runtime.simulation.room import Room
from runtime.simulation.trace import Trace

WINDOWS = 60
"""Windows of a trace at the most: points that a picture of a phone's width can show."""
MOST_STANDS = 2000
"""Moments of which the network's place is kept; of more, evenly spread ones."""
FEWEST = 50
"""Requests of a window, on average, at the least: fewer make a share of wrong answers meaningless."""

Right = NDArray[np.bool_]


def window_of(seconds: float, requests: int) -> float:
    """Length of a window in seconds."""
    return min(seconds, max(seconds / WINDOWS, FEWEST * seconds / max(requests, 1)))


def tally(
    played: Played,
    profile: Profile,
    trace: Trace,
    writes: Writes,
    room: Room,
    *,
    times: NDArray[np.float64],
    truth: NDArray[np.int64],
    dense_label: NDArray[np.int32],
    mode_right: Mapping[int, Right],
    window_s: float,
    series: bool,
) -> StrategyOutcome:
    """Count.

    Args:
        played: What happened.
        profile: The device.
        trace: What was played.
        writes: Write limits.
        room: The strategy's memory.
        times: When requests came, [N].
        truth: Right label of each request, [N].
        dense_label: What the dense network answers, [N].
        mode_right: Place of a mode in order of power to whether it answers each request right, [N]; of the modes at
            the ends of walks.
        window_s: Length of a window.
        series: Whether the windows are wanted.
    """
    answered = ~np.isnan(played.latency_s)
    right, dense_right = (played.label == truth) & answered, (dense_label == truth) & answered
    lost, gained = dense_right & ~right & answered, right & ~dense_right
    on_the_way = lost & played.mixed
    by_transition = on_the_way.copy()
    for column in range(2):
        for mode in np.unique(played.ends[on_the_way, column]).tolist():
            own = on_the_way & (played.ends[:, column] == mode)
            by_transition[own] &= mode_right[mode][own]
    late = answered & (np.nan_to_num(played.latency_s) * 1e3 > trace.deadline_ms)
    given_ms = played.latency_s[answered] * 1e3
    total = max(int(answered.sum()), 1)
    ledger = played.mover.ledger
    ledger_wear = max((int(rows.max()) for rows in ledger.wear.values() if len(rows)), default=0)
    copies = 2 if room.peak_bytes and not room.gap and ledger.physical and _takes_turns(played) else 1
    wear = math.ceil(ledger_wear / copies) * mean_writes(writes)
    stands = profile.writes.endurance_writes
    energy = _energy(profile, trace.seconds, int(played.macs[answered].sum()) + ledger.asked_macs, ledger.physical)
    number = max(1, math.ceil(trace.seconds / window_s - 1e-9))
    window = np.minimum((times / window_s).astype(np.int64), number - 1)
    counts = {
        key: np.bincount(window[mask], minlength=number)
        for key, mask in (("answered", answered), ("lost", lost), ("gained", gained))
    }
    return StrategyOutcome(
        requests=len(times),
        answered=int(answered.sum()),
        refused=int((~answered).sum()),
        late=int(late.sum()),
        right=int(right.sum()),
        dense_right=int(dense_right.sum()),
        different=int((answered & (played.label != dense_label)).sum()),
        lost=int(lost.sum()),
        gained=int(gained.sum()),
        on_the_way=int((played.mixed & answered).sum()),
        lost_on_the_way=int(on_the_way.sum()),
        wrong_by_transition=int(by_transition.sum()),
        paired_loss_points=100.0 * (int(lost.sum()) - int(gained.sum())) / total,
        worst_window=_worst(counts, window_s),
        p50_ms=_percentile(given_ms, 50),
        p99_ms=_percentile(given_ms, 99),
        longest_ms=float(given_ms.max()) if len(given_ms) else 0.0,
        at_rest=_latency(played.latency_s[~played.under_way]),
        under_way=_latency(played.latency_s[played.under_way]),
        mean_macs=int(played.macs[answered].sum()) / total,
        energy=energy,
        total_j=energy.total_j,
        bytes_written=ledger.written,
        physical_bytes=ledger.physical,
        increments=ledger.increments,
        wear_writes=wear,
        wear_share=None if stands is None or stands.value <= 0 else wear / stands.value,
        peak_weight_bytes=room.peak_bytes,
        walking_s=ledger.walking_s,
        switches=ledger.switches,
        turned=ledger.turned,
        rolled_back=ledger.rolled_back,
        conflicts=played.conflicts,
        longest_stall_ms=ledger.stall_s * 1e3,
        mode_s=played.mode_s,
        series=_series(played, profile, trace, window_s, number, window, answered, right, dense_right, by_transition,
                       late) if series else None,
    )  # fmt: skip


def _takes_turns(played: Played) -> bool:
    """Whether two copies are written by turns, so that each cell is written every other time."""
    from runtime.simulation.replacing import Replacer

    return isinstance(played.mover, Replacer)


def _percentile(values: NDArray[np.float64], share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else 0.0


def _latency(seconds: NDArray[np.float64]) -> Latency | None:
    given_ms = seconds[~np.isnan(seconds)] * 1e3
    if not len(given_ms):
        return None
    return Latency(answered=len(given_ms), p50_ms=_percentile(given_ms, 50), p99_ms=_percentile(given_ms, 99))


def _energy(profile: Profile, seconds: float, macs: int, physical: float) -> Energy:
    figures = profile.energy
    if figures is None:
        return Energy(idle_j=None, answers_j=None, writes_j=None)
    idle, per_mac, per_byte = figures.idle_w, figures.joules_per_mac, figures.joules_per_byte_written
    return Energy(
        idle_j=None if idle is None else idle.value * seconds,
        answers_j=None if per_mac is None else per_mac.value * macs,
        writes_j=None if per_byte is None else per_byte.value * physical,
    )


def _worst(counts: Mapping[str, NDArray[np.int64]], window_s: float) -> Worst | None:
    answered = counts["answered"]
    enough = answered >= FEWEST // 5
    if not enough.any():
        return None
    share = np.where(enough, (counts["lost"] - counts["gained"]) / np.maximum(answered, 1), -np.inf)
    place = int(share.argmax())
    return Worst(from_s=place * window_s, answered=int(answered[place]), lost_points=100.0 * float(share[place]))


def _series(
    played: Played,
    profile: Profile,
    trace: Trace,
    window_s: float,
    number: int,
    window: NDArray[np.int64],
    answered: Right,
    right: Right,
    dense_right: Right,
    by_transition: Right,
    late: Right,
) -> Series:
    def count(mask: Right) -> NDArray[np.int64]:
        return np.bincount(window[mask], minlength=number)

    def share(part: Right) -> tuple[float | None, ...]:
        return tuple(
            None if not whole else some / whole
            for some, whole in zip(count(part).tolist(), given.tolist(), strict=True)
        )

    given = count(answered)
    begins = np.searchsorted(window, np.arange(number + 1))
    latencies: list[tuple[float | None, float | None]] = []
    for low, high in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        inside = played.latency_s[low:high]
        inside = inside[~np.isnan(inside)]
        if len(inside):
            middle, high_ms = np.percentile(inside * 1e3, (50, 99)).tolist()
            latencies.append((middle, high_ms))
        else:
            latencies.append((None, None))
    moments = np.array([at_s for at_s, _ in played.stands])
    ends = np.minimum(np.arange(1, number + 1) * window_s, trace.seconds)
    at = np.maximum(np.searchsorted(moments, ends, side="right") - 1, 0)
    return Series(
        at_s=tuple((np.arange(number) * window_s).tolist()),
        requests=tuple(np.bincount(window, minlength=number).tolist()),
        answered=tuple(given.tolist()),
        accuracy=share(right),
        dense_accuracy=share(dense_right),
        wrong_by_transition=tuple(count(by_transition).tolist()),
        late=tuple(count(late).tolist()),
        refused=tuple(count(~answered).tolist()),
        p50_ms=tuple(low for low, _ in latencies),
        p99_ms=tuple(high for _, high in latencies),
        macs=tuple(
            None if not whole else some / whole
            for some, whole in zip(
                np.bincount(window[answered], played.macs[answered].astype(np.float64), number).tolist(),
                given.tolist(),
                strict=True,
            )
        ),
        watts=_watts(played, profile, trace, window_s, number, window, answered),
        position=tuple(played.stands[place][1] for place in at.tolist()),
        stands=tuple(played.stands[:: -(-len(played.stands) // MOST_STANDS)]),
    )


def _watts(
    played: Played, profile: Profile, trace: Trace, window_s: float, number: int, window: NDArray[np.int64],
    answered: Right,
) -> tuple[float | None, ...]:  # fmt: skip
    figures = profile.energy
    if figures is None or figures.idle_w is None or figures.joules_per_mac is None:
        return (None,) * number

    def by_window(events: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
        at_s, amounts = np.array(events, np.float64).reshape(-1, 2).T
        where = np.minimum((at_s / window_s).astype(np.int64), number - 1)
        summed: NDArray[np.float64] = np.bincount(where, amounts, minlength=number).astype(np.float64)
        return summed

    ledger = played.mover.ledger
    macs = np.bincount(window[answered], weights=played.macs[answered].astype(np.float64), minlength=number)
    joules = figures.joules_per_mac.value * (macs + by_window(ledger.asked))
    if figures.joules_per_byte_written is not None:
        joules = joules + figures.joules_per_byte_written.value * by_window(ledger.spent)
    lengths = np.minimum(np.arange(1, number + 1) * window_s, trace.seconds) - np.arange(number) * window_s
    watts: list[float | None] = (figures.idle_w.value + joules / lengths).tolist()
    return tuple(watts)
