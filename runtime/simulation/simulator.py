"""Plays every strategy on this machine: the real engine, the real chunk lists, the stored held-out samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from device_profiles import Profile
from device_profiles.schema import Writes
from runtime.errors import BundleError
from runtime.plan.bundle import Bundle, Transition
from runtime.plan.compact import pack
from runtime.plan.evaluation import Evaluator, random_tears, spread_positions
from runtime.plan.graphs import live_session
from runtime.simulation.load import Load
from runtime.walking import strategies
from runtime.walking.bank import InPlaceBank
from runtime.walking.chunks import ChunkList
from runtime.walking.controller import Controller
from runtime.walking.engine import Engine, LiveRunner, Runner
from runtime.walking.net import DeployedPlan
from runtime.walking.operation import Outcome
from runtime.walking.route import Leg
from runtime.walking.rows import BASE, ZERO, MovedLayer, RowTable, State, same_state

STEPS: Final = 10
"""Points of the simulated lines and ramps."""
STRATEGIES: Final = (
    "ordered", "ramp", "geodesic", "linear", "zero-first", "naive", "plain", "flip", "reload",
)  # fmt: skip
"""All that any plan can be played with. ``plain`` overwrites in storage order and makes up for nothing."""
PLANNED: Final = "planned"
"""The stored path of every transition. Played by itself where a plan chose one that is no strategy of the list above,
as those by way of free seats and those in blocks are; else the list has it."""


class StatePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy in one state of the tour.

    Attributes:
        transition: Which of the tour's transitions.
        position: Chunks written of it.
        bytes: Bytes written since the tour began.
        accuracy: On the stored samples.
        torn: Whether a chunk is half written.
    """

    transition: int
    position: int
    bytes: int
    accuracy: float
    torn: bool


class StrategyResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a strategy fared on the whole tour."""

    min_accuracy: float
    mean_accuracy: float
    seconds: float
    """Time of the walks, at the pace that the write budget allows."""
    bytes_written: int
    peak_weight_bytes: int
    """Most memory that weights took at once, the stored plan not counted."""
    p99_ms: float
    """99th percentile of the latency of single requests, one after the other, during the walks."""
    longest_stall_ms: float
    """Longest time that writing kept callers out."""
    requests: int
    """Requests that the latency was measured on."""
    states: tuple[StatePoint, ...]


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """All strategies on one tour."""

    profile: str
    tour: tuple[str, ...]
    """Modes visited, in order."""
    samples: int
    dense_accuracy: float
    """The dense network on the same samples."""
    bytes_per_increment: int
    increments_per_second: float
    strategies: dict[str, StrategyResult]
    left_out: dict[str, str]
    """Strategies that this bundle cannot play, and why."""
    assumed: tuple[str, ...] = ()
    """Of the pace, the numbers that the profile says are assumed; one that is given here is no longer the profile's."""


@dataclass(frozen=True)
class _Walked:
    """What the clock and the engine said about a walk under load."""

    seconds: float
    peak: int
    stall_s: float
    latencies_s: list[float]


class _Scripted(DeployedPlan):
    """A plan whose next route is given."""

    def __init__(self, bundle: Bundle, profile: Profile) -> None:
        super().__init__(bundle, profile, "in-place")
        self.leg: Leg | None = None

    def route(self, begin: str, end: str) -> tuple[Leg, ...]:
        """The given leg."""
        assert self.leg is not None
        return (self.leg,)

    def rest(self, mode: str, live: LiveRunner) -> Runner:
        """The live network: strategies are compared without the smaller graph that ends a switch."""
        return live

    def canary(self, runner: Runner) -> str:
        """No canary: a strategy that fails is to be seen failing."""
        return ""


def simulate(
    bundle: Bundle,
    profile: Profile,
    *,
    names: Sequence[str] | None = None,
    states: int = 17,
    torn: int = 8,
    seed: int = 0,
    bytes_per_increment: int | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> Simulation:
    """Walk the plan's tour with every strategy.

    Args:
        bundle: A checked bundle.
        profile: Device whose write budget and number of threads count.
        names: Strategies to play; None for all, and the stored paths where they are none of these.
        states: States measured of each transition, its ends among them.
        torn: Torn states measured of each transition.
        seed: Seed of the torn states.
        bytes_per_increment: Write budget in place of the profile's.
        step: Called with each name before it is played.

    Raises:
        BundleError: The bundle's tour is empty, or a walk did not end on the state it should.
    """
    if not bundle.transitions:
        raise BundleError(f"{bundle.path}: found no transition, expected at least one to simulate")
    budget = bytes_per_increment or profile.writes.bytes_per_increment
    writes = msgspec.structs.replace(profile.writes, bytes_per_increment=budget)
    session = live_session(bundle, profile.threads, profile)
    evaluator = Evaluator(session, bundle.evaluation)
    played: dict[str, StrategyResult] = {}
    left_out: dict[str, str] = {}
    for name in strategies_of(bundle) if names is None else names:
        step(name)
        if why := why_not(bundle, name):
            left_out[name] = why
            continue
        played[name] = _play(bundle, profile, name, evaluator, writes, states, torn, seed)
    tour = (bundle.transitions[0].ends[0], *(move.ends[1] for move in bundle.transitions))
    return Simulation(
        profile=profile.name,
        tour=tour,
        samples=len(bundle.evaluation),
        dense_accuracy=evaluator.at(bundle.table, bundle.table.dense()).accuracy,
        bytes_per_increment=budget,
        increments_per_second=profile.writes.increments_per_second,
        strategies=played,
        left_out=left_out,
        assumed=tuple(
            name
            for name in ("bytes_per_increment", "increments_per_second")
            if (origin := profile.origins.get(f"writes.{name}")) is not None
            and origin.provenance == "assumed"
            and getattr(writes, name) == getattr(profile.writes, name)
        ),
    )


def strategies_of(bundle: Bundle) -> tuple[str, ...]:
    """All that a plan can be played with; its stored paths are among them by one name or another."""
    special = any(move.entry.strategy not in STRATEGIES or move.entry.blocks for move in bundle.transitions)
    return (PLANNED, *STRATEGIES) if special else STRATEGIES


def why_not(bundle: Bundle, name: str) -> str:
    """Why a strategy cannot be played on this plan; empty if it can."""
    if name in ("linear", "ramp", "geodesic") and not bundle.manifest.stored.holds_all:
        return f"its rows between the two ends are not on the device's grid, {bundle.manifest.stored}"
    if name == "geodesic" and not all(_has_geodesic(move) for move in bundle.transitions):
        return "a transition of this plan has none stored; plan with --every-candidate to keep them"
    others = [mode.name for mode in bundle.manifest.modes if mode.sparse is not None or mode.source is not None]
    if name == "plain" and others:
        return f"it switches units off and nothing more, which does not lead to {', '.join(others)}"
    return ""


def _has_geodesic(move: Transition) -> bool:
    return move.entry.strategy == "geodesic" or "geodesic" in move.entry.alternatives


def _play(
    bundle: Bundle,
    profile: Profile,
    name: str,
    evaluator: Evaluator,
    writes: Writes,
    states: int,
    torn: int,
    seed: int,
) -> StrategyResult:
    """All transitions of the tour with one strategy."""
    points: list[StatePoint] = []
    walks: list[_Walked] = []
    written = 0
    for number, move in enumerate(bundle.transitions):
        start, end = ends_of(bundle, move, name)
        if name in ("flip", "reload"):
            for position, state in ((0, start), (1, end)):
                answers = evaluator.at(bundle.table, state)
                written += position * _replaced_bytes(bundle, move, name, start, end)
                points.append(_point(number, position, written, answers.accuracy, torn=False))
            walks.append(_replace_under_load(bundle, profile, move, name, end))
            continue
        table, chunks = compile_strategy(bundle, move, name, start, end)
        cumulative = np.concatenate([[0], chunks.chunk_bytes(table).cumsum()])
        positions = spread_positions(chunks, table, states)
        for position, answers in zip(positions, evaluator.along(table, start, chunks, positions), strict=True):
            points.append(_point(number, position, written + int(cumulative[position]), answers.accuracy, torn=False))
        tears = random_tears(table, chunks, torn, seed)
        for (position, _), answers in zip(tears, evaluator.torn(table, start, chunks, tears), strict=True):
            points.append(_point(number, position, written + int(cumulative[position]), answers.accuracy, torn=True))
        written += int(cumulative[-1])
        walks.append(_walk_under_load(bundle, profile, move, writes, table, chunks, start, end))
    accuracies = [point.accuracy for point in points]
    latencies = [latency for walk in walks for latency in walk.latencies_s]
    return StrategyResult(
        min_accuracy=min(accuracies),
        mean_accuracy=float(np.mean(accuracies)),
        seconds=sum(walk.seconds for walk in walks),
        bytes_written=written,
        peak_weight_bytes=max(walk.peak for walk in walks),
        p99_ms=float(np.percentile(latencies, 99)) * 1e3,
        longest_stall_ms=max(walk.stall_s for walk in walks) * 1e3,
        requests=len(latencies),
        states=tuple(points),
    )


def _point(transition: int, position: int, written: int, accuracy: float, *, torn: bool) -> StatePoint:
    return StatePoint(transition=transition, position=position, bytes=written, accuracy=accuracy, torn=torn)


def ends_of(bundle: Bundle, move: Transition, name: str) -> tuple[State, State]:
    """States the transition joins; for ``plain`` those of units zeroed and nothing made up for."""
    start, end = (bundle.states[mode] for mode in move.ends)
    if name != "plain":
        return start, end
    return _plain(start), _plain(end)


def _plain(state: State) -> State:
    return {layer: np.where(versions == ZERO, ZERO, BASE).astype(np.int32) for layer, versions in state.items()}


def compile_strategy(
    bundle: Bundle, move: Transition, name: str, start: State, end: State
) -> tuple[RowTable, ChunkList]:
    """Chunk list of a strategy: the stored one where the plan chose it, else compiled here."""
    if name == PLANNED or (name == move.entry.strategy and not move.entry.blocks):
        return bundle.table, move.chunks
    if name == "geodesic":
        return bundle.alternative(move, name)
    if name in ("linear", "ramp"):
        stepped = {"linear": strategies.linear, "ramp": strategies.ramp}[name]
        compiled = stepped(bundle.table, start, end, STEPS)
    else:
        whole = {"ordered": strategies.ordered, "zero-first": strategies.zero_first}.get(name, strategies.naive)
        compiled = whole(bundle.table, start, end)
    return compiled.table(bundle.table), compiled.chunks


def _replaced_bytes(bundle: Bundle, move: Transition, name: str, start: State, end: State) -> int:
    """Bytes that replacing whole tensors writes: those that change for a flip, all for a reload."""
    if name == "reload":
        return _stored_bytes(bundle, move.ends[1])
    return sum(layer.row_bytes * layer.units for layer in _changed(bundle, start, end))


def _stored_bytes(bundle: Bundle, mode: str) -> int:
    """What a mode's smaller network takes on the device."""
    entry = bundle.manifest.grid
    if entry is UNSET:
        return bundle.mode(mode).weight_bytes
    tensors = pack(bundle, mode)
    coded = {layer.weight for layer in entry.layers}
    return sum(
        len(tensor) * entry.grid.row_bytes(tensor[0].size, bias=False) if name in coded else tensor.nbytes
        for name, tensor in tensors.items()
    )


def _changed(bundle: Bundle, start: State, end: State) -> list[MovedLayer]:
    """Layers that differ between two states."""
    return [layer for layer in bundle.table.layers if not np.array_equal(start[layer.name], end[layer.name])]


def _walk_under_load(
    bundle: Bundle,
    profile: Profile,
    move: Transition,
    writes: Writes,
    table: RowTable,
    chunks: ChunkList,
    start: State,
    end: State,
) -> _Walked:
    """Walk one chunk list in place through the engine and the controller while requests come in."""
    plan = _Scripted(bundle, profile)
    plan.table = table
    session = live_session(bundle, profile.threads, profile)
    live = LiveRunner(session, InPlaceBank(table, start, session.bind))
    engine = Engine(live, exclusive=True, queue_limit=profile.queue_limit)
    controller = Controller(plan, engine, move.ends[0], writes, live)
    plan.leg = Leg(*move.ends, chunks)
    with Load(engine, bundle.evaluation.inputs) as load:
        result = controller.switch(move.ends[1]).wait()
    controller.close()
    if result.outcome is not Outcome.COMMITTED or not same_state(chunks.state_at(start, len(chunks)), end):
        raise BundleError(f"{bundle.path}: {' → '.join(move.ends)}: {result.reason or 'ended on another state'}")
    return _Walked(result.seconds, engine.weight_bytes, engine.longest_stall_s, load.latencies_s)


def _replace_under_load(bundle: Bundle, profile: Profile, move: Transition, name: str, end: State) -> _Walked:
    """Replace tensors (flip) or the session (reload) at once while requests come in."""
    plan = DeployedPlan(bundle, profile, "in-place")
    session = live_session(bundle, profile.threads, profile)
    bank = InPlaceBank(bundle.table, bundle.states[move.ends[0]], session.bind)
    old: Runner = LiveRunner(session, bank) if name == "flip" else plan.compact(move.ends[0])
    engine = Engine(old, exclusive=False, queue_limit=profile.queue_limit)
    with Load(engine, bundle.evaluation.inputs) as load:
        begun = time.perf_counter()
        new: Runner
        if name == "flip":
            new = LiveRunner(session, InPlaceBank(bundle.table, end, session.bind))
            changed = _changed(bundle, bundle.states[move.ends[0]], end)
            peak = old.weight_bytes + sum(layer.array_bytes * layer.units for layer in changed)
        else:
            new = plan.compact(move.ends[1])
            peak = old.weight_bytes + new.weight_bytes
        engine.swap(new)
        seconds = time.perf_counter() - begun
    return _Walked(seconds, peak, 0.0, load.latencies_s)


def as_json(simulation: Simulation) -> Mapping[str, object]:
    """The simulation as plain data."""
    data: Mapping[str, object] = msgspec.to_builtins(simulation)
    return data
