"""What a board can do, measured on it: latency of modes, bandwidth of writing in place, power at rest and at work."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from device_profiles import Figure, Profile
from runtime.errors import BundleError
from runtime.plan.bundle import Bundle
from runtime.plan.graphs import compact_session, live_session
from runtime.sensing.power import Meter
from runtime.sensing.sysfs import text
from runtime.walking.bank import Increment, InPlaceBank, increments
from runtime.walking.chunks import ChunkList
from runtime.walking.engine import CompactRunner, LiveRunner, Runner

WRITE_S: Final = 0.2
"""Least time that one measurement of the bandwidth takes: a thousand times the clock's resolution and a call's cost."""
READ_S: Final = 0.25
"""Seconds between two readings of a meter; RAPL's smallest counter begins again after minutes."""
WARM_UP: Final = 3
"""Runs of every mode that are not counted: the first ones fill caches and make arenas."""


class Progress(Protocol):
    """Who is told how far it is."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of so many steps begins."""

    def step(self, detail: str) -> None:
        """The next step begins."""


@dataclass(frozen=True)
class MeasuredMode:
    """Latency of one sample at a mode.

    Attributes:
        name: The mode.
        macs: Its multiply-accumulates.
        median_ms: Milliseconds, in the median of all runs.
        quartiles_ms: Between these lies the middle half of the runs.
        runs: How many.
    """

    name: str
    macs: int
    median_ms: float
    quartiles_ms: tuple[float, float]
    runs: int


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        machine: The board, for people.
        date: Day of the measurement, UTC.
        model: The network that was run.
        modes: In the plan's order.
        figures: Path of the profile to figure.
    """

    machine: str
    date: str
    model: str
    modes: tuple[MeasuredMode, ...]
    figures: dict[str, Figure] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The result as dictionaries and scalars."""
        return {
            "machine": self.machine,
            "date": self.date,
            "model": self.model,
            "modes": [
                {"name": one.name, "macs": one.macs, "median_ms": one.median_ms, "runs": one.runs,
                 "quartiles_ms": list(one.quartiles_ms)}
                for one in self.modes
            ],
            "figures": {
                name: {"value": one.value, "provenance": one.provenance, "source": one.source}
                for name, one in self.figures.items()
            },
        }  # fmt: skip


def measure(
    bundle: Bundle,
    profile: Profile,
    *,
    rounds: int,
    watch_s: float,
    meter: Meter | None,
    progress: Progress,
    machine: str | None = None,
) -> Measured:
    """Run every mode's network, write through the bank, and read the meter.

    Args:
        bundle: A plan.
        profile: The device; its threads and its budget of an increment count.
        rounds: Runs of every mode. They are interleaved, so that a slow minute of the machine slows all of them.
        watch_s: Seconds at rest and at work for which power is read.
        meter: Where power is read; None if nothing tells it.
        progress: Told of stages and steps.
        machine: What to call the board; None for what it says of itself.

    Raises:
        BundleError: The plan moves nothing, so that no bandwidth can be measured.
    """
    machine = _line(machine or machine_name())
    date = datetime.now(UTC).date().isoformat()
    sample = bundle.evaluation.inputs[:1]
    runners: dict[str, Runner] = {
        mode.name: CompactRunner(compact_session(bundle, mode.name, profile.threads)) for mode in bundle.manifest.modes
    }
    progress.stage("Latency of every mode", rounds)
    modes = _latencies(bundle, runners, sample, rounds, progress)
    figures = _speed(modes, lambda what: f"{what}; {_source(bundle, machine, date)}")
    progress.stage("Writing in place", 1)
    rate = _bandwidth(bundle, profile)
    said = f"rows copied in place through the bank, median of the passes; {_source(bundle, machine, date)}"
    figures["writes.bytes_per_second"] = Figure(value=_short(rate), provenance="measured", source=said)
    if meter is not None:
        progress.stage("Power at rest and at work", 2)
        dense = bundle.manifest.modes[0]
        figures |= _power(
            meter, runners[dense.name], sample, dense.macs, watch_s, progress, _source(bundle, machine, date)
        )
    return Measured(machine=machine, date=date, model=bundle.manifest.model.id, modes=modes, figures=figures)


def overlay(found: Measured, extends: str) -> str:
    """A profile that extends another one by what was measured, as YAML.

    Args:
        found: What was measured.
        extends: Name or path of the other profile.
    """
    lines = [
        f"# By `geoshift profiles measure` on {_line(found.machine)}, {found.date}, with {_line(found.model)}.",
        *(
            f"# {mode.name}: {mode.median_ms:.3f} ms an inference, median of {mode.runs} interleaved runs"
            for mode in found.modes
        ),
        f"extends: {_quoted(extends)}",
    ]
    sections: dict[str, list[tuple[str, Figure]]] = {}
    for name, figure in found.figures.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append((key, figure))
    for section, figures in sections.items():
        lines.append(f"{section}:")
        for key, figure in figures:
            lines += [
                f"  {key}:",
                f"    value: {figure.value!r}",
                f"    provenance: {figure.provenance}",
                f"    source: {_quoted(figure.source)}",
            ]
    return "\n".join(lines) + "\n"


def machine_name(root: Path = Path("/")) -> str:
    """What this machine calls itself: the board's model, else its processor.

    Args:
        root: Directory that stands for ``/``.
    """
    board = text(root / "proc/device-tree/model")
    if board:
        return board.strip("\0 \n")
    info = text(root / "proc/cpuinfo") or ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine() or "an unnamed machine"


def _latencies(
    bundle: Bundle, runners: dict[str, Runner], sample: Any, rounds: int, progress: Progress
) -> tuple[MeasuredMode, ...]:
    seen: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(WARM_UP):
        for runner in runners.values():
            runner.run(sample)
    for turn in range(rounds):
        progress.step(f"round {turn + 1}")
        for name, runner in runners.items():
            begun = time.perf_counter()
            runner.run(sample)
            seen[name].append((time.perf_counter() - begun) * 1e3)
    found = []
    for mode in bundle.manifest.modes:
        first, median, third = statistics.quantiles(seen[mode.name], n=4)
        found.append(MeasuredMode(mode.name, mode.macs, median, (first, third), rounds))
    return tuple(found)


def _speed(modes: tuple[MeasuredMode, ...], source: Callable[[str], str]) -> dict[str, Figure]:
    """Multiply-accumulates a second, and what an inference takes beside them: a line through all modes.

    Where the line makes no sense (modes as large as each other, or smaller ones slower), the dense mode's rate alone.
    """
    macs, ms = np.array([one.macs for one in modes], float), np.array([one.median_ms for one in modes])
    if len(set(macs)) > 1:
        slope, overhead = np.polyfit(macs, ms, 1)
        if slope > 0 and overhead >= 0:
            said = source(f"a line through the latencies of {len(modes)} modes")
            return {
                "target.macs_per_second": Figure(value=_short(1e3 / slope), provenance="measured", source=said),
                "target.overhead_ms": Figure(value=_short(overhead), provenance="measured", source=said),
            }
    rate = modes[0].macs / modes[0].median_ms * 1e3
    said = source(f"latency of mode {modes[0].name} alone, what it takes beside its multiply-accumulates included")
    return {"target.macs_per_second": Figure(value=_short(rate), provenance="measured", source=said)}


def _bandwidth(bundle: Bundle, profile: Profile) -> float:
    """Bytes a second that the bank takes, in the median of a few passes over the plan's longest transition."""
    move = max(bundle.transitions, key=lambda one: len(one.chunks), default=None)
    if move is None or not len(move.chunks):
        raise BundleError(
            f"{bundle.path}: found no transition that writes anything, expected one; measure another plan"
        )
    session = live_session(bundle, profile.threads, profile)
    bank = InPlaceBank(bundle.table, bundle.states[move.ends[0]], session.bind)
    runner = LiveRunner(session, bank)
    runner.run(bundle.evaluation.inputs[:1])
    there, back = (_gathered(bundle, profile, chunks) for chunks in (move.chunks, move.chunks.reversed()))
    rates: list[float] = []
    for _ in range(5):
        written, seconds = 0, 0.0
        while seconds < WRITE_S:
            for one in (there, back):
                begun = time.perf_counter()
                for increment, _ in one:
                    bank.write(increment)
                seconds += time.perf_counter() - begun
                written += sum(size for _, size in one)
        rates.append(written / seconds)
    return statistics.median(rates)


def _gathered(bundle: Bundle, profile: Profile, chunks: ChunkList) -> list[tuple[Increment, int]]:
    """Increments of the device's budget, with their bytes: gathering is no part of what is timed."""
    budget = profile.writes.bytes_per_increment
    return [
        (Increment.gather(bundle.table, chunks, first, last), size)
        for first, last, size in increments(chunks, bundle.table, lambda: budget)
    ]


def _power(
    meter: Meter, runner: Runner, sample: Any, macs: int, watch_s: float, progress: Progress, source: str
) -> dict[str, Figure]:
    """Watts at rest, and what one multiply-accumulate adds; nothing where the meter tells nothing."""
    progress.step("at rest")
    idle_w = _watched(meter, watch_s, lambda: time.sleep(READ_S))
    progress.step("at work")
    answered = 0

    def work() -> None:
        nonlocal answered
        until = time.perf_counter() + READ_S
        while time.perf_counter() < until:
            runner.run(sample)
            answered += 1

    begun = time.monotonic()
    active_w = _watched(meter, watch_s, work)
    seconds = time.monotonic() - begun
    figures = {}
    if idle_w is not None:
        said = f"{meter.source}, mean of {watch_s:g} s at rest; {source}"
        figures["energy.idle_w"] = Figure(value=_short(idle_w), provenance="measured", source=said)
    if idle_w is not None and active_w is not None and active_w > idle_w and answered:
        each = (active_w - idle_w) * seconds / (answered * macs)
        said = (
            f"{meter.source}: {active_w:.3g} W at {answered / seconds:.4g} inferences a second, less {idle_w:.3g} W at "
            f"rest; {source}"
        )
        figures["energy.joules_per_mac"] = Figure(value=_short(each), provenance="measured", source=said)
    return figures


def _watched(meter: Meter, watch_s: float, between: Callable[[], None]) -> float | None:
    """Mean watts while something is done again and again; None if the meter tells no energy."""
    begun = time.monotonic()
    first = meter.sample(begun)
    now = begun
    while now - begun < watch_s:
        between()
        now = time.monotonic()
        last = meter.sample(now)
    spent_j = last.energy_j - first.energy_j
    return spent_j / (now - begun) if spent_j > 0 else None


def _source(bundle: Bundle, machine: str, date: str) -> str:
    return f"geoshift profiles measure, {machine}, {date}, {bundle.manifest.model.id}"[:300]


def _short(value: float) -> float:
    """Four digits: a measurement of this kind is no better."""
    return float(f"{value:.4g}")


def _line(text: str) -> str:
    return "".join(one for one in text if one.isprintable())


def _quoted(text: str) -> str:
    return "'" + _line(text).replace("'", "''") + "'"
