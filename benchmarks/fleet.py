"""Can a thousand devices be played before one is owned, and where does which way of switching win?

**Fleet**: a thousand devices on the demo's plan and the trace of a landing drone, each with its own requests, rate and
readings, played with three strategies in this process. The CPU time must grow along a straight line, memory must not
grow once the first devices have been played, and the result must be the same in one process and in two.

**Latency**: the same requests asked of the live runtime on this machine, in real time, and played on the virtual
clock with the latencies measured just before, five times. The medians at rest and on the way must agree within 15 %, in
the median of the five. The 99th percentiles, from when a request is due, so that its time in the line counts, are
reported without a bar: the simulator knows the line and the canary, and nothing of what else a machine does.

**Crossover** (``crossover.png``): one switch there and back on devices whose memory takes from 300 bytes to 10 MB a
second, asked 1 to 200 times a second, with room for a second copy of weights and without. Each cell has the strategy
that harms the fewest requests; of equals, that which writes the fewest bytes.

What walks walks in place, whatever the room: under policy shadow it would write two copies, as flip does.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

import msgspec
import numpy as np
import psutil
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.console import Console

from benchmarks import digits
from benchmarks.frame import ROOT, Claim, Findings, main
from device_profiles import Figure as Number
from device_profiles import Profile
from planner.executors import InProcess
from runtime.plan.bundle import Bundle
from runtime.reporting.canvas import Look, pen_of
from runtime.simulation import (
    Arrivals,
    ByHand,
    Stage,
    Trace,
    load_trace,
    measure_latency,
    simulate_trace,
)
from runtime.simulation.arrivals import request_times
from runtime.simulation.play import Played
from runtime.simulation.sweep import BATCH, Case, sweep
from runtime.simulation.trace import SCHEMA
from runtime.walking.net import Net

T = TypeVar("T")
SEED = 0
DEVICES, FEW = 1000, 60
STRATEGIES = ("planned", "naive", "flip")
TRACE = "drone-descent"
BYTES, PACE = 800, 3.0
"""A walk of the demo's largest transition takes about 12 seconds: slow, as resistive memory or throttled flash is."""
MACS_PER_SECOND, OVERHEAD_S = 25e6, 1e-3
"""A small microcontroller: 4.7 ms for the demo's dense network."""
SECONDS_BAR, DEVIATION_BAR, GROWTH_BAR_MB, RATIO_BAR = 300.0, 0.05, 8.0, 0.15
WARM = 0.25
"""Share of the devices after which memory counts: by then the answers of nearly all states are known."""

LIVE_ROUNDS, LIVE_SECONDS, LIVE_RATE, LIVE_PACE = 5, 12.0, 200.0, 8.0
RATES = (1.0, 5.0, 20.0, 50.0, 100.0, 200.0)
SPEEDS = (3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6, 1e7)
RIVALS = ("planned", "naive", "flip", "reload")
DEADLINE_MS = 100.0
console = Console(stderr=True)


def latency_of(bundle: Bundle) -> dict[str, float]:
    """Seconds of one answer on the small microcontroller."""
    modes = bundle.manifest.modes
    return {mode.name: OVERHEAD_S + mode.macs / MACS_PER_SECOND for mode in modes}


def fleet(bundle: Bundle, devices: int) -> dict[str, Any]:
    """CPU time and memory while many devices are played in this process."""
    case = _case(bundle)
    begun_s, watched = time.monotonic(), _Watched()
    found = sweep([case], devices, watched, strategies=STRATEGIES, seed=SEED)
    seen = watched.seen
    cpu = np.array([one for one, _ in seen])
    # after each job, the first one excepted, in which sessions are made and most answers are learnt
    jobs = np.arange(len(cpu))
    slope, offset = np.polyfit(jobs[1:], cpu[1:], 1)
    off = float(np.abs(cpu[1:] - (slope * jobs[1:] + offset)).max() / cpu[-1])
    warm = [memory for place, (_, memory) in enumerate(seen) if place * BATCH >= devices * WARM]
    one = found.cases[0]
    return {
        "devices": devices,
        "cpu_s": float(cpu[-1]),
        "wall_s": time.monotonic() - begun_s,
        "ms_per_device": 1e3 * float(slope) / BATCH,
        "deviation": off,
        "memory_growth_mb": max(warm) - warm[0],
        "series": [[round(a, 2), round(b, 1)] for a, b in seen],
        "strategies": {name: msgspec.to_builtins(value) for name, value in one.strategies.items()},
    }


class _Watched(InProcess):
    """Plays each job when it is given away, and notes what has been spent until then."""

    def __init__(self) -> None:
        self._process, self._begun = psutil.Process(), time.process_time()
        self.seen = [(0.0, self._process.memory_info().rss / 1e6)]
        """CPU seconds and MB of memory, before the first job and after each."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Play a job now."""
        done = super().submit(fn, *args, **kwargs)
        gc.collect()
        self.seen.append((time.process_time() - self._begun, self._process.memory_info().rss / 1e6))
        return done


def equal(bundle: Bundle, devices: int) -> bool:
    """Whether the result is the same in this process and in two others."""
    here = sweep([_case(bundle)], devices, InProcess(), strategies=STRATEGIES, seed=SEED)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        there = sweep([_case(bundle)], devices, pool, strategies=STRATEGIES, seed=SEED)
    return msgspec.json.encode(here) == msgspec.json.encode(there)


def _case(bundle: Bundle) -> Case:
    return Case(
        bundle=str(bundle.path), profile=bundle.profile, trace=load_trace(TRACE), latency_s=latency_of(bundle),
        bytes_per_increment=BYTES, increments_per_second=PACE, policy="in-place",
    )  # fmt: skip


def live_against_virtual(bundle: Bundle, seconds: float) -> dict[str, Any]:
    """Latency at rest and on the way, live and predicted: medians and 99th percentiles."""
    profile = _in_place(bundle.profile)
    quarter = seconds / 4
    trace = Trace(
        schema=SCHEMA, name="live", seconds=seconds, requests=(Arrivals(kind="poisson", per_second=LIVE_RATE),),
        manual=(ByHand(at_s=quarter, mode="C2"), ByHand(at_s=3 * quarter, mode="C1")),
    )  # fmt: skip
    latency = measure_latency(bundle, profile.threads, gap_s=1 / LIVE_RATE)
    kept: dict[str, Played] = {}
    result = simulate_trace(
        bundle, profile, trace, ("planned",), seed=SEED, latency_s=latency, keep=kept.__setitem__, series=False
    )
    times = request_times(trace, np.random.default_rng([SEED, 1]))
    samples = np.random.default_rng([SEED, 2]).integers(0, len(bundle.evaluation), len(times))
    seen, walking, written = np.empty(len(times)), np.zeros(len(times), np.bool_), 0
    since_due = np.empty(len(times))
    asked = [(one.at_s, one.mode) for one in trace.manual]
    with Net(bundle, profile, "in-place") as net:
        inputs = bundle.evaluation.inputs
        operation = None
        begun = time.perf_counter()
        for place, at_s in enumerate(times.tolist()):
            if asked and asked[0][0] <= at_s:
                written += 0 if operation is None else operation.wait().bytes_written
                operation = net.switch(asked.pop(0)[1])
            # Spinning, not sleeping: a core that wakes up takes longer, which is no matter of the runtime's. The
            # interpreter's lock is let go of, which nobody holds who waits for requests: the canary needs it.
            while time.perf_counter() - begun < at_s:
                time.sleep(0)
            walking[place] = operation is not None and operation.result is None
            # From the call on: on a busy machine, a caller that is behind its schedule says nothing of the runtime.
            called = time.perf_counter()
            net.infer(inputs[samples[place]][None])
            answered = time.perf_counter()
            seen[place], since_due[place] = answered - called, answered - begun - at_s
        written += 0 if operation is None else operation.wait().bytes_written
    one = kept["planned"]
    on_the_way = one.under_way
    assert written == result.strategies["planned"].bytes_written, "both write the same bytes"
    return {
        "requests": len(times),
        "rest_ms": [1e3 * float(np.median(seen[~walking])), 1e3 * float(np.median(one.latency_s[~on_the_way]))],
        "walk_ms": [1e3 * float(np.median(seen[walking])), 1e3 * float(np.median(one.latency_s[on_the_way]))],
        "rest_p99_ms": [_p99_ms(since_due[~walking]), _p99_ms(one.latency_s[~on_the_way])],
        "walk_p99_ms": [_p99_ms(since_due[walking]), _p99_ms(one.latency_s[on_the_way])],
        "walk_s": [float(walking.sum() / LIVE_RATE), result.strategies["planned"].walking_s],
        "bytes": written,
    }


def _p99_ms(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return 1e3 * float(np.percentile(seconds, 99))


def _in_place(profile: Profile) -> Profile:
    # A busy machine may stall for longer than the device's budget; that must not make smaller increments of these.
    writes = msgspec.structs.replace(
        profile.writes, bytes_per_increment=1600, increments_per_second=LIVE_PACE, stall_budget_ms=1e6
    )
    bank = msgspec.structs.replace(profile.bank, policy="in-place")
    return msgspec.structs.replace(profile, writes=writes, bank=bank, threads=1)


def crossover(bundle: Bundle, speeds: tuple[float, ...], rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """Which strategy wins, by write rate, request rate, and room for a second copy."""
    stage, cells = Stage.of(bundle), []
    largest = max(layer.row_bytes for layer in bundle.table.layers)
    for copy in (True, False):
        for speed in speeds:
            writes = msgspec.structs.replace(
                bundle.profile.writes,
                bytes_per_second=Number(value=speed, provenance="assumed", source="one point of the map"),
                increments_per_second=20.0,
                # half of the time at most, where a row allows it
                bytes_per_increment=max(largest, int(speed / 40)),
            )
            profile = msgspec.structs.replace(bundle.profile, writes=writes)
            for rate in rates:
                result = simulate_trace(
                    bundle, profile, _there_and_back(rate), RIVALS, seed=SEED, latency_s=latency_of(bundle),
                    second_copy=copy, policy="in-place", series=False, stage=stage,
                )  # fmt: skip
                assert result.choice is not None
                cells.append(
                    {
                        "second_copy": copy,
                        "bytes_per_second": speed,
                        "requests_per_second": rate,
                        "winner": result.choice.strategy,
                        "harmed": {name: one.harmed for name, one in result.strategies.items()},
                        "requests": next(iter(result.strategies.values())).requests,
                        "walk_s": {name: one.walking_s for name, one in result.strategies.items()},
                    }
                )
    return cells


def _there_and_back(rate: float) -> Trace:
    return Trace(
        schema=SCHEMA, name="there-and-back", seconds=240.0, deadline_ms=DEADLINE_MS,
        requests=(Arrivals(kind="poisson", per_second=rate),),
        manual=(ByHand(at_s=10.0, mode="C2"), ByHand(at_s=125.0, mode="C1")),
    )  # fmt: skip


def map_of(cells: list[dict[str, Any]], speeds: tuple[float, ...], rates: tuple[float, ...]) -> Figure:
    """The winners, as a picture."""
    look = Look()
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, copy in zip(axes, (True, False), strict=True):
        for cell in (cell for cell in cells if cell["second_copy"] is copy):
            x, y = speeds.index(cell["bytes_per_second"]), rates.index(cell["requests_per_second"])
            color = to_rgba(pen_of("ordered" if cell["winner"] == "planned" else cell["winner"]).color(look), 0.55)
            axis.add_patch(_square(x, y, color, cell["winner"]))
            least = cell["harmed"][cell["winner"]]
            axis.text(x, y, _share(least, cell["requests"]), ha="center", va="center", fontsize=8)
        axis.set_xlim(-0.5, len(speeds) - 0.5)
        axis.set_ylim(-0.5, len(rates) - 0.5)
        axis.set_xticks(range(len(speeds)), [_bytes(speed) for speed in speeds], fontsize=8)
        axis.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axis.set_xlabel("bytes of weights that memory takes in a second")
        axis.set_title("room for a second copy" if copy else "no second copy: written where they stand", fontsize=10)
    axes[0].set_ylabel("requests a second")
    won = [name for name in RIVALS if any(cell["winner"] == name for cell in cells)]
    patches = [
        Patch(
            color=to_rgba(pen_of("ordered" if name == "planned" else name).color(look), 0.55),
            label=name,
            hatch=_HATCH.get(name),
        )
        for name in won
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.suptitle(
        f"Which strategy harms the fewest requests, and how many of 1,000 (deadline {DEADLINE_MS:g} ms, demo network)",
        fontsize=11,
    )
    return figure


_HATCH = {"reload": "///"}
"""Drawn in the colour of flip, which it resembles."""


def _square(x: int, y: int, color: Any, winner: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white", hatch=_HATCH.get(winner))


def _share(harmed: int, requests: int) -> str:
    share = 1000 * harmed / requests
    return "0" if not harmed else f"{share:.1f}" if share < 10 else f"{share:.0f}"


def _bytes(speed: float) -> str:
    return f"{speed / 1e6:g} MB" if speed >= 1e6 else f"{speed / 1e3:g} kB"


def run(quick: bool) -> Findings:
    """Everything."""
    bundle = digits.plan(SEED)
    devices, few = (60, 2 * BATCH) if quick else (DEVICES, FEW)
    console.print(f"playing {devices} devices")
    played = fleet(bundle, devices)
    console.print("the same in one process and in two")
    same = equal(bundle, few)
    console.print("live against virtual")
    rounds = [live_against_virtual(bundle, 8.0 if quick else LIVE_SECONDS) for _ in range(1 if quick else LIVE_ROUNDS)]
    live = {
        key: np.median([one[key] for one in rounds], axis=0).tolist()
        for key in ("rest_ms", "walk_ms", "rest_p99_ms", "walk_p99_ms")
    }
    speeds, rates = (SPEEDS[::3], RATES[::2]) if quick else (SPEEDS, RATES)
    console.print("crossover")
    cells = crossover(bundle, speeds, rates)
    folder = ROOT / ("quick" if quick else "results")
    folder.mkdir(parents=True, exist_ok=True)
    map_of(cells, speeds, rates).savefig(folder / "crossover.png", dpi=110)
    off = {key: [abs(one[key][1] / one[key][0] - 1) for one in rounds] for key in ("rest_ms", "walk_ms")}
    one = played["strategies"]
    claims = [
        Claim(f"CPU time of {devices} devices, {len(STRATEGIES)} strategies each", played["cpu_s"], "s", "<=",
              SECONDS_BAR),
        Claim("CPU time, largest deviation from a straight line", played["deviation"], "of all", "<=", DEVIATION_BAR),
        Claim(f"memory grown after the first {WARM:.0%} of devices", played["memory_growth_mb"], "MB", "<=",
              GROWTH_BAR_MB),
        Claim("the same result in one process and in two", float(same), "", "==", 1.0),
        Claim("predicted against live latency at rest, median", float(np.median(off["rest_ms"])), "off", "<=",
              RATIO_BAR, off["rest_ms"]),
        Claim("predicted against live latency on the way, median", float(np.median(off["walk_ms"])), "off", "<=",
              RATIO_BAR, off["walk_ms"]),
        Claim(
            "requests wrong because of the transition, planned against naive",
            one["planned"]["wrong_by_transition"] / max(one["naive"]["wrong_by_transition"], 1), "of naive", "<=", 0.05,
        ),
    ]  # fmt: skip
    return Findings(
        seeds=[SEED],
        claims=claims,
        rivals={name: {key: value[key] for key in ("harmed", "requests", "chosen")} for name, value in one.items()},
        data={"fleet": played, "live": rounds, "crossover": cells},
        picture=_picture(played, live),
    )


def _picture(played: dict[str, Any], live: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    cost, memory, latency = figure.subplots(1, 3)
    devices = [min(BATCH * place, played["devices"]) for place in range(len(played["series"]))]
    cost.plot(devices, [cpu for cpu, _ in played["series"]], color="#0072B2")
    cost.set_title(f"CPU seconds: {played['ms_per_device']:.0f} ms a device", fontsize=10)
    memory.plot(devices, [mb for _, mb in played["series"]], color="#D55E00")
    memory.set_ylim(0)
    memory.set_title("MB of the process", fontsize=10)
    for axis in (cost, memory):
        axis.set_xlabel("devices played")
        axis.grid(alpha=0.3)
    names = ("rest_ms", "walk_ms", "rest_p99_ms", "walk_p99_ms")
    for offset, place, label in ((-0.18, 0, "live"), (0.18, 1, "predicted")):
        bars = latency.bar(
            [at + offset for at in range(len(names))], [1e3 * live[name][place] for name in names], 0.34, label=label
        )
        latency.bar_label(bars, fmt="%.0f")
    latency.set_xticks(range(len(names)), ["at rest", "on the\nway", "at rest,\np99", "on the\nway, p99"], fontsize=8)
    latency.set_title("latency, µs, on this machine: p50, p99", fontsize=10)
    latency.legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main("fleet", run))
