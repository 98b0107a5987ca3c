"""LeNet-5 on MNIST walks C1 → C2 → C3 → C4 → C1 and back: how bad does the worst state get?

C2 lacks half of conv1's filters, C3 a quarter of fc1's units as well, C4 has half of the removed filters again. Units,
damping and paths are chosen on 5,000 training images that the network was not fitted on; the 10,000 test images are
read for the figures alone. The rivals walk between the same ends, through the same kinds of states.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.frame import Claim, Findings, main
from benchmarks.networks import trained
from device_profiles import loader
from planner.datasets import load
from planner.options import Options
from planner.plan import make_plan
from runtime.plan.bundle import Bundle, Transition, read
from runtime.plan.compact import pack
from runtime.plan.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.plan.samples import Samples
from runtime.simulation.simulator import compile_strategy, ends_of
from runtime.walking.rows import State
from runtime.walking.session import Session

PROFILE = "generic-x86"
RIVALS = ("naive", "zero-first", "linear", "ramp", "geodesic", "plain")
console = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """What is planned and measured."""

    model: str
    data: str
    options: Options
    waypoints: int
    random_states: int
    rival_waypoints: int
    rival_states: int


# What is proved is the certificate benchmark's.
FULL = Setting("lenet5", "mnist", Options(selection=5000, every_candidate=True, certified=0), 13, 100, 9, 16)
LITTLE = Options(
    selection=400, walked=200, fit=400, probes=16, landscape=0, torn=4, every_candidate=True, certified=0
)  # fmt: skip
QUICK = Setting("digits-cnn", "digits", LITTLE, 5, 10, 3, 4)


def run(quick: bool) -> Findings:
    """Measure; quick: one seed on digits."""
    seeds, setting = ([0], QUICK) if quick else ([0, 1, 2], FULL)
    load(setting.data)  # fetched once, before several processes ask for it
    # One thread a process: the networks are small, and two processes use two cores better than two threads do.
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(
        max_workers=min(2, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:  # fmt: skip
        paths = [Path(folder) / str(seed) for seed in seeds]
        per_seed = list(pool.map(plan_seed, seeds, paths, [setting] * len(seeds)))
        tasks = [(seed, path, name) for name in ("planned", *RIVALS) for seed, path in zip(seeds, paths, strict=True)]
        walked = pool.map(walk_tour, *zip(*tasks, strict=True), [setting] * len(tasks))
        for (seed, _, name), found in zip(tasks, walked, strict=True):
            console.print(f"seed {seed}, {name}: worst {found['worst_torn_drop_points']:.2f} points below C1")
            per_seed[seeds.index(seed)]["tour"][name] = found
    return findings(seeds, per_seed)


def plan_seed(seed: int, folder: Path, setting: Setting) -> dict[str, Any]:
    """Train, plan, and compare the plan's graphs with PyTorch."""
    dataset = load(setting.data)
    module = trained(setting.model, dataset, seed, selection=setting.options.selection)
    options = replace(setting.options, seed=seed)
    make_plan(module, setting.model, dataset, loader.load(PROFILE), folder, options=options)
    bundle = read(folder)
    session = Session(bundle.graph, bundle.constants)
    evaluator = Evaluator(session, Samples(dataset.test_x, dataset.test_y))
    return {
        "seed": seed,
        "dense_accuracy": bundle.manifest.modes[0].accuracy,
        "modes": {mode.name: {"accuracy": mode.accuracy, "macs": mode.macs} for mode in bundle.manifest.modes},
        "strategies": {" → ".join(move.ends): move.entry.strategy for move in bundle.transitions},
        "dense_bytes": bundle.manifest.model.dense_bytes,
        "size_bytes": bundle.size_bytes,
        "epoch_equivalents": bundle.manifest.planning.epoch_equivalents,
        "planning_seconds": bundle.manifest.planning.seconds,
        "tour": {},
        "torch_difference": torch_difference(bundle, evaluator, module),
        "compact_difference": compact_difference(bundle, evaluator),
    }


def walk_tour(seed: int, folder: Path, name: str, setting: Setting) -> dict[str, Any]:
    """Walk the whole tour, there and back, with one strategy; drops are paired against C1 on the same images."""
    dataset = load(setting.data)
    bundle = read(folder)
    session = Session(bundle.graph, bundle.constants)
    evaluator = Evaluator(session, Samples(dataset.test_x, dataset.test_y))
    dense = evaluator.at(bundle.table, bundle.table.dense())
    planned = name == "planned"
    waypoints = setting.waypoints if planned else setting.rival_waypoints
    random_states = setting.random_states if planned else setting.rival_states
    along: list[Answers] = []
    torn: list[Answers] = []
    written = 0
    for move in bundle.transitions:
        start, end = ends_of(bundle, move, name)
        table, chunks = bundle.table, move.chunks
        if not planned:
            table, chunks = compile_strategy(bundle, move, name, start, end)
        along += evaluator.along(table, start, chunks, spread_positions(chunks, table, waypoints))
        # Seeds of their own: the torn states are not those that the planner looked at.
        for way, begin, salt in ((chunks, start, 1000), (chunks.reversed(), end, 2000)):
            torn += evaluator.torn(table, begin, way, random_tears(table, way, random_states // 2, seed + salt))
        written += chunks.total_bytes(table)
    return {
        "worst_state_drop_points": 100 * (dense.accuracy - min(answers.accuracy for answers in along)),
        "worst_torn_drop_points": 100 * (dense.accuracy - min(answers.accuracy for answers in torn)),
        "bytes_written": written,
        "states": len(along),
        "torn_states": len(torn),
        "accuracies": [answers.accuracy for answers in along],
    }


def torch_difference(bundle: Bundle, evaluator: Evaluator, module: torch.nn.Module) -> float:
    """Largest difference between ONNX Runtime and PyTorch over all waypoints, relative to the largest output."""
    few = Evaluator(evaluator.session, evaluator.samples.take(500))
    worst = 0.0
    for state in waypoint_states(bundle.transitions, bundle):
        tensors = {**bundle.tensors, **bundle.table.tensors(state)}
        weights = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        with torch.no_grad():
            own = torch.func.functional_call(module, weights, (torch.from_numpy(few.samples.inputs),)).numpy()
        worst = max(worst, relative(few.at(bundle.table, state).outputs, own))
    return worst


def compact_difference(bundle: Bundle, evaluator: Evaluator) -> float:
    """Largest difference between a mode's compact graph and its masked dense network."""
    worst = 0.0
    for mode, state in bundle.states.items():
        compact = Session(bundle.compact[mode], pack(bundle, mode))
        small = Evaluator(compact, evaluator.samples).answers(compact.bind({}))
        worst = max(worst, relative(small.outputs, evaluator.at(bundle.table, state).outputs))
    return worst


def waypoint_states(transitions: Iterable[Transition], bundle: Bundle) -> Iterable[State]:
    """States at all stored waypoints."""
    for move in transitions:
        for waypoint in move.entry.waypoints:
            yield move.chunks.state_at(bundle.states[move.ends[0]], waypoint.position)


def relative(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference over the largest output, at least 1."""
    return float(np.abs(one - other).max() / max(1.0, float(np.abs(other).max())))


def findings(seeds: list[int], per_seed: list[dict[str, Any]]) -> Findings:
    """Claims, rivals and picture."""

    def claim(name: str, unit: str, op: str, bar: float, values: list[float]) -> Claim:
        worst = max(values) if op == "<=" else min(values)
        return Claim(name, worst, unit, op, bar, values)

    planned = [one["tour"]["planned"] for one in per_seed]
    claims = [
        claim("c1_accuracy", "fraction", ">=", 0.99, [one["dense_accuracy"] for one in per_seed]),
        claim("worst_state_drop_points", "points", "<=", 0.5, [one["worst_state_drop_points"] for one in planned]),
        claim("worst_torn_drop_points", "points", "<=", 0.5, [one["worst_torn_drop_points"] for one in planned]),
        claim(
            "bytes_written_ratio", "of dense weights", "<=", 1.0,
            [one["tour"]["planned"]["bytes_written"] / one["dense_bytes"] for one in per_seed],
        ),
        claim("torch_difference", "of largest output", "<=", 1e-4, [one["torch_difference"] for one in per_seed]),
        claim("compact_difference", "of largest output", "<=", 1e-4, [one["compact_difference"] for one in per_seed]),
    ]  # fmt: skip
    rivals = {
        name: {
            key: [one["tour"][name][key] for one in per_seed]
            for key in ("worst_state_drop_points", "worst_torn_drop_points", "bytes_written")
        }
        for name in RIVALS
    }
    return Findings(seeds, claims, rivals, {"per_seed": per_seed}, picture(per_seed))


def picture(per_seed: list[dict[str, Any]]) -> Figure:
    """Drop against C1 along the tour, planned beside its rivals; one line a seed."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    all_axis, close_axis = figure.subplots(2, 1, sharex=True)
    palette = ("#000000", "#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7")
    colors = dict(zip(("planned", *RIVALS), palette, strict=True))
    for axis in (all_axis, close_axis):
        for name, color in colors.items():
            for number, one in enumerate(per_seed):
                accuracies = one["tour"][name]["accuracies"]
                drops = 100 * (one["dense_accuracy"] - np.array(accuracies))
                axis.plot(
                    np.linspace(0, 4, len(drops)), drops, color=color, lw=2 if name == "planned" else 1,
                    label=name if number == 0 else None, zorder=3 if name == "planned" else 2,
                )  # fmt: skip
        axis.axhline(0.5, color="0.5", ls=":", lw=1)
        axis.set_ylabel("points below C1")
        axis.invert_yaxis()
    close_axis.set_ylim(0.3, -0.1)
    close_axis.set_title("the same, close to C1", fontsize=10)
    close_axis.set_xticks(range(5), ["C1", "C2", "C3", "C4", "C1"])
    all_axis.set_title("Accuracy on the test images while weights are rewritten; dotted: the bar", fontsize=11)
    figure.legend(*all_axis.get_legend_handles_labels(), ncols=7, fontsize=9, loc="outside lower center")
    return figure


if __name__ == "__main__":
    sys.exit(main("mnist_tour", run))
