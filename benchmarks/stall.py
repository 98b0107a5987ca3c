"""How long does an increment keep callers out, and what does it cost to be able to write weights at all?

**Stall**: VGG-11's tour is walked forth and back through the runtime's engine and bank (`in-place`), one increment of
the profile's 64 KiB after the other without a pause, while a caller asks all the time. Timed is what the engine itself
calls the stall: from when it has been closed to callers until it is open again. Beside it, in the same rounds: making
a session again on other weights, which is how an ordinary runtime takes them over. Bars: the 99.9th percentile at most
2 ms, and re-creation at least 500 times as long.

**Latency at rest**, one sample, one thread: the live graph, whose moved weights are inputs, and the compact graph of
the same mode, C1, against PyTorch's own export of the network in an ordinary ONNX Runtime session, weights constant.
All are asked in turn, and the median of the ratios of neighbours counts: at most 1.10. Of the small networks, whose
time does not depend on what they were trained to, the weights are random; the moved layers are those that the built-in
profile's modes move.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn

from benchmarks import digits, vgg
from benchmarks.frame import Claim, Findings, main
from benchmarks.ordinary import Runner, exported, paired_seconds, session
from benchmarks.parts import kept
from device_profiles import loader
from planner import models
from planner.cost import CostMeter
from planner.deploy import deploy, row_table
from planner.endpoint_search import EndPointSearch
from planner.modes import resolve
from planner.network import trace
from planner.progress import Silent
from runtime.plan.bundle import Bundle
from runtime.plan.compact import pack
from runtime.plan.graphs import compact_session, live_session
from runtime.walking.bank import Increment, InPlaceBank, increments
from runtime.walking.engine import CompactRunner, Engine, LiveRunner
from runtime.walking.rows import Floats
from runtime.walking.session import Session, Weights, lay_out

PLAN_SEED = 2
MODE = "C1"
CNNS = {"digits-cnn": (1, 8, 8), "lenet5": (1, 28, 28), "resnet8": (3, 32, 32)}
NO_HIDDEN_NODES = ("resnet8",)
"""Of the built-in profile's modes, those without a hidden classifier layer have C1 and C2 alone."""
STALL_BAR_MS, RATIO_BAR, LATENCY_BAR = 2.0, 500.0, 1.10
PERCENTILE = 99.9
console = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """How much of each.

    Attributes:
        seeds: A round of everything each.
        tours: Tours forth and back in a round.
        creations: Sessions made in a round, between the tours.
        pairs: Answers of each graph of VGG-11 in a round.
        small_pairs: Of a small network.
        sizes: Bytes of an increment that are tried; the first has the bar.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    tours: int = 6
    creations: int = 6
    pairs: int = 300
    small_pairs: int = 3000
    sizes: tuple[int, ...] = (65536, 262144)


QUICK = Setting(seeds=(0,), tours=2, creations=2, pairs=20, small_pairs=100, sizes=(2048,))


def run(quick: bool) -> Findings:
    """Measure; quick: the demo's network in place of VGG-11."""
    setting = QUICK if quick else Setting()
    bundle = digits.plan(0) if quick else vgg.plan(PLAN_SEED, vgg.Setting())[0]
    suffix = "-quick" if quick else ""
    rounds = []
    for seed in setting.seeds:
        work = partial(measure, bundle, setting, seed, quick)
        rounds.append(kept(f"stall-seed{seed}{suffix}", (setting, bundle.id), None, work))
        console.print(f"seed {seed}: {_shown(rounds[-1])}")
    return findings(setting, rounds)


def measure(bundle: Bundle, setting: Setting, seed: int, quick: bool) -> dict[str, Any]:
    """A round."""
    whole = digits_module() if quick else vgg.network(PLAN_SEED, vgg.Setting())
    name = "digits-cnn" if quick else "vgg11"
    latency = {
        name: against_ordinary(whole, planned_runners(bundle), bundle.evaluation.inputs[:1], setting.pairs, seed)
    }
    for one, shape in CNNS.items():
        if one != name:
            latency[one] = small_latency(one, shape, setting.small_pairs, seed)
    return {**stalls(bundle, setting), "latency": latency}


def stalls(bundle: Bundle, setting: Setting) -> dict[str, Any]:
    """Stalls of whole tours for each size of increments, and seconds of making a session."""
    live = live_session(bundle, 1)
    bank: InPlaceBank[Weights] = InPlaceBank(bundle.table, bundle.states[MODE], live.bind)
    engine = Engine(LiveRunner(live, bank), exclusive=True, queue_limit=8)
    constants = pack(bundle, MODE)
    seconds: dict[int, list[float]] = {size: [] for size in setting.sizes}
    created = []
    with _asked(engine, bundle.evaluation.inputs) as answers:
        for number in range(max(setting.tours, setting.creations)):
            if number < setting.tours:
                for size, found in seconds.items():
                    found.extend(tour(bundle, bank, engine, size))
            if number < setting.creations:
                begun = time.perf_counter()
                Session(bundle.compact[MODE], constants, threads=1)
                created.append(time.perf_counter() - begun)
    return {
        "stalls": {str(size): _percentiles_ms(found) for size, found in seconds.items()},
        "recreation_ms": {"median": 1e3 * float(np.median(created)), "least": 1e3 * min(created)},
        "answers_meanwhile": answers[0],
    }  # fmt: skip


def tour(bundle: Bundle, bank: InPlaceBank[Weights], engine: Engine, size: int) -> Iterator[float]:
    """Walk all transitions in turn, and all of them back; the stall of each increment."""
    forth = [move.chunks for move in bundle.transitions]
    for chunks in (*forth, *(one.reversed() for one in reversed(forth))):
        for begin, end, _ in increments(chunks, bundle.table, lambda: size):
            increment = Increment.gather(bundle.table, chunks, begin, end)
            yield engine.between_jobs(partial(bank.write, increment))


@contextmanager
def _asked(engine: Engine, inputs: Floats) -> Iterator[list[int]]:
    """A caller that asks as fast as it is answered; counts its answers."""
    count, ends = [0], threading.Event()

    def ask() -> None:
        while not ends.is_set():
            at = count[0] % len(inputs)
            engine.infer(inputs[at : at + 1])
            count[0] += 1

    caller = threading.Thread(target=ask, name="caller")
    caller.start()
    try:
        yield count
    finally:
        ends.set()
        caller.join()


def planned_runners(bundle: Bundle) -> tuple[Runner, Runner]:
    """The live and the compact graph of a plan, as a device asks them."""
    live = live_session(bundle, 1)
    bank: InPlaceBank[Weights] = InPlaceBank(bundle.table, bundle.states[MODE], live.bind)
    return LiveRunner(live, bank).run, CompactRunner(compact_session(bundle, MODE, 1)).run


def small_latency(name: str, shape: tuple[int, ...], pairs: int, seed: int) -> dict[str, float]:
    """Of a network without a plan."""
    module = models.build(name, seed=seed).eval()
    inputs = np.random.default_rng(seed).standard_normal((64, *shape)).astype(np.float32)
    sample = torch.from_numpy(inputs)
    network = trace(module, sample[:2])
    search = EndPointSearch(network, sample, sample, CostMeter())
    profile = loader.load("raspberry-pi-5")
    if name in NO_HIDDEN_NODES:
        profile = msgspec.structs.replace(profile, modes={mode: profile.modes[mode] for mode in ("C1", "C2")})
    ends = search.find(resolve(profile, network), lambda _: None)
    table, states = row_table(network, ends)
    made = deploy(network, ends, table, states, sample[:2], Silent())
    # as the product does with a plan of this size: see runtime.plan.graphs
    live = Session(made.live, made.constants, threads=1, layout=lay_out(made.live, made.constants))
    bank: InPlaceBank[Weights] = InPlaceBank(table, states[MODE], live.bind)
    compact = Session(made.compact[MODE], made.dense, threads=1)
    runners = (LiveRunner(live, bank).run, CompactRunner(compact).run)
    moved = sum(layer.row_bytes * layer.units for layer in table.layers)
    share = moved / sum(tensor.nbytes for tensor in made.dense.values())
    return {**against_ordinary(module, runners, inputs[:1], pairs, seed), "moved_share": share}


def against_ordinary(
    module: nn.Module, runners: tuple[Runner, Runner], x: Floats, pairs: int, seed: int
) -> dict[str, float]:
    """Median milliseconds of the ordinary, the live and the compact graph, and median ratios of neighbours."""
    ordinary = session(exported(module, x))

    def plain(inputs: Floats) -> Floats:
        answer: Floats = ordinary.run(None, {"input": inputs})[0]
        return answer

    for runner in runners:
        # That it is the same network; constants are laid out otherwise, so the last bits may differ.
        np.testing.assert_allclose(runner(x), plain(x), rtol=1e-3, atol=1e-3)
    times = paired_seconds([plain, plain, *runners], x, pairs, seed)
    medians = 1e3 * np.median(times, axis=0)
    ratios = np.median(times / times[:, :1], axis=0)
    return {
        "ordinary_ms": float(medians[0]), "live_ms": float(medians[2]), "compact_ms": float(medians[3]),
        "control": float(ratios[1]), "live": float(ratios[2]), "compact": float(ratios[3]),
    }  # fmt: skip


def digits_module() -> nn.Module:
    """The network of the demo's plan."""
    from benchmarks.networks import trained
    from planner.datasets import load

    return trained("digits-cnn", load("digits"), 0)


def _percentiles_ms(seconds: list[float]) -> dict[str, float]:
    values = 1e3 * np.array(seconds)
    return {
        "increments": len(seconds), "median": float(np.median(values)), "p99": float(np.percentile(values, 99)),
        "p99.9": float(np.percentile(values, PERCENTILE)), "most": float(values.max()),
    }  # fmt: skip


def _shown(one: dict[str, Any]) -> str:
    sizes = ", ".join(f"{size} bytes {found['p99.9']:.3f} ms" for size, found in one["stalls"].items())
    ratios = ", ".join(f"{name} {found['live']:.2f} live {found['compact']:.2f} compact"
                       for name, found in one["latency"].items())  # fmt: skip
    return f"p99.9 of stalls {sizes}; a session {one['recreation_ms']['median']:.0f} ms; latency {ratios}"


def findings(setting: Setting, rounds: list[dict[str, Any]]) -> Findings:
    """Claims, the worst of the rounds."""
    first = str(setting.sizes[0])
    stall_ms = [one["stalls"][first]["p99.9"] for one in rounds]
    ratio = [one["recreation_ms"]["median"] / one["stalls"][first]["p99.9"] for one in rounds]
    claims = [
        Claim("stall_p99.9", max(stall_ms), "ms", "<=", STALL_BAR_MS, stall_ms),
        Claim("stall_ratio", min(ratio), "× p99.9, to make a session again", ">=", RATIO_BAR, ratio),
    ]
    for name in rounds[0]["latency"]:
        for graph in ("live", "compact"):
            values = [one["latency"][name][graph] for one in rounds]
            claims.append(Claim(f"latency_{graph}_{name}", max(values), "× ordinary", "<=", LATENCY_BAR, values))
    rivals = {
        "session made again": {"median_ms": [one["recreation_ms"]["median"] for one in rounds]},
        "ordinary against itself": {
            name: [one["latency"][name]["control"] for one in rounds] for name in rounds[0]["latency"]
        },
    }
    return Findings(list(setting.seeds), claims, rivals, {"rounds": rounds}, picture(setting, rounds))


def picture(setting: Setting, rounds: list[dict[str, Any]]) -> Figure:
    """Stalls beside re-creation, and latencies."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    keys = ("median", "p99", "p99.9", "most")
    for place, size in enumerate(map(str, setting.sizes)):
        at = np.arange(len(keys)) + 0.35 * place
        left.bar(at, [max(one["stalls"][size][key] for one in rounds) for key in keys], 0.33, label=f"{size} bytes")
    left.bar(len(keys), max(one["recreation_ms"]["median"] for one in rounds), 0.5, color="#D55E00")
    left.axhline(STALL_BAR_MS, color="0.5", ls=":", lw=1)
    left.set_yscale("log")
    left.set_xticks(range(len(keys) + 1), [*keys, "session\nmade again"])
    left.set_ylabel("ms, the worst round")
    left.set_title("How long callers are kept out", fontsize=11)
    left.legend()
    names = list(rounds[0]["latency"])
    for place, (graph, color) in enumerate((("live", "#0072B2"), ("compact", "#009E73"), ("control", "#999999"))):
        at = np.arange(len(names)) + 0.27 * place
        right.bar(at, [max(one["latency"][name][graph] for one in rounds) for name in names], 0.25, label=graph,
                  color=color)  # fmt: skip
    right.axhline(LATENCY_BAR, color="0.5", ls=":", lw=1)
    right.set_xticks(np.arange(len(names)) + 0.27, names)
    right.set_ylim(0.8, None)
    right.set_title("One answer, of an ordinary session's time", fontsize=11)
    right.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main("stall", run))
