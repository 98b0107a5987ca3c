"""LeNet-5 on MNIST walks C1 → C2 → C3 → C4 → C1 and back with every weight on a device's grid: how bad does it get?

Weights are integer codes of 8, 4, 3 or 2 bits times one scale a row. On 8 and 4 bits a plan is made as ``geoshift
plan`` makes it, read back, and walked on all 10,000 test images, in whole and in torn states, both ways. The rivals, on
the first 2,000 of these and in one ordered pass: 3 and 2 bits, and on every width rounding to the nearest value, with
scales from the same search and from the same float32 configurations.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn

from benchmarks.frame import Claim, Findings, main
from benchmarks.networks import trained
from benchmarks.parts import kept
from device_profiles import Profile, loader
from device_profiles.hardware import Weights
from planner.cost import CostMeter
from planner.datasets import Dataset, load, split
from planner.deploy import deploy, row_table
from planner.endpoint import EndPoint
from planner.grid import put_on_grid
from planner.modes import resolve
from planner.network import Network, trace
from planner.options import Options
from planner.plan import end_points, make_plan
from planner.progress import Silent
from planner.quantise import Rounding, nearest
from runtime.plan.bundle import read
from runtime.plan.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.plan.grid import Grid
from runtime.plan.grid_parts import check_values
from runtime.plan.samples import Samples
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import Floats, RowTable, State
from runtime.walking.session import Session
from runtime.walking.strategies import ordered

PROFILE = "generic-x86"
PLANNED = (8, 4)
WIDTHS = (8, 4, 3, 2)
BARS = {8: 0.5, 4: 0.3}
"""Points: on 8 bits below the float32 C1, on 4 bits below C1 on 4 bits."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """What is planned and measured."""

    model: str
    data: str
    selection: int
    tested: int
    rival_tested: int
    waypoints: int
    torn: int
    rival_waypoints: int
    rival_torn: int
    version: int = 1


FULL = Setting("lenet5", "mnist", 5000, 10_000, 2000, 7, 10, 5, 4)
QUICK = Setting("digits-cnn", "digits", 400, 500, 500, 3, 2, 3, 2)
SEEDS = (0, 1, 2)


def run(quick: bool) -> Findings:
    """Measure; quick: one seed on digits."""
    seeds, setting = ([0], QUICK) if quick else (list(SEEDS), FULL)
    return findings([measured(seed, setting) for seed in seeds])


def measured(seed: int, setting: Setting) -> dict[str, Any]:
    """One seed's figures; those of an earlier run with the same weights are taken again."""
    dataset = load(setting.data)
    module = trained(setting.model, dataset, seed, selection=setting.selection)
    name = f"quantised-{setting.model}-seed{seed}"
    torch.set_num_threads(1)
    return kept(name, setting, module, partial(_measure, seed, setting, dataset, module))


def _measure(seed: int, setting: Setting, dataset: Dataset, module: nn.Module) -> dict[str, Any]:
    profile = loader.load(PROFILE)
    options = Options(
        seed=seed, selection=setting.selection, tested=setting.rival_tested, waypoints=3, torn=2, certified=0,
        landscape=0, threads=1,
    )  # fmt: skip
    sample = torch.from_numpy(dataset.train_x[:2])
    network = trace(module, sample)
    ends = end_points(network, dataset, options, CostMeter()).find(resolve(profile, network, None), lambda mode: None)
    tensors = {name: tensor.detach().numpy() for name, tensor in network.module.state_dict().items()}
    # Images to round for: of those that rows are fitted on, as many as a plan takes.
    fit = np.random.default_rng(seed).permutation(split(dataset, seed, setting.selection)[0])[: options.fit]
    inputs = torch.from_numpy(dataset.train_x[fit])
    found: dict[str, Any] = {"seed": seed, "tours": {}}
    test = Samples(dataset.test_x[: setting.tested], dataset.test_y[: setting.tested])
    for bits in PLANNED:
        say(seed, f"{bits} bits, planned")
        found["tours"][f"{bits} bits"] = _planned(seed, setting, dataset, module, profile, bits, options, test, tensors)
    few = test.take(min(setting.rival_tested, len(test)))
    for bits in WIDTHS:
        for name, rounding in _rivals(bits):
            say(seed, name)
            found["tours"][name] = _rival(
                seed, setting, network, ends, profile, Grid("int", bits), inputs, few, rounding, tensors
            )
    return found


def say(seed: int, words: str) -> None:
    """Where the work is."""
    console.print(f"seed {seed}: {words}")


def _rivals(bits: int) -> list[tuple[str, Rounding | None]]:
    """What is measured beside the plans: fewer bits by the metric, and nearest rounding."""
    by_metric: list[tuple[str, Rounding | None]] = [] if bits in PLANNED else [(f"{bits} bits", None)]
    return [*by_metric, (f"{bits} bits, nearest", nearest)]


def _planned(
    seed: int,
    setting: Setting,
    dataset: Dataset,
    module: nn.Module,
    profile: Profile,
    bits: int,
    options: Options,
    test: Samples,
    floats: Mapping[str, Floats],
) -> dict[str, Any]:
    """A whole plan, read back and walked."""
    device = msgspec.structs.replace(profile, weights=Weights(format="int", bits=bits))
    with tempfile.TemporaryDirectory() as folder:
        make_plan(module, setting.model, dataset, device, Path(folder) / "plan", options=options)
        bundle = read(Path(folder) / "plan")
    paths = [move.chunks for move in bundle.transitions]
    rows = check_values(bundle.manifest, bundle.scales, bundle.tensors, bundle.table, bundle.states, paths, bundle.path)
    starts = [bundle.states[move.ends[0]] for move in bundle.transitions]
    evaluator = Evaluator(Session(bundle.graph, bundle.constants, threads=1), test)
    walked = walk(evaluator, bundle.table, starts, paths, setting.waypoints, setting.torn, seed)
    return {
        **walked,
        "float_c1_accuracy": _float_accuracy(bundle.graph, bundle.table, bundle.constants, floats, test),
        "strategies": [move.entry.strategy for move in bundle.transitions],
        "rows_checked": rows,
        "written_once": all(
            len({*zip(one.layer.tolist(), one.row.tolist(), strict=True)}) == len(one) for one in paths
        ),
        "modes": _modes(evaluator, bundle.table, bundle.states),
        "planning_seconds": bundle.manifest.planning.seconds,
    }


def _rival(
    seed: int,
    setting: Setting,
    network: Network,
    ends: Mapping[str, EndPoint],
    profile: Profile,
    grid: Grid,
    inputs: torch.Tensor,
    test: Samples,
    rounding: Rounding | None,
    floats: Mapping[str, Floats],
) -> dict[str, Any]:
    """The same float32 configurations on a grid, walked in one ordered pass."""
    placed = put_on_grid(network, ends, grid, inputs, cost=CostMeter(), rounding=rounding)
    table, states = row_table(placed.network, placed.ends, grid)
    deployed = deploy(placed.network, placed.ends, table, states, inputs[:2], Silent())
    paths = [ordered(table, states[begin], states[end]).chunks for begin, end in profile.transitions]
    evaluator = Evaluator(Session(deployed.live, deployed.constants, threads=1), test)
    starts = [states[begin] for begin, _ in profile.transitions]
    walked = walk(evaluator, table, starts, paths, setting.rival_waypoints, setting.rival_torn, seed)
    return {
        **walked,
        "float_c1_accuracy": _float_accuracy(deployed.live, table, deployed.constants, floats, test),
        "modes": _modes(evaluator, table, states),
    }


def _float_accuracy(
    live: bytes, table: RowTable, constants: Mapping[str, Floats], floats: Mapping[str, Floats], test: Samples
) -> float:
    """Accuracy of the network as it was trained, in the same graph."""
    session = Session(live, {name: floats[name] for name in constants}, threads=1)
    moved = [name for layer in table.layers for name in (layer.weight, layer.bias) if name is not None]
    return Evaluator(session, test).answers(session.bind({name: floats[name] for name in moved})).accuracy


def _modes(evaluator: Evaluator, table: RowTable, states: Mapping[str, State]) -> dict[str, float]:
    """Accuracy of each mode."""
    return {mode: evaluator.at(table, state).accuracy for mode, state in states.items()}


def walk(
    evaluator: Evaluator,
    table: RowTable,
    starts: Sequence[State],
    paths: Sequence[ChunkList],
    waypoints: int,
    torn: int,
    seed: int,
) -> dict[str, Any]:
    """Accuracy along the whole tour, and in torn states of both directions.

    Args:
        evaluator: Asks.
        table: Row versions.
        starts: State that each path begins at.
        paths: Of all transitions.
        waypoints: Whole states of each, at most.
        torn: Torn states of each, half of them in each direction.
        seed: Of the torn states, which are not those that the planner looked at.
    """
    along: list[Answers] = []
    half: list[Answers] = []
    for start, chunks in zip(starts, paths, strict=True):
        along += evaluator.along(table, start, chunks, spread_positions(chunks, table, waypoints))
        end = chunks.state_at(start, len(chunks))
        for way, begin, salt in ((chunks, start, 1000), (chunks.reversed(), end, 2000)):
            half += evaluator.torn(table, begin, way, random_tears(table, way, torn // 2, seed + salt))
    return {
        "c1_accuracy": along[0].accuracy,
        "worst_whole_accuracy": min(one.accuracy for one in along),
        "worst_torn_accuracy": min(one.accuracy for one in half),
        "bytes_written": sum(chunks.total_bytes(table) for chunks in paths),
        "accuracies": [one.accuracy for one in along],
        "states": len(along) + len(half),
    }


def below(tour: Mapping[str, Any], reference: str) -> float:
    """Points by which the worst state, whole or torn, lies below a reference of the same tour."""
    worst = min(float(tour["worst_whole_accuracy"]), float(tour["worst_torn_accuracy"]))
    return 100 * (float(tour[reference]) - worst)


def findings(per_seed: list[dict[str, Any]]) -> Findings:
    """Claims, rivals and picture."""

    def each(name: str, figure: Callable[[Mapping[str, Any]], float]) -> list[float]:
        return [figure(one["tours"][name]) for one in per_seed]

    references = {8: "float_c1_accuracy", 4: "c1_accuracy"}
    words = {8: "below_float_c1", 4: "below_4_bit_c1"}
    claims = []
    for bits in PLANNED:
        drops = each(f"{bits} bits", partial(below, reference=references[bits]))
        claims.append(Claim(f"worst_state_{bits}_bits_{words[bits]}", max(drops), "points", "<=", BARS[bits], drops))
    off = [float(not one["tours"][f"{bits} bits"]["written_once"]) for one in per_seed for bits in PLANNED]
    claims.append(Claim("paths_that_write_a_row_twice", sum(off), "paths", "==", 0, off))
    rivals = {
        name: {
            "worst_below_float_c1_points": each(name, partial(below, reference="float_c1_accuracy")),
            "worst_below_own_c1_points": each(name, partial(below, reference="c1_accuracy")),
            "c1_below_float_c1_points": each(
                name, lambda tour: 100 * (tour["float_c1_accuracy"] - tour["c1_accuracy"])
            ),
            "bytes_written": each(name, lambda tour: tour["bytes_written"]),
        }
        for name in per_seed[0]["tours"]
    }
    seeds = [one["seed"] for one in per_seed]
    return Findings(seeds, claims, rivals, {"per_seed": per_seed}, picture(rivals))


def picture(rivals: Mapping[str, Mapping[str, list[float]]]) -> Figure:
    """Worst state below the float32 C1 by width, both roundings; and what of it C1 alone has lost."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axis = figure.subplots()
    for name, suffix, color in (("by the metric", "", "#0072B2"), ("to the nearest", ", nearest", "#D55E00")):
        keys = [f"{bits} bits{suffix}" for bits in WIDTHS]
        places = np.arange(len(WIDTHS)) + (-0.12 if not suffix else 0.12)
        for figure_name, marker, words in (
            ("worst_below_float_c1_points", "o", "worst state"),
            ("c1_below_float_c1_points", "_", "C1 itself"),
        ):
            for number, values in enumerate(zip(*(rivals[key][figure_name] for key in keys), strict=True)):
                # A logarithmic axis has no zero; what is better than 0.02 points is drawn there.
                axis.plot(
                    places, np.maximum(values, 0.02), marker, color=color, ms=7 if marker == "o" else 14, mew=1.5,
                    mfc="none", label=f"{words}, rounded {name}" if number == 0 else None,
                )  # fmt: skip
    for bits, bar in BARS.items():
        at = WIDTHS.index(bits)
        if bits == 8:
            axis.plot([at - 0.35, at + 0.35], [bar, bar], color="0.4", ls=":", label="bar on 8 bits")
    axis.set_yscale("log")
    axis.set_xticks(range(len(WIDTHS)), [f"{bits} bits" for bits in WIDTHS])
    axis.set_ylabel("points below the float32 C1")
    axis.set_title("The tour's worst state with every weight on a grid; one mark a seed", fontsize=11)
    axis.grid(axis="y", color="0.9")
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    cases = {f"seed{seed}": partial(measured, seed, FULL) for seed in SEEDS}
    sys.exit(main("quantised", run, cases))
