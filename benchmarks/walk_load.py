"""Callers of a service that walks: is every answer one of a legal state, and does anybody wait longer?

`geoshift serve` runs in a process of its own, on loopback, with tokens, and 8 connections that are kept ask it for ten
minutes a case, while every 5 seconds it is told to switch to the next mode of its tour: the demo's network, whose rows
are written one by one, and VGG-11 at its plan's own pace; policies `in-place` and `shadow`. Where there are two cores,
the service has one and the callers the other.

Each case is 12 blocks. In the first 40 s of a block questions come at random times (Poisson), at half the rate that
the service was found to bear: so there is room to be slower in, and callers that are made to wait do not ask less.
In the last 10 s each connection asks again as soon as it is answered, which finds as many states as can be found.

**Legal**: before a case, the graph is asked in this process at *every* position of every transition, in the batch of
one in which the questions will be sent. An answer that overlaps a switch must be, to the bit, one of that transition's;
any other must be that of the mode it rests in. All answers are checked, those of both parts.

**p99**: of the questions asked at random times, those whose answer overlaps a switch (from its request until the answer
that it is over: walking, canary, journal) against those of the same block that do not. The control compares the latter
with each other, after every other switch. The bar is on the median over the blocks.

In these cases the network rests on the graph that it walks on (`snap: false`), or smaller graphs of other modes would
be compared with the dense one. A shorter case with `snap: true`, whose switches build sessions, has no bar.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import digits, vgg
from benchmarks.callers import Answer, Connection, calling, post
from benchmarks.frame import Claim, Findings, main
from benchmarks.legal import Legal, legal_answers
from benchmarks.parts import kept
from benchmarks.served import Served, device, serving
from runtime.plan.bundle import Bundle
from runtime.walking.rows import Floats

SEEDS = {"digits": 0, "vgg11": 2}
"""Of the plans, as figure 2D has them."""
POLICIES = ("in-place", "shadow")
BAR = 1.10
PERCENTILE = 99
LEAST_BLOCKS = 10
"""That a median over blocks must rest on."""
ONE_ROW = 580
"""Bytes of the largest row of the demo's network: written row by row, it stands in as many states as it can."""
QUICK_NETWORK = "digits"
console = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """How long, how often, how hard.

    Attributes:
        blocks: Blocks of a case, each of its own seed.
        random_s: Seconds of a block in which questions come at random times.
        busy_s: Seconds in which every connection asks again at once.
        every_s: Seconds between two switches.
        load: Share of what the service bears that comes at random times.
        connections: Of the callers.
        questions: Inputs that are asked in turn.
        calibrated_s: Seconds in which what it bears is found.
    """

    blocks: int = 12
    random_s: float = 40.0
    busy_s: float = 10.0
    every_s: float = 5.0
    load: float = 0.5
    connections: int = 8
    questions: int = 2
    calibrated_s: float = 5.0


FULL = Setting()
SNAP = Setting(blocks=2)
QUICK = Setting(blocks=2, random_s=4.0, busy_s=2.0, every_s=1.0, calibrated_s=0.5)


@dataclass(frozen=True)
class Case:
    """What is measured at one go."""

    network: str
    policy: str
    snap: bool = False

    @property
    def name(self) -> str:
        """As the command line has it."""
        return f"{self.network}-{self.policy}{'-snap' if self.snap else ''}"


CASES = (
    *(Case(network, policy) for network in ("digits", "vgg11") for policy in POLICIES),
    Case("vgg11", "in-place", snap=True),
)


@dataclass(frozen=True)
class Move:
    """A switch, and when it was asked for and over."""

    source: str
    target: str
    begun: float
    ended: float
    outcome: str


@dataclass
class Seen:
    """What a part of a block saw.

    Attributes:
        answers: All of them.
        moves: Switches under way meanwhile.
        first: Mode at its begin.
    """

    answers: list[Answer]
    moves: list[Move]
    first: str


@dataclass
class Judged:
    """Answers by what they are worth, and latencies.

    Attributes:
        answers: How many.
        wrong: Answers of no legal state.
        refused: Answers with another status than 200.
        walking: Seconds of those that overlap a switch.
        resting: Seconds of the others, after each other switch in turn.
        states: Different answers to any question that were seen during switches.
    """

    answers: int = 0
    wrong: int = 0
    refused: int = 0
    walking: list[float] = field(default_factory=list)
    resting: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    states: set[tuple[int, bytes]] = field(default_factory=set)


def run(quick: bool) -> Findings:
    """Measure all cases; quick: the demo's network, seconds."""
    cases = [case for case in CASES if case.network == QUICK_NETWORK] if quick else list(CASES)
    return findings({case: measured(case, quick) for case in cases}, QUICK if quick else FULL)


def measured(case: Case, quick: bool = False) -> dict[str, Any]:
    """A case's figures, kept."""
    setting = QUICK if quick else SNAP if case.snap else FULL
    bundle = network(case.network)
    name = f"walk-load-{case.name}{'-quick' if quick else ''}"
    return kept(name, (setting, case, bundle.id), None, partial(measure, case, setting, bundle))


@cache
def network(name: str) -> Bundle:
    """The plan of a network."""
    return digits.plan(SEEDS[name]) if name == "digits" else vgg.plan(SEEDS[name], vgg.Setting())[0]


@cache
def _legal(name: str, count: int, snap: bool) -> tuple[list[Floats], Legal]:
    """Questions to a network, and what may be answered: once for all cases that ask the same."""
    bundle = network(name)
    questions = [bundle.evaluation.inputs[i : i + 1] for i in range(count)]
    console.print(f"{name}: asking every state of the tour")
    return questions, legal_answers(bundle, questions, snap=snap)


def measure(case: Case, setting: Setting, bundle: Bundle) -> dict[str, Any]:
    """Serve, ask and switch."""
    questions, legal = _legal(case.network, setting.questions, case.snap)
    profile = device(bundle, snap=case.snap, bytes_per_increment=ONE_ROW if case.network == "digits" else None)
    with (
        tempfile.TemporaryDirectory(prefix="geoshift-load-") as folder,
        serving(bundle, profile, case.policy, Path(folder)) as served,
    ):
        found = asyncio.run(_measure(case, setting, bundle, served, questions, legal))
    return {
        **found, "states": legal.states, "pinned": served.pinned, "threads": profile.threads,
        "writes": msgspec.to_builtins(profile.writes), "questions": len(questions),
    }  # fmt: skip


async def _measure(
    case: Case, setting: Setting, bundle: Bundle, served: Served, questions: Sequence[Floats], legal: Legal
) -> dict[str, Any]:
    tour = [move.ends[1] for move in bundle.transitions]
    tourist = Tourist(served, bundle.transitions[0].ends[0], tour, setting.every_s)
    model = bundle.manifest.model.id
    blocks, seen_states = [], set()
    async with calling(served, model, questions, setting.connections) as callers:
        warm = await callers.one_after_the_other(setting.calibrated_s)
        before = await callers.one_after_the_other(setting.calibrated_s)
        bears = len(before) / setting.calibrated_s
        start = judge([Seen([*warm, *before], [], tourist.mode)], legal)
        for number in range(setting.blocks):
            rng = np.random.default_rng(number)
            calm = await tourist.during(callers.at_random(setting.load * bears, setting.random_s, rng))
            busy = await tourist.during(callers.one_after_the_other(setting.busy_s))
            block = block_figures(judge([calm], legal), judge([busy], legal), [*calm.moves, *busy.moves])
            seen_states |= block.pop("states")
            blocks.append(block)
            console.print(
                f"{case.name}, block {number + 1} of {setting.blocks}: p99 in ms {block['walking_ms']} walking, "
                f"{block['resting_ms']} at rest; {block['answers']} answers, {block['wrong']} wrong"
            )
        dropped = callers.dropped + tourist.connection.dropped
    await tourist.connection.close()
    return {
        "bears_per_second": bears, "blocks": blocks, "dropped": dropped, "answers_seen": len(seen_states),
        "before": {"answers": start.answers, "wrong": start.wrong, "refused": start.refused},
    }  # fmt: skip


class Tourist:
    """Has a service switch through its tour.

    Args:
        served: Which.
        mode: Where it stands.
        tour: Modes in turn, again and again.
        every_s: Seconds from one switch to the next; one that takes longer costs its successor's turn.
    """

    def __init__(self, served: Served, mode: str, tour: Sequence[str], every_s: float) -> None:
        self.connection = Connection(served)
        self.mode = mode
        self._served = served
        self._tour = tour
        self._next = 0
        self._every_s = every_s

    async def during(self, asking: Any) -> Seen:
        """Switch while callers ask; both are over when it returns."""
        moves: list[Move] = []
        first = self.mode
        ends = asyncio.Event()
        switching = asyncio.create_task(self._switch(ends, moves))
        answers = await asking
        ends.set()
        await switching
        return Seen(answers, moves, first)

    async def _switch(self, ends: asyncio.Event, moves: list[Move]) -> None:
        begun = time.perf_counter()
        # Rest comes first and last: a block has as many rests as switches.
        due = begun + self._every_s / 2
        while not await _over(ends, due - time.perf_counter()):
            moves.append(await self._step())
            while due <= time.perf_counter():
                due += self._every_s

    async def _step(self) -> Move:
        source, target = self.mode, self._tour[self._next % len(self._tour)]
        request = post(self._served, "/v1/switch", msgspec.json.encode({"mode": target, "wait_s": 60}))
        begun = time.perf_counter()
        status, _, body = await self.connection.ask(request)
        ended = time.perf_counter()
        if status != 200:
            raise RuntimeError(f"switch to {target}: found status {status}, expected 200: {body[:300]!r}")
        outcome = str(msgspec.json.decode(body)["outcome"])
        if outcome != "committed":
            raise RuntimeError(f"switch {source} → {target}: found {body[:300]!r}, expected it to be committed")
        self._next += 1
        self.mode = target
        return Move(source, target, begun, ended, outcome)


async def _over(ends: asyncio.Event, seconds: float) -> bool:
    """Whether it ends within some time."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await ends.wait()
    except TimeoutError:
        return ends.is_set()
    return True


def judge(parts: Sequence[Seen], legal: Legal) -> Judged:
    """Compare every answer with the legal ones of its moment."""
    found = Judged()
    for part in parts:
        begins = np.array([move.begun for move in part.moves])
        ends = np.array([move.ended for move in part.moves])
        for answer in part.answers:
            found.answers += 1
            if answer.status != 200:
                found.refused += 1
                continue
            # Switches that were over before it was asked, and those that began after it was answered, are out.
            low = int(np.searchsorted(ends, answer.asked))
            high = int(np.searchsorted(begins, answer.answered, side="right"))
            if low < high:
                moves = part.moves[low:high]
                right = any(legal.between(one.source, one.target, answer.which, answer.outputs) for one in moves)
                found.walking.append(answer.seconds)
                found.states.add((answer.which, answer.outputs))
            else:
                mode = part.moves[low - 1].target if low else part.first
                right = legal.at(mode, answer.which, answer.outputs)
                found.resting[low % 2].append(answer.seconds)
            found.wrong += not right
    return found


def block_figures(calm: Judged, busy: Judged, moves: Sequence[Move]) -> dict[str, Any]:
    """Percentiles and counts of a block; latencies of the calm part alone."""
    resting = [*calm.resting[0], *calm.resting[1]]
    walking_ms, resting_ms = p99_ms(calm.walking), p99_ms(resting)
    busy_ms = {"walking": p99_ms(busy.walking), "resting": p99_ms([*busy.resting[0], *busy.resting[1]])}
    return {
        "walking_ms": walking_ms, "resting_ms": resting_ms, "ratio": _ratio(walking_ms, resting_ms),
        "control_ratio": _ratio(*(p99_ms(one) for one in reversed(calm.resting))),
        "median_ms": {"walking": p99_ms(calm.walking, 50), "resting": p99_ms(resting, 50)}, "busy_ms": busy_ms,
        "latencies": {"walking": len(calm.walking), "resting": len(resting)},
        "answers": calm.answers + busy.answers, "during_switches": len(calm.walking) + len(busy.walking),
        "wrong": calm.wrong + busy.wrong, "refused": calm.refused + busy.refused, "switches": len(moves),
        "seconds_of_switches": sum(move.ended - move.begun for move in moves), "states": calm.states | busy.states,
    }  # fmt: skip


def p99_ms(seconds: Sequence[float], percentile: float = PERCENTILE) -> float | None:
    """The 99th percentile in milliseconds: 1 of 100 takes longer. None where there is no latency at all."""
    return 1e3 * float(np.percentile(seconds, percentile)) if seconds else None


def _ratio(one: float | None, other: float | None) -> float | None:
    """None where a machine was so busy that a block has no rest, or no walk."""
    return None if one is None or other is None else one / other


def _median(blocks: Sequence[dict[str, Any]], key: str) -> tuple[float, list[float]]:
    """Of the blocks that have the figure, which are counted in the claims, and those figures."""
    values = [block[key] for block in blocks if block[key] is not None]
    if not values:
        raise RuntimeError(f"{key}: found no block with latencies of both kinds; run on a machine that is less busy")
    return float(np.median(values)), values


def findings(cases: dict[Case, dict[str, Any]], setting: Setting) -> Findings:
    """Claims over all cases, and a median p99 for each that has a bar."""

    def total(key: str) -> Claim:
        spread = [float(sum(block[key] for block in one["blocks"]) + one["before"][key]) for one in cases.values()]
        names = {"wrong": "answers_of_no_legal_state", "refused": "answers_not_200"}
        return Claim(names[key], sum(spread), "answers, of all cases", "==", 0, spread)

    dropped = [float(one["dropped"]) for one in cases.values()]
    claims = [total("wrong"), total("refused")]
    claims.append(Claim("dropped_connections", sum(dropped), "connections, of all cases", "==", 0, dropped))
    rivals = {}
    fewest = setting.blocks
    for case, found in cases.items():
        ratio, ratios = _median(found["blocks"], "ratio")
        control, controls = _median(found["blocks"], "control_ratio")
        rivals[case.name] = {"rest_against_rest": control, "blocks": controls}
        if not case.snap:
            claims.append(Claim(f"median_p99_ratio_{case.name}", ratio, "× at rest", "<=", BAR, ratios))
            fewest = min(fewest, len(ratios))
    claims.append(Claim("blocks_measured", fewest, "of a case, the least", ">=", LEAST_BLOCKS))
    answers = {case.name: sum(block["answers"] for block in one["blocks"]) for case, one in cases.items()}
    data = {"answers_checked": answers, "cases": {case.name: one for case, one in cases.items()}}
    return Findings(list(range(setting.blocks)), claims, rivals, data, picture(cases))


def picture(cases: dict[Case, dict[str, Any]]) -> Figure:
    """Walking against rest, block by block, and the control."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, one in enumerate(cases.values()):
        for shift, key, color, label in (
            (-0.15, "ratio", "#0072B2", "walking / at rest"),
            (0.15, "control_ratio", "#999999", "rest / rest"),
        ):
            _, values = _median(one["blocks"], key)
            axis.scatter([number + shift] * len(values), values, s=12, color=color, label=None if number else label)
            axis.plot([number + shift - 0.1, number + shift + 0.1], [np.median(values)] * 2, color=color, lw=2)
    axis.axhline(BAR, color="0.5", ls=":", lw=1)
    axis.set_yscale("log")
    axis.set_xticks(range(len(cases)), [case.name for case in cases])
    axis.set_ylabel("ratio of p99 latencies")
    axis.set_title("Latency of callers during switches; a dot a block, a bar the median, dotted the bar", fontsize=11)
    axis.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main("walk_load", run, {case.name: partial(measured, case) for case in CASES}))
