"""LeNet-300-100 on MNIST walks to 70, 90, 95 and 98 % of its weights zero: the paper's figure 2C.

The sparse end is ours (`planner.sparse`: support by saliency under the metric, chosen anew on the way, mixed states
trained too) or a rival's of the same budget: gradual magnitude pruning + distillation, the same with mixed states as
ours, the same training on a random support, and the closed form alone. Each is walked there and back by the runtime
along the straight line and by one pass of whole rows, output layer first; magnitude pruning also along its own search
path. The states are the same for all, fixed beforehand: points evenly spread in bytes, both ends among them, and torn
rows out and back; on a search path its snapshots too, those just after pruning among them.

The learning rate of each kind of end is tuned for each sparsity, the same three rates for all: the one with the least
worst drop written once (where that is not asked for, with the best end), on the selection images of a network that is
not measured; that is charged to none of them. The test images are read for the figures alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats
from torch import Tensor

from benchmarks.frame import Claim, Findings, main, write_atomically
from benchmarks.networks import fit_and_selection, trained
from planner import distill, saliency, sparse
from planner.cost import CostMeter
from planner.datasets import load
from planner.distill import Course, Watch
from planner.export import export_live
from planner.image_files import cache_directory
from planner.network import Network, trace
from planner.row_pool import RowPool, row_matrix
from planner.sparse import Search, SparseEnd
from runtime.plan.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.plan.samples import Samples
from runtime.walking.rows import MovedLayer, RowTable, State
from runtime.walking.session import Session
from runtime.walking.strategies import Compiled, Point, linear, ordered, waypoints

STEPS = 10
"""Points of the straight line."""
WALKS = {
    "ours": ("linear", "write-once"),
    "magnitude": ("linear", "write-once", "search path"),
    "magnitude, mixed": ("linear", "write-once"),
    "random": ("linear", "write-once"),
    "refit only": ("linear", "write-once"),
}
OURS = Search(course=Course(mixed=0.3))
MAGNITUDE = Search(score="magnitude", ramp=0.5, settle=0.67, course=Course(mixed=0.0))
SEARCHES = {
    "ours": OURS,
    "magnitude": MAGNITUDE,
    "magnitude, mixed": replace(MAGNITUDE, course=OURS.course),
    "random": OURS,
}
RATES = (1e-3, 2e-3, 4e-3)
TUNED_ON = 5
"""Seed of the network that rates are tuned on."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Level:
    """One sparsity, its budget, and its bars (None for no claim)."""

    share: float
    epochs: float
    line_bar: float | None
    once_bar: float | None
    end_bar: float | None = None

    @property
    def percent(self) -> int:
        """The share in percent."""
        return round(100 * self.share)


@dataclass(frozen=True)
class Setting:
    """What is trained and measured."""

    model: str
    data: str
    seeds: tuple[int, ...]
    levels: tuple[Level, ...]
    refit_inputs: int
    points: int
    torn: int
    snapshots: int


LEVELS = (
    Level(0.70, 1, 0.15, 0.20),
    Level(0.90, 5, 0.25, 0.30),
    Level(0.95, 10, 0.30, 0.60),
    Level(0.98, 10, None, None, 0.75),
)
FULL = Setting("lenet-300-100", "mnist", (0, 1, 2, 3, 4), LEVELS, 10_000, 11, 6, 10)
QUICK_LEVELS = tuple(replace(level, epochs=min(level.epochs, 2) + 1) for level in LEVELS)
QUICK = Setting("digits-cnn", "digits", (0,), QUICK_LEVELS, 800, 5, 2, 4)


@dataclass(frozen=True)
class Made:
    """A sparse end, what it cost, and the places its search came by."""

    end: SparseEnd
    epoch_equivalents: float
    seconds: float
    snapshots: list[Mapping[str, Tensor]]


def run(quick: bool) -> Findings:
    """Measure; quick: one seed of the digits network."""
    setting = QUICK if quick else FULL
    dataset = load(setting.data)  # fetched, and networks trained, before several processes ask for them
    for seed in (*setting.seeds, TUNED_ON):
        trained(setting.model, dataset, seed)
    # The longest first, and of each task first what the claims are about.
    kinds = [(level, name) for name in WALKS for level in reversed(setting.levels)]
    with ProcessPoolExecutor(
        max_workers=min(2, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:  # fmt: skip
        trials = [(TUNED_ON, *kind, rate) for kind in kinds if kind[1] in SEARCHES for rate in RATES]
        tried = list(pool.map(measured, *zip(*trials, strict=True), [setting] * len(trials)))
        rates = {kind: best(kind, trials, tried) for kind in kinds}
        tasks = [(seed, *kind, rates[kind]) for kind in kinds for seed in setting.seeds]
        found = list(pool.map(measured, *zip(*tasks, strict=True), [setting] * len(tasks)))
    return findings(setting, found, tried)


def best(
    kind: tuple[Level, str], trials: list[tuple[int, Level, str, float]], tried: list[dict[str, Any]]
) -> float | None:
    """The rate with the least worst drop written once; where that is not walked, with the best end."""
    level, name = kind
    drops = {
        rate: one["walks"]["write-once"]["worst_drop_points"] if one["walks"] else one["end_drop_points"]
        for (_, at, end, rate), one in zip(trials, tried, strict=True)
        if (at, end) == (level, name)
    }
    return min(drops, key=lambda rate: drops[rate]) if drops else None


def measured(seed: int, level: Level, name: str, rate: float | None, setting: Setting) -> dict[str, Any]:
    """One end and its walks; kept in the cache under the code that made it, so that a run that was stopped goes on."""
    code = "".join(
        Path(module).read_text() for module in (__file__, distill.__file__, saliency.__file__, sparse.__file__)
    )
    key = hashlib.sha256(f"{code}{seed}{level}{name}{rate}{setting}".encode()).hexdigest()[:16]
    path = cache_directory() / "benchmarks" / f"fig2c-{key}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(measure(seed, level, name, rate, setting)))
    found: dict[str, Any] = json.loads(path.read_text())
    walks = ", ".join(f"{walk} {one['worst_drop_points']:.2f}" for walk, one in found["walks"].items())
    console.print(
        f"seed {seed}, {level.percent} %, {name}, rate {rate}: end {found['end_drop_points']:.2f}, worst {walks}"
    )
    return found


def measure(seed: int, level: Level, name: str, rate: float | None, setting: Setting) -> dict[str, Any]:
    """Make one end and walk to it and back; drops are paired against C1.

    All on the test images; of the network that rates are tuned on, on its selection images.
    """
    dataset = load(setting.data)
    module = trained(setting.model, dataset, seed)
    fit, selection = fit_and_selection(dataset, seed)
    asked = Samples(dataset.test_x, dataset.test_y)
    if seed == TUNED_ON:
        asked = Samples(dataset.train_x[selection], dataset.train_y[selection])
    inputs = torch.from_numpy(dataset.train_x[fit])
    network = trace(module, inputs[:1])
    made = make(network, inputs, level, name, rate, setting, seed)
    table, states = row_table(network, made.end)
    moved = [key for layer in table.layers for key in (layer.weight, layer.bias) if key is not None]
    evaluator = Evaluator(Session(export_live(network.module, inputs[:1], moved), {}), asked)
    dense, end = (evaluator.at(table, states[mode]) for mode in ("C1", name))
    walks = {
        walk: walked(walk, made, table, states["C1"], states[name], evaluator, dense, setting, seed)
        for walk in (WALKS[name] if level.line_bar is not None else ())
    }
    return {
        "seed": seed,
        "percent": level.percent,
        "end": name,
        "rate": rate,
        "zero_share": made.end.share,
        "epoch_equivalents": made.epoch_equivalents,
        "planning_seconds": made.seconds,
        "steps": made.end.steps,
        "dense_accuracy": dense.accuracy,
        "end_accuracy": end.accuracy,
        "end_drop_points": drop(dense, end),
        "end_drop_half_width_points": half_width(dense, end),
        "end_divergence": dense.distance(end),
        "walks": walks,
    }


def make(
    network: Network, inputs: Tensor, level: Level, name: str, rate: float | None, setting: Setting, seed: int
) -> Made:
    """A sparse end within the level's budget."""
    cost, snapshots, begun = CostMeter(), list[Mapping[str, Tensor]](), perf_counter()
    if rate is None:
        calibration = inputs[: setting.refit_inputs]
        masks = sparse.salient_support(network, calibration[:1000], level.share, seed=seed, cost=cost)
        end = sparse.refit_support(network, masks, calibration, cost=cost)
    else:
        search = SEARCHES[name]
        search = replace(search, course=replace(search.course, learning_rate=rate))
        given = sparse.random_support(network, level.share, seed=seed) if name == "random" else None
        steps = int(
            (3 * level.epochs - 1) * len(inputs) / (3 * search.course.batch_size)
        )  # the teacher's pass taken off
        watch = _snapshots(search.every, steps, setting.snapshots, snapshots) if name == "magnitude" else None
        end = sparse.sparsify(
            network, inputs, level.share, level.epochs, search=search, masks=given, watch=watch, seed=seed, cost=cost
        )
    return Made(end, cost.epoch_equivalents(len(inputs)), perf_counter() - begun, snapshots)


def _snapshots(every: int, steps: int, count: int, kept: list[Mapping[str, Tensor]]) -> Watch:
    """Keeps the weights just after ``count`` choices of the support, evenly spread, and just before each of them."""
    after = {round((place + 0.5) / count * steps / every) * every for place in range(count)}
    wanted = after | {step - 1 for step in after}

    def watch(step: int, weights: Mapping[str, Tensor]) -> None:
        if step in wanted and step > 0:
            kept.append({key: tensor.detach().clone() for key, tensor in weights.items()})

    return watch


def row_table(network: Network, end: SparseEnd) -> tuple[RowTable, dict[str, State]]:
    """Row versions of the dense network and the end; the end is called by the second of the two states' names."""
    dense = {key: tensor.numpy() for key, tensor in network.module.state_dict().items()}
    pool = RowPool(moved_layers(network), dense)
    first = pool.add(dense, {})
    second = pool.add({key: tensor.numpy() for key, tensor in end.tensors.items()}, {})
    return pool.table(), {"C1": first, **dict.fromkeys(WALKS, second)}


def moved_layers(network: Network) -> tuple[MovedLayer, ...]:
    """All layers: each of them becomes sparse."""
    shapes = {key: tuple(tensor.shape) for key, tensor in network.module.state_dict().items()}
    return tuple(
        MovedLayer(layer.name, layer.weight, layer.bias, shapes[layer.weight], layer.reads, layer.columns_per_unit)
        for layer in network.layers
    )


def walked(
    walk: str,
    made: Made,
    table: RowTable,
    start: State,
    end: State,
    evaluator: Evaluator,
    dense: Answers,
    setting: Setting,
    seed: int,
) -> dict[str, Any]:
    """The states of one walk, there and back."""
    path = compiled(walk, made, table, start, end)
    table, chunks = path.table(table), path.chunks
    positions = set(spread_positions(chunks, table, setting.points))
    if walk == "search path":
        ends = np.linspace(0, len(chunks), len(made.snapshots) + 2)  # nearly every row moves at each snapshot
        positions |= {round(position) for position in ends}
    along = list(evaluator.along(table, start, chunks, sorted(positions)))
    back = chunks.reversed()
    torn = [
        *evaluator.torn(table, start, chunks, random_tears(table, chunks, setting.torn, seed + 1000)),
        *evaluator.torn(table, end, back, random_tears(table, back, setting.torn, seed + 2000)),
    ]
    worst = min((*along, *torn), key=lambda answers: answers.accuracy)
    return {
        "worst_drop_points": drop(dense, worst),
        "worst_drop_half_width_points": half_width(dense, worst),
        "worst_torn_drop_points": max(drop(dense, answers) for answers in torn),
        "bytes_of_dense": chunks.total_bytes(table) / sum(layer.units * layer.row_bytes for layer in table.layers),
        "shares_written": [position / len(chunks) for position in sorted(positions)],
        "drops_points": [drop(dense, answers) for answers in along],
        "torn_states": len(torn),
    }


def compiled(walk: str, made: Made, table: RowTable, start: State, end: State) -> Compiled:
    """The chunk list of a walk."""
    if walk == "linear":
        return linear(table, start, end, STEPS)
    if walk == "write-once":
        return ordered(table, start, end)
    points: list[Point] = [
        {layer.name: row_matrix(layer, {key: one.numpy() for key, one in at.items()}) for layer in table.layers}
        for at in made.snapshots
    ]
    return waypoints(table, start, end, points)


def drop(dense: Answers, other: Answers) -> float:
    """Points below C1 on the same images."""
    return 100 * (dense.accuracy - other.accuracy)


def half_width(dense: Answers, other: Answers) -> float:
    """Half the 95 % interval of the paired drop: 1.96 standard errors of the mean difference over images."""
    difference = dense.right.astype(float) - other.right.astype(float)
    return float(100 * 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))


def findings(setting: Setting, found: list[dict[str, Any]], tried: list[dict[str, Any]]) -> Findings:
    """Claims, rivals and picture."""

    def figures(end: str, level: Level, *keys: str) -> list[float]:
        values: list[float] = []
        for one in found:
            if (one["end"], one["percent"]) == (end, level.percent):
                value: Any = one
                for key in keys:
                    value = value[key]
                values.append(value)
        return values

    claims: list[Claim] = []

    def claim(name: str, unit: str, bar: float, values: list[float], value: float) -> None:
        claims.append(Claim(name, value, unit, "<=", bar, values))

    for level in setting.levels:
        for walk, bar in (("linear", level.line_bar), ("write-once", level.once_bar)):
            if bar is not None:
                drops = figures("ours", level, "walks", walk, "worst_drop_points")
                claim(f"{level.percent} % sparse, {walk}, mean worst drop", "points", bar, drops, float(np.mean(drops)))
        if level.end_bar is not None:
            drops = figures("ours", level, "end_drop_points")
            claim(f"{level.percent} % sparse, end, mean drop", "points", level.end_bar, drops, float(np.mean(drops)))
        costs = figures("ours", level, "epoch_equivalents")
        claim(f"{level.percent} % sparse, cost", "epoch-equivalents", level.epochs, costs, max(costs))
        shortfall = [level.share - share for share in figures("ours", level, "zero_share")]
        claim(f"{level.percent} % sparse, weights short of that", "share", 0.0, shortfall, max(shortfall))
    rivals = {
        end: {
            f"{level.percent} %": {
                "end": summary(figures(end, level, "end_drop_points")),
                "epoch_equivalents": max(figures(end, level, "epoch_equivalents")),
                **{
                    walk: summary(figures(end, level, "walks", walk, "worst_drop_points"))
                    for walk in (walks if level.line_bar is not None else ())
                },
            }
            for level in setting.levels
        }
        for end, walks in WALKS.items()
    }
    data = {"tuning": tuning(tried), "each": found}
    return Findings(list(setting.seeds), claims, rivals, data, picture(setting, found))


def tuning(tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the rates were chosen by."""
    keys = ("end", "percent", "rate", "end_drop_points", "end_divergence")
    return [
        {key: one[key] for key in keys}
        | {f"{walk}, worst_drop_points": way["worst_drop_points"] for walk, way in one["walks"].items()}
        for one in tried
    ]


def summary(drops: list[float]) -> dict[str, Any]:
    """Mean over the seeds with its 95 % interval by Student's t, and each seed's figure."""
    mean, half = float(np.mean(drops)), None
    if len(drops) > 1:
        half = float(stats.t.ppf(0.975, len(drops) - 1) * np.std(drops, ddof=1) / np.sqrt(len(drops)))
    return {"mean_drop_points": mean, "half_width_points": half, "drops_points": drops}


def picture(setting: Setting, found: list[dict[str, Any]]) -> Figure:
    """Drop against C1 along the way by sparsity; a thick line is the mean over seeds, a thin one a seed of ours."""
    levels = [level for level in setting.levels if level.line_bar is not None]
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, len(levels), sharex=True)
    colors = {
        "ours": "#000000",
        "magnitude": "#0072B2",
        "magnitude, mixed": "#009E73",
        "random": "#E69F00",
        "refit only": "#CC79A7",
    }
    for column, level in enumerate(levels):
        for row, walk in enumerate(("linear", "write-once")):
            axis = axes[row][column]
            for end, color in colors.items():
                ways = [one["walks"][walk] for one in found if (one["end"], one["percent"]) == (end, level.percent)]
                grid = np.linspace(0, 1, setting.points)
                lines = [np.interp(grid, way["shares_written"], way["drops_points"]) for way in ways]
                axis.plot(grid, np.mean(lines, axis=0), color=color, lw=2, label=end, zorder=3)
                if end == "ours":
                    for line in lines:
                        axis.plot(grid, line, color=color, lw=0.5, alpha=0.5)
            if row == 0:
                ways = [
                    one["walks"]["search path"]
                    for one in found
                    if (one["end"], one["percent"]) == ("magnitude", level.percent)
                ]
                grid = np.linspace(0, 1, 40)
                lines = [np.interp(grid, way["shares_written"], way["drops_points"]) for way in ways]
                axis.plot(grid, np.mean(lines, axis=0), color="#56B4E9", lw=1, label="magnitude, its search path")
            bar = level.line_bar if walk == "linear" else level.once_bar
            axis.axhline(bar, color="0.5", ls=":", lw=1)
            axis.set_ylim(2.0, -0.2)
            axis.set_title(f"{level.percent} % sparse, {level.epochs:g} epochs, {walk}", fontsize=9)
    for row in axes:
        row[0].set_ylabel("points below C1")
    for axis in axes[-1]:
        axis.set_xlabel("share of the writes done")
    figure.suptitle(
        "Accuracy on the test images on the way to a sparse network; dotted: the bar of the worst state", fontsize=11
    )
    figure.legend(*axes[0][0].get_legend_handles_labels(), ncols=5, fontsize=9, loc="outside lower center")
    return figure


if __name__ == "__main__":
    sys.exit(main("fig2c", run))
