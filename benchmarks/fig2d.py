"""Figure 2D: VGG-11 on CIFAR-10 goes C1 → C2 → C3 → C4 and back to C1, and the same with simpler ways of writing.

Bars: the worst state of the whole tour, torn states and both directions included, at most 1.2 points below C1; at most
one epoch-equivalent for all of it; C4 within 0.1 points of a network that is planned at its number of filters directly;
a bundle of at most 1.5 times the dense weights; at most 30 minutes and 4 GiB for planning, evaluation apart. States
are those of one rule for all ways of writing, asked on 2,000 test images of the planned one and on 250 of the others,
which lose so much that no more are needed to tell.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks import vgg
from benchmarks.frame import Claim, Findings, main
from benchmarks.parts import kept
from planner.cost import CostMeter
from planner.datasets import load, split
from planner.gram import collect
from planner.modes import ModeTarget
from planner.narrow import narrow
from planner.network import Layer, Network, trace
from planner.options import Options
from planner.plan import end_points
from runtime.plan.bundle import Bundle
from runtime.plan.compact import pack
from runtime.plan.evaluation import Answers
from runtime.plan.samples import Samples
from runtime.simulation.simulator import compile_strategy, ends_of
from runtime.walking.session import Session

RIVALS = ("naive", "zero-first", "linear")
SEEDS = (0, 1, 2)
LATENCY_RUNS = 40


def run(quick: bool) -> Findings:
    """Plan and measure; quick: one seed, few images."""
    setting = vgg.QUICK if quick else vgg.Setting()
    seeds = SEEDS[:1] if quick else SEEDS
    per_seed = []
    for seed in seeds:
        bundle, facts = vgg.plan(seed, setting)
        module = vgg.network(seed, setting)
        name = f"fig2d-seed{seed}{'-quick' if quick else ''}"
        found = kept(name, (setting, facts), module, partial(measure, seed, setting, bundle))
        per_seed.append({"seed": seed, "planning": facts, **sizes(bundle), **found})
    return findings(list(seeds), per_seed)


def sizes(bundle: Bundle) -> dict[str, Any]:
    """Bytes of the bundle and of its paths, and how the paths were chosen."""
    dense = bundle.manifest.model.dense_bytes
    return {
        "bundle_ratio": bundle.size_bytes / dense,
        "c2_bytes_ratio": bundle.transitions[0].entry.bytes_written / dense,
        "tour_bytes_ratio": sum(move.entry.bytes_written for move in bundle.transitions) / dense,
        "strategies": {" → ".join(move.ends): move.entry.strategy for move in bundle.transitions},
        "skipped": {" → ".join(move.ends): list(move.entry.skipped) for move in bundle.transitions},
        "too_dear": {" → ".join(move.ends): list(move.entry.too_dear) for move in bundle.transitions},
    }


def measure(seed: int, setting: vgg.Setting, bundle: Bundle) -> dict[str, Any]:
    """Walk the tour with every strategy on test images, and ask every mode."""
    dataset = load("cifar10")
    asked = {
        images: vgg.evaluator(bundle, vgg.test_samples(dataset, images))
        for images in (setting.images, setting.rival_images)
    }
    dense = {images: one.at(bundle.table, bundle.table.dense()) for images, one in asked.items()}
    tours: dict[str, Any] = {}
    for name in ("planned", *RIVALS):
        found = []
        images = setting.images if name == "planned" else setting.rival_images
        for number, move in enumerate(bundle.transitions):
            start, end = ends_of(bundle, move, name)
            table, chunks = bundle.table, move.chunks
            if name != "planned":
                table, chunks = compile_strategy(bundle, move, name, start, end)
            for kind, share, answers in vgg.states(asked[images], table, start, end, chunks, seed):
                points, bound = vgg.drop(dense[images], answers)
                found.append({"at": number + share, "kind": kind, "drop": points, "bound": bound})
        tours[name] = found
        vgg.console.print(f"seed {seed}, {name}: worst {max(one['drop'] for one in found):.2f} points below C1")
    every = vgg.evaluator(bundle, vgg.test_samples(dataset, setting.tested))
    whole = {name: every.at(bundle.table, state) for name, state in bundle.states.items()}
    drops = {name: vgg.drop(whole["C1"], answers) for name, answers in whole.items()}
    return {
        "tours": tours,
        "modes": {
            mode.name: {
                "accuracy": whole[mode.name].accuracy, "drop": drops[mode.name][0], "bound": drops[mode.name][1],
                "macs": mode.macs, "weight_bytes": mode.weight_bytes,
            }
            for mode in bundle.manifest.modes
        },
        "latency": latency(bundle),
        "nodes": controls(seed, setting, bundle, every.samples, whole["C4"]),
    }  # fmt: skip


def latency(bundle: Bundle) -> dict[str, float]:
    """Median time of one answer of each compact graph over that of C1's, from interleaved runs."""
    sessions = {mode: Session(bundle.compact[mode], pack(bundle, mode), threads=1) for mode in bundle.states}
    bound = {mode: session.bind({}) for mode, session in sessions.items()}
    x = np.zeros((1, 3, 32, 32), np.float32)
    seconds: dict[str, list[float]] = {mode: [] for mode in sessions}
    for _ in range(LATENCY_RUNS):
        for mode, session in sessions.items():
            begun = time.perf_counter()
            session.run(x, bound[mode])
            seconds[mode].append(time.perf_counter() - begun)
    return {mode: float(np.median(np.divide(times, seconds["C1"]))) for mode, times in seconds.items()}


def controls(seed: int, setting: vgg.Setting, bundle: Bundle, samples: Samples, c4: Answers) -> dict[str, Any]:
    """What the tour is compared with: dead nodes alone, and C4 planned at its number of filters directly.

    Both end points are found with all that the tour's were found with: images, dampings, polishing.
    """
    dataset = load("cifar10")
    options = vgg.options(seed, setting)
    network = trace(vgg.network(seed, setting), torch.from_numpy(dataset.train_x[:2]))
    search = end_points(network, dataset, options, CostMeter())
    *_, last = (layer for layer in network.layers if layer.why_fixed is None)
    dead = dead_units(network, last, seed, options)
    removed = {"features.0": vgg.FILTERS - vgg.RESTORED, last.name: vgg.NODES}
    direct = search.find({"C1": ModeTarget("C1", None, {}), "C4": ModeTarget("C4", "C1", removed)}, lambda _: None)
    alone = search.build("dead", {last.name: tuple(dead[: vgg.NODES])}) if dead else None
    dense = _right(network.module, samples)
    return {
        "dead_share": len(dead) / last.units,
        "removed_dead_alone": min(len(dead), vgg.NODES),
        "drop_of_dead_alone": 100 * float(dense.mean() - _right(narrow(network, alone), samples).mean())
        if alone
        else 0.0,
        "c4_accuracy": c4.accuracy,
        "direct_accuracy": float(_right(narrow(network, direct["C4"]), samples).mean()),
    }


def dead_units(network: Network, layer: Layer, seed: int, options: Options) -> list[int]:
    """Units of a layer that answer zero to every image that rows are fitted on."""
    dataset = load("cifar10")
    fit, _ = split(dataset, seed, options.selection)
    inputs = torch.from_numpy(dataset.train_x[np.random.default_rng(seed).permutation(fit)[: options.fit]])
    stats = collect(
        network, network.layer(layer.readers[0]), inputs, current=network.module.state_dict(), positions=None
    )
    return torch.nonzero(stats.gram.diagonal()[: layer.units] == 0).flatten().tolist()


def _right(module: torch.nn.Module, samples: Any) -> np.ndarray:
    with torch.no_grad():
        found = [module(torch.from_numpy(samples.inputs[i : i + 250])).argmax(1) for i in range(0, len(samples), 250)]
    return torch.cat(found).numpy() == samples.labels


def findings(seeds: list[int], per_seed: list[dict[str, Any]]) -> Findings:
    """Claims, rivals and picture."""

    def claim(name: str, unit: str, bar: float, values: list[float]) -> Claim:
        return Claim(name, max(values), unit, "<=", bar, values)

    def worst(one: dict[str, Any], name: str) -> float:
        # Modes were asked on all test images, which tells more than the states' fewer images do.
        modes = [mode["drop"] for mode in one["modes"].values()] if name == "planned" else []
        return max([*modes, *(state["drop"] for state in one["tours"][name])])

    claims = [
        claim("worst_state_drop", "points", 1.2, [worst(one, "planned") for one in per_seed]),
        claim("epoch_equivalents", "epochs", 1.0, [one["planning"]["epoch_equivalents"] for one in per_seed]),
        claim("c4_below_direct", "points", 0.1,
              [100 * (one["nodes"]["direct_accuracy"] - one["nodes"]["c4_accuracy"]) for one in per_seed]),
        claim("bundle_ratio", "of dense weights", 1.5, [one["bundle_ratio"] for one in per_seed]),
        claim("planning_minutes", "min", 30.0, [one["planning"]["planning_seconds"] / 60 for one in per_seed]),
        claim("peak_memory", "GiB", 4.0, [one["planning"]["peak_gib"] for one in per_seed]),
    ]  # fmt: skip
    rivals = {name: {"worst_state_drop": [worst(one, name) for one in per_seed]} for name in RIVALS}
    return Findings(seeds, claims, rivals, {"per_seed": per_seed}, picture(per_seed))


def picture(per_seed: list[dict[str, Any]]) -> Figure:
    """Drop against C1 along the tour."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axis = figure.subplots()
    colors = dict(zip(("planned", *RIVALS), ("#000000", "#D55E00", "#E69F00", "#0072B2"), strict=True))
    for name, color in colors.items():
        for number, one in enumerate(per_seed):
            whole = sorted((s["at"], s["drop"]) for s in one["tours"][name] if s["kind"] == "whole")
            torn = [(s["at"], s["drop"]) for s in one["tours"][name] if s["kind"] == "torn"]
            first = number == 0
            axis.plot(*zip(*whole, strict=True), color=color, lw=2 if name == "planned" else 1,
                      label=name if first else None, zorder=3 if name == "planned" else 2)  # fmt: skip
            axis.scatter(*zip(*torn, strict=True), color=color, s=10, marker="x", label=None)
    axis.axhline(1.2, color="0.5", ls=":", lw=1)
    axis.set_xticks(range(5), ["C1", "C2", "C3", "C4", "C1"])
    axis.set_ylabel("points below C1")
    axis.set_yscale("symlog", linthresh=2)
    axis.set_ylim(90, -2)
    axis.set_yticks([-1, 0, 1, 2, 10, 80], ["-1", "0", "1", "2", "10", "80"])
    axis.set_title(
        "VGG-11 on CIFAR-10 while its weights are rewritten; crosses: torn states; dotted: the bar", fontsize=11
    )
    figure.legend(*axis.get_legend_handles_labels(), ncols=4, fontsize=9, loc="outside lower center")
    return figure


if __name__ == "__main__":
    sys.exit(main("fig2d", run))
