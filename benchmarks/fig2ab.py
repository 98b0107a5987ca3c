"""Figures 2A and 2B: 50 of VGG-11's 64 first-layer filters are removed, against iterative pruning with fine-tuning.

Bars, within one epoch-equivalent: the end at most 1.0 points below C1, the worst state of the way, torn ones and both
directions included, at most 1.2, and at most 0.6 % of the model's bytes written. Rivals remove the filter of smallest
norm and train on labels, filter by filter, as the paper describes it: at one epoch in full width, and at 10 and 70 with
all widths divided by four, where our own figure stands beside them. Their states are those just after a removal.

The full-width rival takes most of an hour of one core a seed, the quarter-width ones hours. Each finished part is kept
in the cache.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import vgg
from benchmarks.frame import Claim, Findings, main, write_atomically
from benchmarks.networks import fit_and_selection, trained, vgg11
from benchmarks.prune_train import prune_train
from planner.datasets import load
from planner.image_files import cache_directory
from runtime.samples import Samples

SEEDS = (0, 1, 2)
LAYER = "features.0"
LOOKS = (10, 20, 30, 40, 50)
RATES = (0.001, 0.005)
"""Learning rates of the rival; the one that is better on selection images at a tenth of an epoch is taken."""
LONG = (10.0, 70.0)


def run(quick: bool) -> Findings:
    """Measure ours, then the rivals; quick: one seed, few images, a hundredth of an epoch."""
    setting = vgg.QUICK if quick else vgg.Setting()
    seeds = SEEDS[:1] if quick else SEEDS
    ours = [measure(seed, setting) for seed in seeds]
    rival = {seed: kept(f"fig2ab-full-{quick}-seed{seed}", lambda seed=seed: full_width(seed, quick)) for seed in seeds}
    long = {} if quick else {
        epochs: kept(f"fig2ab-quarter-{epochs:g}", lambda epochs=epochs: quarter_width(epochs)) for epochs in LONG
    }  # fmt: skip

    def claim(name: str, unit: str, bar: float, values: list[float]) -> Claim:
        return Claim(name, max(values), unit, "<=", bar, values)

    claims = [
        claim("end_drop", "points", 1.0, [one["end_drop"] for one in ours]),
        claim("worst_state_drop", "points", 1.2, [max(s["drop"] for s in one["states"]) for one in ours]),
        claim("bytes_written_ratio", "of dense weights", 0.006, [one["bytes_ratio"] for one in ours]),
        claim("epoch_equivalents_of_the_whole_tour", "epochs", 1.0, [one["epoch_equivalents"] for one in ours]),
    ]
    rivals: dict[str, Any] = {"prune-train, 1 epoch": {str(seed): one for seed, one in rival.items()}}
    rivals |= {f"prune-train, {epochs:g} epochs, quarter width": one for epochs, one in long.items()}
    return Findings(list(seeds), claims, rivals, {"per_seed": ours}, picture(ours, rivals))


def measure(seed: int, setting: vgg.Setting) -> dict[str, Any]:
    """C1 → C2 of the planned tour, on test images."""
    dataset = load("cifar10")
    bundle = vgg.plan(seed, setting)
    move = bundle.transitions[0]
    start, end = (bundle.states[mode] for mode in move.ends)
    few = vgg.evaluator(bundle, vgg.test_samples(dataset, setting.images))
    dense = few.at(bundle.table, bundle.table.dense())
    states = []
    for kind, share, answers in vgg.states(few, bundle.table, start, end, move.chunks, seed):
        points, bound = vgg.drop(dense, answers)
        states.append({"kind": kind, "at": share, "drop": points, "bound": bound})
    every = vgg.evaluator(bundle, vgg.test_samples(dataset, 10_000 if setting.refine else setting.images))
    points, bound = vgg.drop(every.at(bundle.table, bundle.table.dense()), every.at(bundle.table, end))
    return {
        "seed": seed, "states": states, "end_drop": points, "end_bound": bound, "strategy": move.entry.strategy,
        "bytes_ratio": move.entry.bytes_written / bundle.manifest.model.dense_bytes,
        "epoch_equivalents": bundle.manifest.planning.epoch_equivalents,
        "damping": bundle.manifest.modes[1].damping,
    }  # fmt: skip


def full_width(seed: int, quick: bool) -> dict[str, Any]:
    """Prune-train at one epoch."""
    return rival(vgg11(load("cifar10"), seed), vgg.FILTERS, 0.01 if quick else 1.0, seed, quick)


def quarter_width(epochs: float) -> dict[str, Any]:
    """Prune-train at a quarter of all widths: 12 of 16 filters."""
    return rival(trained("vgg11-quarter", load("cifar10"), 0), vgg.FILTERS // 4, epochs, 0, quick=False)


def rival(module: Any, remove: int, epochs: float, seed: int, quick: bool) -> dict[str, Any]:
    """Choose the rate on selection images, then spend the budget."""
    dataset = load("cifar10")
    fit, selection = fit_and_selection(dataset, seed)
    samples = Samples(dataset.train_x[fit], dataset.train_y[fit])
    held = Samples(dataset.train_x[selection[:1000]], dataset.train_y[selection[:1000]])
    test = vgg.test_samples(dataset, 50 if quick else vgg.STATES_IMAGES)
    tried = {
        rate: prune_train(
            module, LAYER, remove, samples, held, epochs=min(epochs, 0.1), rate=rate, seed=seed, looks=()
        ).right["end"].mean()
        for rate in (RATES[:1] if quick else RATES)
    }  # fmt: skip
    best = max(tried, key=lambda rate: tried[rate])
    found = prune_train(
        module, LAYER, remove, samples, test, epochs=epochs, rate=best, seed=seed,
        looks=tuple(look * remove // vgg.FILTERS for look in LOOKS),
    )  # fmt: skip
    dense = prune_train(module, LAYER, 0, samples, test, epochs=0.0, rate=best, seed=seed, looks=()).right["end"]
    drops = {name: 100 * float(dense.mean() - right.mean()) for name, right in found.right.items()}
    return {"rate": best, "epochs": found.epochs, "epochs_of_tuning": 0.1 * len(tried), "drops": drops}


def kept(name: str, work: Any) -> dict[str, Any]:
    """A part's result, from the cache if it was finished before."""
    path = cache_directory() / "benchmarks" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(work()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def picture(ours: list[dict[str, Any]], rivals: dict[str, Any]) -> Figure:
    """Drop against C1 along our way and just after the rival's removals."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for number, one in enumerate(ours):
        whole = sorted((state["at"], state["drop"]) for state in one["states"] if state["kind"] == "whole")
        torn = [(state["at"], state["drop"]) for state in one["states"] if state["kind"] == "torn"]
        axis.plot(*zip(*whole, strict=True), color="black", lw=2, label=None if number else "geoshift")
        axis.scatter(*zip(*torn, strict=True), color="black", marker="x", s=14)
    for number, one in enumerate(rivals["prune-train, 1 epoch"].values()):
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
