"""Figures 2A and 2B: 50 of VGG-11's 64 first-layer filters are removed, against iterative pruning with fine-tuning.

Bars, within one epoch-equivalent: the end at most 1.0 points below C1, the worst state of the way, torn ones and both
directions included, at most 1.2, and at most 0.6 % of the model's bytes written. Rivals remove the filter of smallest
norm and train on labels, filter by filter, as the paper describes it: at one epoch in full width, and at 10 and 70 with
all widths divided by four, where our own figure stands beside them. Their states are those just after a removal, on
their search path, and the end. Fine-tuning moves every weight: a walk to its end would write the whole model, and is
not measured.

A rival's rate is the best one on selection images, at a tenth of its budget and at most an epoch, and both its
neighbours were tried; what that took is not charged to it. Each finished part is kept in the cache.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from benchmarks import vgg
from benchmarks.frame import Claim, Findings, main
from benchmarks.networks import fit_and_selection
from benchmarks.parts import kept
from benchmarks.prune_train import prune_train
from planner.datasets import load
from runtime.plan.bundle import Bundle
from runtime.plan.evaluation import Evaluator
from runtime.plan.samples import Samples
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State

SEEDS = (0, 1, 2)
LAYER = "features.0"
LOOKS = (10, 20, 30, 40, 50)
RATES = (4e-5, 2e-4, 1e-3, 5e-3, 2e-2)
FIRST = 3
"""Which of them is tried first."""
LONG = (10.0, 70.0)
FULL_WIDTH = "prune-train, 1 epoch"


def run(quick: bool) -> Findings:
    """Measure ours, then the rivals; quick: one seed, few images, a hundredth of an epoch."""
    setting = vgg.QUICK if quick else vgg.Setting()
    seeds = SEEDS[:1] if quick else SEEDS
    tag = "-quick" if quick else ""
    ours = [measure(seed, setting, tag) for seed in seeds]
    rivals = {
        FULL_WIDTH: [
            part(f"fig2ab-rival-full-seed{seed}{tag}", setting, seed, 0.01 if quick else 1.0) for seed in seeds
        ]
    }
    beside = {}
    if not quick:
        beside["quarter width"] = [measure(seed, vgg.NARROW, tag) for seed in seeds]
        for epochs in LONG:
            rivals[f"prune-train, {epochs:g} epochs, quarter width"] = [
                part(f"fig2ab-rival-quarter-{epochs:g}-seed{seed}", vgg.NARROW, seed, epochs) for seed in seeds
            ]
    return findings(seeds, ours, rivals, beside)


def findings(
    seeds: tuple[int, ...],
    ours: list[dict[str, Any]],
    rivals: dict[str, list[dict[str, Any]]],
    beside: dict[str, list[dict[str, Any]]],
) -> Findings:
    """Claims, rivals and picture."""

    def claim(name: str, unit: str, bar: float, values: list[float]) -> Claim:
        return Claim(name, max(values), unit, "<=", bar, values)

    claims = [
        claim("end_drop", "points", 1.0, [one["end_drop"] for one in ours]),
        # The end was asked on all test images, the states on fewer.
        claim("worst_state_drop", "points", 1.2,
              [max(one["end_drop"], *(state["drop"] for state in one["states"])) for one in ours]),
        claim("bytes_written_ratio", "of dense weights", 0.006, [one["bytes_ratio"] for one in ours]),
        claim("epoch_equivalents_of_the_whole_tour", "epochs", 1.0, [one["epoch_equivalents"] for one in ours]),
    ]  # fmt: skip
    told: dict[str, dict[str, Any]] = {name: {"runs": found} for name, found in rivals.items()}
    told[FULL_WIDTH]["end_drop"] = [one["drops"]["end"] for one in rivals[FULL_WIDTH]]
    told[FULL_WIDTH]["worst_state_drop"] = [max(one["drops"].values()) for one in rivals[FULL_WIDTH]]
    return Findings(list(seeds), claims, told, {"per_seed": ours, **beside}, picture(ours, rivals[FULL_WIDTH]))


def measure(seed: int, setting: vgg.Setting, tag: str) -> dict[str, Any]:
    """C1 → C2 of the planned tour, on test images."""
    bundle, facts = vgg.plan(seed, setting)
    name = f"fig2ab-ours-{setting.width}-seed{seed}{tag}"
    found = kept(name, (setting, facts), vgg.network(seed, setting), partial(walk, seed, setting, bundle))
    planning = {key: value for key, value in facts.items() if key != "peak_gib"}  # figure 2D's claim
    return {"seed": seed, "epoch_equivalents": facts["epoch_equivalents"], "planning": planning, **found}


def walk(seed: int, setting: vgg.Setting, bundle: Bundle) -> dict[str, Any]:
    """Answers along the way, and at its end."""
    dataset = load("cifar10")
    move = bundle.transitions[0]
    start, end = (bundle.states[mode] for mode in move.ends)
    few = vgg.evaluator(bundle, vgg.test_samples(dataset, setting.images))
    states = walked(few, bundle.table, (start, end), move.chunks, seed)
    every = vgg.evaluator(bundle, vgg.test_samples(dataset, setting.tested))
    points, bound = vgg.drop(every.at(bundle.table, bundle.table.dense()), every.at(bundle.table, end))
    return {
        "states": states, "end_drop": points, "end_bound": bound, "strategy": move.entry.strategy,
        "bytes_ratio": move.entry.bytes_written / bundle.manifest.model.dense_bytes,
        "damping": bundle.manifest.modes[1].damping,
    }  # fmt: skip


def walked(
    asked: Evaluator, table: RowTable, ends: tuple[State, State], chunks: ChunkList, seed: int
) -> list[dict[str, Any]]:
    """The drop in each of the states that every path is measured in."""
    dense = asked.at(table, table.dense())
    found = []
    for kind, share, answers in vgg.states(asked, table, *ends, chunks, seed):
        points, bound = vgg.drop(dense, answers)
        found.append({"kind": kind, "at": share, "drop": points, "bound": bound})
    return found


def part(name: str, setting: vgg.Setting, seed: int, epochs: float) -> dict[str, Any]:
    """A rival's figures, from the cache where it was measured before."""
    module = vgg.network(seed, setting)
    return kept(name, (setting, epochs, RATES), module, partial(rival, module, setting, epochs, seed))


def rival(module: nn.Module, setting: vgg.Setting, epochs: float, seed: int) -> dict[str, Any]:
    """Choose the rate on selection images, then spend the budget."""
    dataset = load("cifar10")
    fit, selection = fit_and_selection(dataset, seed)
    samples = Samples(dataset.train_x[fit], dataset.train_y[fit])
    held = Samples(dataset.train_x[selection[:1000]], dataset.train_y[selection[:1000]])
    test = vgg.test_samples(dataset, setting.images)
    remove, tuned = vgg.FILTERS // setting.width, epochs / 10
    tried: dict[int, float] = {}
    best = FIRST
    while untried := {best - 1, best, best + 1} & set(range(len(RATES))) - set(tried):
        for at in sorted(untried):
            tried[at] = float(prune_train(
                module, LAYER, remove, samples, held, epochs=min(tuned, 1.0), rate=RATES[at], seed=seed, looks=()
            ).right["end"].mean())  # fmt: skip
        best = max(tried, key=lambda at: tried[at])
    found = prune_train(
        module, LAYER, remove, samples, test, epochs=epochs, rate=RATES[best], seed=seed,
        looks=tuple(look * remove // vgg.FILTERS for look in LOOKS),
    )  # fmt: skip
    dense = prune_train(module, LAYER, 0, samples, test, epochs=0.0, rate=RATES[best], seed=seed, looks=()).right["end"]
    changes = {name: 100 * (dense.astype(float) - right) for name, right in found.right.items()}
    return {
        "rate": RATES[best],
        "tried": {f"{RATES[at]:g}": tried[at] for at in sorted(tried)},
        "epochs": found.epochs,
        "seconds": found.seconds,
        "drops": {name: float(change.mean()) for name, change in changes.items()},
        "intervals": {name: float(1.96 * change.std(ddof=1) / len(change) ** 0.5) for name, change in changes.items()},
    }


def picture(ours: list[dict[str, Any]], rivals: list[dict[str, Any]]) -> Figure:
    """Drop against C1 along our way and just after the rival's removals."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for number, one in enumerate(ours):
        whole = sorted((state["at"], state["drop"]) for state in one["states"] if state["kind"] == "whole")
        torn = [(state["at"], state["drop"]) for state in one["states"] if state["kind"] == "torn"]
        axis.plot(*zip(*whole, strict=True), color="black", lw=2, label=None if number else "geoshift")
        axis.scatter(*zip(*torn, strict=True), color="black", marker="x", s=14)
    for number, one in enumerate(rivals):
        drops = list(one["drops"].values())
        axis.plot(np.linspace(1 / len(drops), 1, len(drops)), drops, "o-", color="#D55E00", lw=1, ms=3,
                  label=None if number else "prune-train, 1 epoch, just after removals")  # fmt: skip
    axis.axhline(1.2, color="0.5", ls=":", lw=1)
    axis.set_xlabel("share of the way (bytes written; filters removed)")
    axis.set_ylabel("points below C1")
    axis.invert_yaxis()
    axis.set_title("50 of VGG-11's 64 first-layer filters removed; crosses: torn states; dotted: the bar", fontsize=11)
    figure.legend(*axis.get_legend_handles_labels(), ncols=2, fontsize=9, loc="outside lower center")
    return figure


if __name__ == "__main__":
    sys.exit(main("fig2ab", run))
