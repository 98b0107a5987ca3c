"""A simulation and as much of a plan as a report reads, made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import msgspec

from device_profiles import loader
from device_profiles.energy import Energy
from device_profiles.figure import Figure
from runtime.plan.bundle import Bundle
from runtime.plan.landscape import Landscape, LandscapePath, LandscapePoint
from runtime.plan.manifest import (
    CandidateEntry,
    CostEntry,
    LayerEntry,
    Manifest,
    ModeEntry,
    ModelEntry,
    PlanningEntry,
    RetryEntry,
    TransitionEntry,
)
from runtime.simulation.simulator import STRATEGIES, Simulation, StatePoint, StrategyResult

SAMPLES = 500
DENSE = 0.97
HOSTILE = "<script>alert('mode')</script> & \"quotes\""


def result(*worst: float, written: int = 80_000, peak: int = 55_000, at_once: bool = False) -> StrategyResult:
    """A strategy on transitions with these worst states; a tenth of the points are torn."""
    points = []
    for number, low in enumerate(worst):
        for k in range(2 if at_once else 5):
            points.append(
                StatePoint(
                    transition=number,
                    position=k,
                    bytes=number * 1000 if at_once else number * 1000 + 250 * k,
                    accuracy=low if k == 1 else DENSE,
                    torn=False,
                )
            )
        if not at_once:
            points.append(
                StatePoint(transition=number, position=2, bytes=number * 1000 + 500, accuracy=DENSE, torn=True)
            )
    return StrategyResult(
        min_accuracy=min(worst), mean_accuracy=DENSE - 0.002, seconds=0.5, bytes_written=written,
        peak_weight_bytes=peak, p99_ms=1.5, longest_stall_ms=0.06, requests=900, states=tuple(points),
    )  # fmt: skip


def simulation(**strategies: StrategyResult) -> Simulation:
    return Simulation(
        profile="raspberry-pi-5", tour=("C1", "C2", "C1"), samples=SAMPLES, dense_accuracy=DENSE,
        bytes_per_increment=2048, increments_per_second=100.0,
        strategies={name.replace("_", "-"): one for name, one in strategies.items()}, left_out={},
    )  # fmt: skip


def everything() -> Simulation:
    """All strategies, two of which fall to a fifth."""
    played = {name: result(0.966, 0.964) for name in STRATEGIES}
    played |= {name: result(0.966, 0.966, written=130_000, peak=110_000, at_once=True) for name in ("flip", "reload")}
    played |= {"naive": result(0.8, 0.966), "plain": result(0.2, 0.3, written=17_000)}
    return simulation(**played)


def candidate(name: str, written: int, worst: float, *, feasible: bool = True, chosen: bool = False) -> CandidateEntry:
    return CandidateEntry(
        name=name, strategy=name.split()[0], feasible=feasible, chosen=chosen, bytes_written=written,
        functional_length=2.5, worst_accuracy=worst, worst_accuracy_bound=worst - 0.01, worst_divergence=1.4,
    )  # fmt: skip


COST = CostEntry(
    bytes=41_216, increments=21, seconds=0.25, joules=0.0042, cell_writes=1, wear=2e-5, transitions_left=100_000,
    retries=RetryEntry(rows=40.0, bytes=20_608.0, seconds=0.125, joules=0.0021), assumed=("joules", "retries"),
)  # fmt: skip


def move(begin: str, end: str, *candidates: CandidateEntry) -> TransitionEntry:
    chosen = next((one.strategy for one in candidates if one.chosen), "ordered")
    return TransitionEntry(
        from_=begin, to=end, strategy=chosen, path=f"paths/{begin}-{end}.safetensors", alternatives={}, chunks=4,
        bytes_written=40_000, functional_length=2.4, min_accuracy=0.964, worst_drop_points=0.6, torn_states=20,
        waypoints=(), candidates=candidates, cost=COST, cost_back=COST,
    )  # fmt: skip


MOVES = (
    move("C1", "C2", candidate("ordered", 40_000, 0.96, chosen=True), candidate("naive", 40_000, 0.8, feasible=False)),
    move("C2", "C1", candidate("ordered", 40_000, 0.96, chosen=True)),
)


def mode(name: str, description: str, kept: dict[str, tuple[int, ...]], share: float) -> ModeEntry:
    return ModeEntry(
        name=name, description=description, graph=f"graphs/{name}.onnx", kept=kept, accuracy=DENSE, correct=485,
        macs=int(90_000 * share), weight_bytes=int(54_000 * share), divergence=0.0, damping=0.0,
    )  # fmt: skip


def drawn(entry: TransitionEntry) -> Landscape:
    """Its candidates over a loss that is lowest at the start."""
    x, y = (-1.0, 0.0, 1.0, 2.0, 3.0), (-1.0, 0.0, 1.0)
    points = ((0, 0.0, 0.0), (2, 1.0, 0.5), (4, 2.0, 0.0))
    return Landscape(
        samples=SAMPLES, spanned_by=entry.candidates[0].name, x=x, y=y,
        loss=tuple(tuple(0.1 + across**2 + height**2 for across in x) for height in y),
        correct=tuple(tuple(400 for _ in x) for _ in y),
        paths=tuple(
            LandscapePath(
                name=one.name,
                points=tuple(
                    LandscapePoint(position=position, x=across, y=height, away=0.25, loss=0.125, correct=480)
                    for position, across, height in points
                ),
            )
            for one in entry.candidates
        ),
    )  # fmt: skip


def bundle(*, landscapes: bool = False) -> Bundle:
    """As much of a plan as a report reads."""
    manifest = Manifest(
        release=1,
        model=ModelEntry(
            id="DigitsCNN <b>", definition="digits-cnn", input_shape=(1, 8, 8), outputs=10, dense_bytes=54_000,
            dense_macs=90_000,
        ),
        profile={}, preprocessing={}, labels=tuple("0123456789"),
        layers=(LayerEntry(name="conv1", weight="w", bias=None, shape=(16, 1, 3, 3), reads=None, columns_per_unit=9),),
        modes=(mode("C1", "the dense network", {}, 1), mode("C2", HOSTILE, {"conv1": tuple(range(8))}, 0.5)),
        transitions=MOVES,
        planning=PlanningEntry(
            seed=0, seconds=27.0, epoch_equivalents=87.6, fit_samples=897, selection_samples=400, test_samples=SAMPLES,
            eval_samples=SAMPLES, dataset="digits", versions={"numpy": "2.0"},
        ),
        files={},
    )  # fmt: skip
    transitions = tuple(SimpleNamespace(entry=one, landscape=drawn(one) if landscapes else None) for one in MOVES)
    per_byte = Figure(value=1e-7, provenance="assumed", source="a test")
    profile = msgspec.structs.replace(loader.load("raspberry-pi-5"), energy=Energy(joules_per_byte_written=per_byte))
    return cast(Bundle, SimpleNamespace(manifest=manifest, profile=profile, transitions=transitions))
