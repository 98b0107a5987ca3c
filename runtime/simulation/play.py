"""Plays one strategy: requests, sensors and increments in the order of a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_profiles import Profile
from device_profiles.schema import Writes
from runtime.device.succession import default_mode, macs_of
from runtime.plan.bundle import Bundle
from runtime.plan.fit import Policy
from runtime.simulation.answers import AnswerBook
from runtime.simulation.arrivals import Clock, Times
from runtime.simulation.device import VirtualDevice
from runtime.simulation.latency import LIVE
from runtime.simulation.line import Line
from runtime.simulation.mover import Mover
from runtime.simulation.paths import Paths, Place
from runtime.simulation.questions import Questions
from runtime.simulation.replacing import Replacer
from runtime.simulation.room import Room
from runtime.simulation.trace import ByHand, Held, Trace
from runtime.simulation.walking import Walker
from runtime.walking.bank import InPlaceBank, ShadowBank
from runtime.walking.behind import SLOWER
from runtime.walking.engine import LiveRunner, Runner
from runtime.walking.net import DeployedPlan
from runtime.walking.rows import State
from runtime.walking.session import Session, Weights

AT_ONCE = ("flip", "reload")


@dataclass(frozen=True)
class Cast:
    """Who plays: what all devices of one plan share.

    Attributes:
        bundle: The plan.
        session: Its live network.
        book: Answers that are known.
        latency_s: Mode, and ``live``, to the seconds of one answer.
        order: Modes, that of lowest power first.
        policy: How weights are held that are walked.
        verdicts: What canary and guard are known to say.
    """

    bundle: Bundle
    session: Session
    book: AnswerBook
    latency_s: Mapping[str, float]
    order: tuple[str, ...]
    policy: Policy
    verdicts: dict[tuple[str, Place], str]


@dataclass(frozen=True)
class Played:
    """What happened to every request, and to the network.

    Attributes:
        latency_s: Seconds to the answer, NaN where refused; float64 [N].
        label: Answer of each request, -1 where refused; int32 [N].
        mixed: Whether it was answered in a state that is neither end of a transition; bool [N].
        under_way: Whether it came while a switch was under way, the canary's questions included; bool [N].
        ends: Of a mixed state, places in the order of power of the modes at its two ends; int16 [N, 2].
        macs: Multiply-accumulates of each answer; int64 [N].
        mover: The network as it stands at the end, and what writing cost.
        stands: (seconds, place) of the network, from each moment on: the place of a mode in order of power, or between.
        mode_s: Mode to the seconds during which it was the one reached last.
        conflicts: Requests for a mode that were refused.
        visited: States in the order in which they were reached.
    """

    latency_s: NDArray[np.float64]
    label: NDArray[np.int32]
    mixed: NDArray[np.bool_]
    under_way: NDArray[np.bool_]
    ends: NDArray[np.int16]
    macs: NDArray[np.int64]
    mover: Mover
    stands: list[tuple[float, float]]
    mode_s: dict[str, float]
    conflicts: int
    visited: list[Place]


class _Seen(NamedTuple):
    """What requests meet."""

    place: Place
    dense: bool
    asking: bool
    under_way: bool


def play(
    name: str,
    cast: Cast,
    profile: Profile,
    trace: Trace,
    *,
    paths: Paths,
    times: Times,
    samples: NDArray[np.int64],
    writes: Writes,
    room: Room,
    tell: Callable[[float], None] = lambda now_s: None,
) -> Played:
    """Play a trace with one strategy.

    Args:
        name: The strategy.
        cast: Plan, network and answers.
        profile: The device, with the triggers that count.
        trace: What happens.
        paths: What the strategy writes.
        times: When requests come, float64 [N].
        samples: Which held-out sample each asks about, int64 [N].
        writes: Write limits.
        room: Its memory.
        tell: Called with the virtual time, again and again.
    """
    stage = _Stage(name, cast, profile, trace, paths, times, samples, writes, room)
    stage.run(tell)
    return stage.played()


class _Stage:
    """One strategy on one device while a trace is played."""

    def __init__(
        self,
        name: str,
        cast: Cast,
        profile: Profile,
        trace: Trace,
        paths: Paths,
        times: Times,
        samples: NDArray[np.int64],
        writes: Writes,
        room: Room,
    ) -> None:
        self._name, self._cast, self._trace, self._paths = name, cast, trace, paths
        self._times, self._samples = times, samples
        self._macs = macs_of(cast.bundle.manifest)
        self._dense = cast.bundle.manifest.modes[0].name
        self._poll_s = profile.poll_s
        # Taking turns, so many may wait for the one that is answered; else so many may be answered at once.
        self._clock, self._line = Clock(), Line(profile.queue_limit - (cast.policy == "shadow"))
        begin, snap = default_mode(cast.bundle.manifest, profile), profile.bank.snap
        self._made: dict[str, Runner] = {}
        self._mover: Mover
        if name in AT_ONCE:
            self._mover = Replacer(
                name, cast.bundle, paths, begin, writes, self._line, self._clock, self._look_up, self._make,
                gap=room.gap, snap=snap,
            )  # fmt: skip
        else:
            live = self._live_at(paths.states[begin], ShadowBank if cast.policy == "shadow" else InPlaceBank)
            questions = Questions(
                DeployedPlan(cast.bundle, profile, cast.policy), cast.latency_s, self._macs, cast.verdicts, name,
                every=profile.guard.canary_every_increments, snap=snap, trusting=name == "plain",
            )  # fmt: skip
            self._mover = Walker(paths, live, begin, writes, self._line, self._clock, self._look_up, questions, snap)
        self._device = VirtualDevice(cast.bundle, profile, cast.policy, trace, self._mover, self._clock)
        count = len(times)
        self._latency_s = np.full(count, np.nan)
        self._label = np.full(count, -1, np.int32)
        self._mixed = np.zeros(count, np.bool_)
        self._under_way = np.zeros(count, np.bool_)
        self._ends = np.zeros((count, 2), np.int16)
        self._answer_macs = np.zeros(count, np.int64)
        self._served = 0
        self._waiting: list[tuple[int, int]] = []
        """Requests whose answers are not looked up yet; all of them were answered in the present state."""
        self._stands = [(0.0, float(cast.order.index(begin)))]
        self._mode_s = dict.fromkeys(cast.order, 0.0)
        self._reached, self._reached_s = begin, 0.0
        self._visited = [self._mover.place]

    def run(self, tell: Callable[[float], None]) -> None:
        """Play to the end of the trace."""
        trace, clock, mover, device = self._trace, self._clock, self._mover, self._device
        script: Sequence[ByHand | Held] = sorted((*trace.manual, *trace.holds), key=lambda one: one.at_s)
        told, poll_at_s = 0, 0.0
        while True:
            told_s = script[told].at_s if told < len(script) else None
            moments = (trace.seconds, told_s, poll_at_s, device.next_s(), mover.due_s())
            # What has ended already is looked at once more now, not in the past.
            now_s = max(min(at_s for at_s in moments if at_s is not None), clock.now_s)
            tell(min(now_s, trace.seconds))
            if now_s >= trace.seconds:
                break
            clock.now_s = now_s
            due_s, found = mover.due_s(), self._seen()
            if told_s is not None and told_s <= now_s:
                one = script[told]
                told += 1
                if isinstance(one, Held):
                    device.hold(one)
                else:
                    device.ask(one)
            elif poll_at_s <= now_s or due_s is None or due_s > now_s:
                device.poll()
                while poll_at_s <= now_s:
                    poll_at_s += self._poll_s if device.polls else trace.seconds
            else:
                self._serve_until(now_s, found)
                mover.advance(now_s)
                device.settle()
            if self._seen() != found:
                # Whoever came before this moment met what was there then.
                self._serve_until(now_s, found)
                self._note(now_s)
        self._serve_until(trace.seconds, self._seen())
        clock.now_s = trace.seconds
        self._look_up()
        mover.stop(trace.seconds)
        self._mode_s[self._reached] += trace.seconds - self._reached_s

    def played(self) -> Played:
        """What happened."""
        return Played(
            self._latency_s, self._label, self._mixed, self._under_way, self._ends, self._answer_macs, self._mover,
            self._stands, self._mode_s, len(self._device.conflicts), self._visited,
        )  # fmt: skip

    def _live_at(
        self, state: State, bank: type[InPlaceBank[Weights] | ShadowBank[Weights]] = InPlaceBank
    ) -> LiveRunner:
        return LiveRunner(self._cast.session, bank(self._paths.table, state, self._cast.session.bind))

    def _make(self, mode: str) -> Runner:
        """What answers at a mode, for strategies that write nothing in place."""
        if mode not in self._made:
            self._made[mode] = self._live_at(self._paths.states[mode])
        return self._made[mode]

    def _seen(self) -> _Seen:
        mover = self._mover
        return _Seen(mover.place, mover.dense, mover.asking, mover.due_s() is not None)

    def _serve_until(self, now_s: float, found: _Seen) -> None:
        """Let the requests before a moment into the line, which find a state and a graph."""
        place, dense, asking, under_way = found
        low, high = self._served, int(np.searchsorted(self._times, now_s, side="left"))
        if low == high:
            return
        self._served = high
        order = self._cast.order
        service_s = self._cast.latency_s[LIVE if dense else place[0]] * (SLOWER if asking else 1.0)
        self._latency_s[low:high] = self._line.serve(self._times[low:high], service_s)
        self._answer_macs[low:high] = self._macs[self._dense if dense else place[0]]
        self._under_way[low:high] = under_way
        if place[0] != place[1]:
            self._mixed[low:high] = True
            self._ends[low:high] = (order.index(place[0]), order.index(place[1]))
        self._waiting.append((low, high))

    def _look_up(self) -> None:
        """Find the answers of those who met the present state, before it changes."""
        if not self._waiting:
            return
        place, run = self._mover.place, self._mover.runner().run
        family = family_of(self._name, place)
        for low, high in self._waiting:
            served = low + np.flatnonzero(~np.isnan(self._latency_s[low:high]))
            self._label[served] = self._cast.book.answers(family, place, self._samples[served], run)
        self._waiting.clear()

    def _note(self, now_s: float) -> None:
        """Keep where the network stands."""
        mover, order = self._mover, self._cast.order
        begin, end = (order.index(mode) for mode in mover.ends)
        stand = begin + mover.share * (end - begin)
        if stand != self._stands[-1][1]:
            self._stands.append((now_s, stand))
        if mover.place != self._visited[-1]:
            self._visited.append(mover.place)
        if mover.mode != self._reached:
            self._mode_s[self._reached] += now_s - self._reached_s
            self._reached, self._reached_s = mover.mode, now_s


def family_of(strategy: str, place: Place) -> str:
    """What else a state must be called by: the strategy on the way, nothing at a mode that all strategies share."""
    if strategy == "plain":
        return "plain"
    return "modes" if place[0] == place[1] else strategy
