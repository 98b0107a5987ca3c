"""The sceptic's experiment: everything simpler than a planned path, from the same end points, in the same states.

The demo's network, VGG-11 and a residual network on CIFAR-10 go C1 → C2 → C3 → C4 → C1, and C1 → D, the mode with half
the multiply-accumulates, by every strategy: overwriting in storage order (``naive``), units zeroed first, along a
straight line, in one pass with readers first (``ordered``), along a ramp, along the stored geodesic, as the plan has it
(``planned``), by copy-on-write of whole tensors (``flip``) and by another session (``reload``); and with the end point
that makes up for nothing (``plain``). What is asked: how much any state loses against C1, what it costs in bytes, time,
weight memory and latency, how many requests are answered wrong because weights are being written, and what a kill
leaves in memory that persists.

The bar: of requests that come while weights are written in place for 20 seconds, the planned path answers at most 5 %
as many wrong because of the transition as ``naive`` does, on a whole tour and on the way to D, over ten seeds of
arrivals and samples; see ``benchmarks.strategies_requests``. Plans are of one planning seed for each network of
CIFAR-10, and of three for the demo's. Finished parts are kept in the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import strategies_plans as plans
from benchmarks.frame import Claim, Findings, main
from benchmarks.parts import kept
from benchmarks.strategies_kill import killed
from benchmarks.strategies_latency import latency
from benchmarks.strategies_picture import picture
from benchmarks.strategies_plans import DEEP, Subject, console
from benchmarks.strategies_requests import SEEDS, count, held
from benchmarks.strategies_states import AT_ONCE, IN_PLACE, PLAIN, Witness, loss, measured
from benchmarks.strategies_summary import BAR, summary
from planner.datasets import load
from runtime.plan.bundle import Bundle, Transition
from runtime.plan.evaluation import Evaluator
from runtime.plan.samples import Samples
from runtime.simulation.simulator import PLANNED
from runtime.walking.session import Session


@dataclass(frozen=True)
class Setting:
    """What is measured of a network.

    Attributes:
        images: Test images, the same in every state.
        whole: Whole states at equal distances, both ends among them; not one more than a line has points, or its states
            would be seen at these alone.
        torn: Torn states in each direction.
        pairs: Pairs of runs for latency.
        kills: Processes that are killed for each strategy, and on which transition.
        victims: Strategies of which they are.
        asked: Images that what they left is asked on.
    """

    images: int
    whole: int
    torn: int
    pairs: int
    kills: int
    victims: tuple[str, ...]
    asked: int


DIGITS = Setting(500, 41, 4, 400, 12, IN_PLACE, 500)
RESIDUAL = Setting(300, 12, 1, 100, 8, IN_PLACE, 300)
TOUR = Setting(200, 9, 1, 30, 0, (), 0)
DEEPER = Setting(200, 12, 1, 60, 4, ("naive", PLANNED), 100)
QUICK = Setting(100, 6, 1, 10, 2, ("naive", PLANNED), 50)
Case = tuple[Callable[[int], Subject], Sequence[int], Setting]
CASES: dict[str, Case] = {
    "digits-cnn": (plans.digits, (0, 1, 2), DIGITS),
    "resnet8": (plans.residual, (0,), RESIDUAL),
    "vgg11-deep": (plans.vgg_deep, (0,), DEEPER),
    "vgg11": (plans.vgg_tour, (2,), TOUR),
}


def run(quick: bool) -> Findings:
    """Measure; quick: the demo's network, few states, no geodesics."""
    torch.set_num_threads(1)
    cases = {"digits-cnn": (partial(plans.digits, geodesics=False), (0,), QUICK)} if quick else CASES
    return findings([found for name, one in cases.items() for found in case(name, one, keep=not quick)])


def case(name: str, one: Case, *, keep: bool) -> list[dict[str, Any]]:
    """Figures of a network, one entry for each planning seed."""
    subject_of, seeds, setting = one
    found = []
    for seed in seeds:
        subject = subject_of(seed)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "states": partial(states, subject, setting, keep=keep),
            "kills": partial(kills, subject, setting),
            "latency": partial(latencies, subject, setting),
        }
        figures: dict[str, Any] = {"network": name, "seed": seed, "setting": repr(setting)}
        for part, work in parts.items():
            console.print(f"{name}, seed {seed}: {part}")
            figures[part] = (
                kept(f"strategies-{name}-{part}-seed{seed}", (setting, subject.made_of), subject.module(), work)
                if keep
                else work()
            )
        found.append(figures)
    return found


def samples(subject: Subject, images: int) -> Samples:
    """The first test images in random order, the same for every seed and strategy."""
    dataset = load(subject.data)
    chosen = np.random.default_rng(0).permutation(len(dataset.test_y))[:images]
    return Samples(dataset.test_x[chosen], dataset.test_y[chosen])


def asked(subject: Subject, bundle: Bundle, images: int) -> Evaluator:
    """Asks a plan's live graph."""
    return Evaluator(Session(bundle.graph, bundle.constants, threads=1), samples(subject, images))


def states(subject: Subject, setting: Setting, *, keep: bool) -> dict[str, Any]:
    """Loss, costs and requests of every strategy on every transition; each transition is a part of its own."""
    transitions: dict[str, Any] = {}
    modes: dict[str, Any] = {}
    module = subject.module()
    for bundle in (make() for make in subject.bundles):
        evaluator = asked(subject, bundle, setting.images)
        witness, labels = Witness(bundle, evaluator, setting.whole, setting.torn), evaluator.samples.labels
        dense = witness.at(bundle.table.dense())
        for mode in bundle.manifest.modes:
            points, interval = loss(labels, dense, witness.at(bundle.states[mode.name]))
            modes[mode.name] = {
                "loss": points, "interval": interval, "macs": mode.macs / bundle.manifest.modes[0].macs,
                "weight_bytes": mode.weight_bytes,
            }  # fmt: skip
        for move in bundle.transitions:
            work = partial(walked, witness, bundle, move, labels)
            part = f"strategies-{subject.name}-{'-'.join(move.ends)}-seed{subject.seed}"
            found = kept(part, (setting, bundle.id), module, work) if keep else work()
            transitions[" → ".join(move.ends)] = found
            worst = {name: max(state[2] for state in one["states"]) for name, one in found["strategies"].items()}
            console.print(f"  {' → '.join(move.ends)}: worst loss {worst}")
    return {"modes": modes, "transitions": transitions, "dense_accuracy": float((dense == labels).mean())}


def walked(witness: Witness, bundle: Bundle, move: Transition, labels: NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Figures of one transition."""
    figures, seen = measured(witness, bundle, move, labels)
    dense = witness.at(bundle.table.dense())
    left, reached = (witness.at(bundle.states[mode]) for mode in move.ends)
    for name, one in figures.items():
        known = seen.get(name) or held(left, reached)
        one["requests"] = [count(known, one["times"], labels, dense, seed) for seed in SEEDS]
    return {
        "planned_is": move.entry.strategy,
        "chunks": len(move.chunks),
        "moved_bytes": sum(layer.row_bytes * layer.units for layer in bundle.table.layers),
        "strategies": figures,
    }


def kills(subject: Subject, setting: Setting) -> dict[str, Any]:
    """What kills leave, on the way to D or, where there is none, to C2."""
    found: dict[str, Any] = {}
    if not setting.kills:
        return found
    bundle = subject.bundles[-1]()
    move = bundle.transitions[-1]
    evaluator = asked(subject, bundle, setting.asked)
    for name in setting.victims:
        if name == "geodesic" and name not in (*move.entry.alternatives, move.entry.strategy):
            continue
        found[name] = killed(bundle, move.ends, name, evaluator, setting.kills, subject.seed)
    return {"transition": " → ".join(move.ends), "strategies": found}


def latencies(subject: Subject, setting: Setting) -> dict[str, Any]:
    """Latency on the way to D, or to C2 where there is no D."""
    bundle = subject.bundles[-1]()
    move = next((one for one in bundle.transitions if DEEP in one.ends), bundle.transitions[0])
    return {"transition": " → ".join(move.ends), **latency(bundle, move, setting.pairs)}


def journeys(figures: dict[str, Any]) -> dict[str, list[str]]:
    """Transitions of the tour, and the one to D."""
    found: dict[str, list[str]] = {}
    for name in figures["states"]["transitions"]:
        found.setdefault("deep" if DEEP in name.split(" → ") else "tour", []).append(name)
    return found


def answered(figures: dict[str, Any], names: list[str], strategy: str, what: str) -> list[int]:
    """A count of requests over some transitions, for each seed of requests."""
    of = figures["states"]["transitions"]
    return [
        sum(of[name]["strategies"][strategy]["requests"][seed][what] for name in names) for seed in range(len(SEEDS))
    ]


def findings(found: list[dict[str, Any]]) -> Findings:
    """Claims, rivals and picture."""
    claims: list[Claim] = []
    rivals: dict[str, Any] = {}
    for name in dict.fromkeys(one["network"] for one in found):
        every = [one for one in found if one["network"] == name]
        for journey, moves in journeys(every[0]).items():
            what = name if journey in name else f"{name} {journey}"
            planned, naive = (
                np.sum([answered(one, moves, strategy, "because") for one in every], axis=0)
                for strategy in (PLANNED, "naive")
            )
            ratios = [100 * float(a) / max(1.0, float(b)) for a, b in zip(planned, naive, strict=True)]
            value = 100 * float(planned.sum()) / max(1.0, float(naive.sum()))
            claims.append(
                Claim(f"{what}: wrong because of the transition", value, "% of naive, all seeds", "<=", BAR, ratios)
            )
            rivals[what] = {strategy: table(every, moves, strategy) for strategy in strategies_of(every[0], moves)}
    bad = [len(one["unrepaired"]) for figures in found for one in figures["kills"].get("strategies", {}).values()]
    claims.append(Claim("kills that were not repaired", sum(bad), "of all kills", "==", 0, [float(sum(bad))]))
    data = {"summary": summary(found, rivals), "networks": [columns(one) for one in found]}
    return Findings(list(SEEDS), claims, rivals, data, picture(found, rivals))


def columns(figures: dict[str, Any]) -> dict[str, Any]:
    """A network's figures with lists of states and of requests as columns: a third of the lines."""

    def shorter(way: dict[str, Any]) -> dict[str, Any]:
        kinds: dict[str, dict[str, list[float]]] = {}
        for kind, *values in way["states"]:
            known = kinds.setdefault(kind, {"share": [], "points": [], "interval": []})
            for key, value in zip(known, values, strict=True):
                known[key].append(value)
        counts = {what: [one[what] for one in way["requests"]] for what in way["requests"][0]}
        return {**way, "states": kinds, "requests": counts}

    states = figures["states"]
    transitions = {
        name: {**move, "strategies": {name: shorter(way) for name, way in move["strategies"].items()}}
        for name, move in states["transitions"].items()
    }
    return {**figures, "states": {**states, "transitions": transitions}}


def strategies_of(figures: dict[str, Any], moves: list[str]) -> list[str]:
    """Strategies that every one of these transitions was measured with."""
    of = figures["states"]["transitions"]
    return [name for name in (*IN_PLACE, PLAIN, *AT_ONCE) if all(name in of[move]["strategies"] for move in moves)]


def table(every: list[dict[str, Any]], moves: list[str], strategy: str) -> dict[str, Any]:
    """A strategy's figures over some transitions; the worst over planning seeds, counts of requests of all of them."""
    ways = [one["states"]["transitions"][move]["strategies"][strategy] for one in every for move in moves]
    worst = max((state for way in ways for state in way["states"]), key=lambda state: state[2])
    total = {
        what: [int(n) for n in np.sum([answered(one, moves, strategy, what) for one in every], axis=0)]
        for what in ("requests", "because", "wrong_and_different")
    }
    tours = len(every)
    return {
        "worst_loss": worst[2], "interval": worst[3], "worst_state": worst[0],
        "bytes": sum(way["bytes"] for way in ways) / tours,
        "times": sum(way["bytes"] for way in ways) / max(1, sum(way["bytes"] / way["times"] for way in ways)),
        "peak_bytes": max(way["peak_bytes"] for way in ways),
        "extra_rows_bytes": max(way["extra_rows_bytes"] for way in ways),
        **{f"{what}_per_seed": counts for what, counts in total.items()},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("strategies", run, {name: partial(case, name, one, keep=True) for name, one in CASES.items()}))
