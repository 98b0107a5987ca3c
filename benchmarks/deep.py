"""Half the multiply-accumulates: VGG-11 and a residual network on CIFAR-10, planned to a target, and walked there.

The planner divides the target among the layers by one error curve a layer, compensates layer by layer without a
gradient, and tries a refinement towards the dense outputs, which is kept only where it lowers the divergence on
selection images; on the residual network labels count in it, too. The path writes each row once, the layer nearest to
the output first. Units and stopping are decided on training images; the test images are read for the figures alone.

The rival is torch-pruning's magnitude pruning to the same number of multiply-accumulates, fine-tuned on labels at a
budget no smaller than ours, over all layers or by equal shares of each, whichever is better, and at a learning rate
whose neighbours are worse. Seeds are those of planning; each network is trained once. ``GEOSHIFT_VGG11`` names VGG-11's
checkpoint (86.79 % on the test images). Finished parts are kept in the cache, so that a run that was stopped goes on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.compact import Graphs
from benchmarks.frame import Claim, Findings, main
from benchmarks.magnitude_rival import prune_and_tune
from benchmarks.parts import kept
from planner.allocation import allocate, compact_macs, compact_weights, curves
from planner.cost import CostMeter
from planner.datasets import Dataset, load, split
from planner.deploy import row_table
from planner.endpoint import EndPoint, plain
from planner.endpoint_search import EndPointSearch
from planner.export import export_live
from planner.network import Network, trace
from planner.refine import Settings, refine
from planner.steady import stages_at
from runtime.plan.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.plan.samples import Samples
from runtime.walking import strategies
from runtime.walking.session import Session

console = Console(stderr=True)
STRATEGIES: Mapping[str, Callable[..., strategies.Compiled]] = {
    "ordered": strategies.ordered, "zero-first": strategies.zero_first, "naive": strategies.naive,
}  # fmt: skip

RIVAL = "torch-pruning and fine-tuning"


@dataclass(frozen=True)
class Setting:
    """What is planned and measured.

    Attributes:
        network: Name of the network.
        data: Its data.
        share: Multiply-accumulates that may be left.
        fit: Images that units and rows are fitted on.
        selection: Images that damping is chosen on; twice as many stop the refinement.
        held: Training images kept apart for them.
        refined: Images of the refinement.
        rate: Its learning rate. ResNet-8's, and that labels count there, were chosen on training images put aside, with
            planning seed 0: 3e-4 lost 0.60 points of 3,000, 5e-4 0.50, 2e-3 0.83, 4e-3 1.2, and 5e-4 with labels 0.23.
        budget: Epoch-equivalents of the rival's fine-tuning.
        walked: First test images, in the seed's random order, that every state of a path is asked on.
        waypoints: Whole states of a path that are equally far apart in bytes, both ends among them. Beside them stand
            those between two layers and those in the middle of one: most bytes are the last layers', and there is
            little to see there.
        torn: Torn states in each direction.
        pairs: Interleaved pairs of runs for latency.
        shift: Pixels that images of the refinement are moved by, and mirrored; None for not at all.
        block: Channels that are computed together: convolutions keep whole blocks of them. ONNX Runtime pads channels
            to 16 on a processor with AVX-512; wide layers hardly notice, and narrow ones lose all that was won.
        label_weight: What labels count for in the refinement; 0 for the dense network's outputs alone.
    """

    network: str
    data: str
    share: float
    fit: int
    selection: int
    held: int
    refined: int
    rate: float
    budget: float
    walked: int
    waypoints: int
    torn: int
    pairs: int
    shift: int | None = None
    block: int = 1
    label_weight: float = 0.0


FULL = (
    Setting("vgg11", "cifar10", 0.5, 1000, 300, 5000, 2000, 1e-5, 0.35, 1000, 5, 4, 60),
    Setting(
        "resnet8-wide", "cifar10", 0.5, 1000, 500, 5000, 40_000, 5e-4, 1.4, 2000, 5, 4, 60, shift=4, block=16,
        label_weight=5.0,
    ),
)  # fmt: skip
QUICK = (Setting("digits-cnn", "digits", 0.5, 400, 100, 400, 800, 1e-3, 3.0, 200, 5, 2, 20, label_weight=1.0),)
SEEDS = [0, 1, 2]
TRAINED = 0
"""Seed of the training, and of the division into images to fit on and to choose on."""


def subject(setting: Setting) -> nn.Module:
    """The dense network, in eval mode."""
    dataset = load(setting.data)
    if setting.network == "vgg11":
        return networks.vgg11(dataset, TRAINED)
    return networks.trained(setting.network, dataset, TRAINED, selection=setting.held)


def run(quick: bool) -> Findings:
    """Measure; quick: digits."""
    settings, seeds = (QUICK, [0]) if quick else (FULL, SEEDS)
    for setting in settings:  # fetched, and trained where need be, before several processes ask for it
        subject(setting)
    with ProcessPoolExecutor(
        max_workers=min(2, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:  # fmt: skip
        tasks = [(kind, seed, one) for one in settings for kind in ("ours", "rival") for seed in seeds]
        work = [pool.submit(part, *task, not quick) for task in tasks]
        found = {task: one.result() for task, one in zip(tasks, work, strict=True)}
    per_network: dict[str, list[dict[str, Any]]] = {
        one.network: [{**found["ours", seed, one], "rival": found["rival", seed, one]} for seed in seeds]
        for one in settings
    }
    for one in settings:
        network = trace(subject(one), torch.from_numpy(load(one.data).train_x[:2]))
        for figures in per_network[one.network]:
            counts = {layer.group: layer.units - figures["kept"][layer.name] for layer in network.layers}
            figures["weights"] = compact_weights(network, counts) / compact_weights(network, {})
    return findings(seeds, per_network, settings)


def part(kind: str, seed: int, setting: Setting, keep: bool) -> dict[str, Any]:
    """A part's figures, from the cache where it was measured before."""
    module = subject(setting)
    work = partial(ours if kind == "ours" else rival, seed, setting)
    if not keep:
        return work()
    return kept(f"deep-{setting.network}-{kind}-seed{seed}", setting, module, work)


@dataclass(frozen=True)
class Parts:
    """The data by what it may be used for, in the seed's random order."""

    fit: Tensor
    labels: Tensor
    selection: Samples
    test: Samples


def divide(dataset: Dataset, seed: int, setting: Setting) -> Parts:
    """Fit, selection and test images."""
    fit, selection = split(dataset, TRAINED, setting.held)
    generator = np.random.default_rng(seed)
    fit, selection = generator.permutation(fit), generator.permutation(selection)
    test = generator.permutation(len(dataset.test_y))
    return Parts(
        torch.from_numpy(dataset.train_x[fit]),
        torch.from_numpy(dataset.train_y[fit]),
        Samples(dataset.train_x[selection], dataset.train_y[selection]),
        Samples(dataset.test_x[test], dataset.test_y[test]),
    )


def ours(seed: int, setting: Setting) -> dict[str, Any]:
    """Plan to the target and measure ends, path and latency."""
    dataset = load(setting.data)
    data = divide(dataset, seed, setting)
    network = trace(subject(setting), data.fit[:2])
    begun = time.monotonic()
    cost = CostMeter()
    found = curves(network, data.fit[: setting.fit], cost=cost, step=console.print)
    counts = allocate(network, found, setting.share, {}, block=setting.block)
    console.print(f"seed {seed}: {counts}")
    orders = {name: curve.order for name, curve in found.items()}
    chosen_on = torch.from_numpy(data.selection.inputs)
    search = EndPointSearch(network, data.fit[: setting.fit], chosen_on[: setting.selection], cost, orders)
    closed = search.build("closed form", {name: orders[name][:count] for name, count in counts.items()})
    console.print(f"seed {seed}: closed form after {time.monotonic() - begun:.0f} s")
    settings = Settings(rate=setting.rate, seed=seed, checks=4, shift=setting.shift, label_weight=setting.label_weight)
    extra = slice(setting.fit, setting.fit + setting.refined)
    held = chosen_on[setting.selection : 3 * setting.selection]
    refined = refine(
        network, closed, data.fit[extra], held, settings, labels=data.labels[extra], cost=cost, step=console.print
    )
    seconds = time.monotonic() - begun
    dense = EndPoint("C1", {}, network.module.state_dict(), {})
    hard = EndPoint("hard prune", closed.removed, plain(network, closed.removed), {})
    ends = {"C1": dense, "closed form": closed, "planned": refined.end, "hard prune": hard}
    graphs = Graphs(network, data.fit[:2])
    whole = {name: graphs.answers(end, data.test) for name, end in ends.items()}
    drops = {name: paired(whole["C1"], answers) for name, answers in whole.items()}
    console.print(f"seed {seed}: {drops}")
    return {
        "seed": seed,
        "dense_accuracy": whole["C1"].accuracy,
        "drops": drops,
        "macs": compact_macs(network, counts) / compact_macs(network, {}),
        "kept": {layer.name: layer.units - counts.get(layer.group, 0) for layer in network.layers},
        "kept_share": {layer.name: 1 - counts.get(layer.group, 0) / layer.units for layer in network.layers},
        "refinement": {"divergence": refined.divergence, "samples": refined.samples, "kept": refined.kept},
        "epoch_equivalents": cost.epoch_equivalents(len(dataset.train_y)),
        "seconds": seconds,
        "latency": graphs.latency(dense, refined.end, data.test.inputs[:1], setting.pairs),
        "paths": paths(network, dense, refined.end, data.test.take(setting.walked), seed, setting),
    }


def paths(
    network: Network, dense: EndPoint, end: EndPoint, samples: Samples, seed: int, setting: Setting
) -> dict[str, Any]:
    """Every strategy through the same kinds of states: whole ones, torn ones, and torn ones of the way back."""
    table, states = row_table(network, {"C1": dense, "deep": end})
    moved = [name for layer in table.layers for name in (layer.weight, layer.bias) if name is not None]
    live = export_live(network.module, torch.from_numpy(samples.inputs[:2]), moved)
    constants = {k: v.numpy() for k, v in network.module.state_dict().items() if k not in moved}
    evaluator = Evaluator(Session(live, constants), samples)
    found: dict[str, Any] = {}
    first, last = (evaluator.at(table, states[name]) for name in ("C1", "deep"))
    lower = min(first, last, key=lambda answers: answers.accuracy)
    for name, strategy in STRATEGIES.items():
        path = strategy(table, states["C1"], states["deep"])
        chunks, known = path.chunks, path.table(table)
        stages = [place for begin, end in stages_at(chunks) for place in (begin, (begin + end) // 2)]
        inner = sorted({*spread_positions(chunks, known, setting.waypoints), *stages} - {0, len(chunks)})
        along = [first, *evaluator.along(known, states["C1"], chunks, inner), last]
        torn: list[Answers] = []
        for way, begin, salt in ((chunks, "C1", 1000), (chunks.reversed(), "deep", 2000)):
            tears = random_tears(known, way, setting.torn, seed + salt)
            torn += evaluator.torn(known, states[begin], way, tears)
        worst = min([*along, *torn], key=lambda answers: answers.accuracy)
        written = np.concatenate([[0], chunks.chunk_bytes(known).cumsum()])
        found[name] = {
            "at": [float(written[place] / written[-1]) for place in (0, *inner, len(chunks))],
            "accuracies": [answers.accuracy for answers in along],
            "torn": [answers.accuracy for answers in torn],
            # From counts: a difference of two fractions may be a rounding above what it is.
            "below_lower_end": 100 * (int(lower.right.sum()) - int(worst.right.sum())) / len(samples),
            "below_lower_end_paired": paired(lower, worst),
            "below_c1": paired(first, worst),
            "divergence": [answers.distance(first) for answers in along],
            "bytes_written": chunks.total_bytes(known),
        }
        console.print(f"seed {seed}, {name}: worst {found[name]['below_lower_end']:.2f} points below the lower end")
    return found


def paired(dense: Answers, other: Answers) -> dict[str, float]:
    """Drop in points, paired on the same images, with the half-width of its 95 % interval."""
    change = dense.right.astype(float) - other.right
    return {
        "points": 100 * float(change.mean()),
        "interval": 196 * float(change.std(ddof=1)) / len(change) ** 0.5,
        "divergence": other.distance(dense),
    }


def rival(seed: int, setting: Setting) -> dict[str, Any]:
    """The rival at its budget."""
    dataset = load(setting.data)
    data = divide(dataset, seed, setting)
    return prune_and_tune(
        subject(setting), data.fit, data.labels, data.selection.take(1000), data.test, share=setting.share,
        budget=int(setting.budget * len(dataset.train_y)), mirror=setting.data == "cifar10", seed=seed,
    )  # fmt: skip


def findings(seeds: list[int], per_network: dict[str, list[dict[str, Any]]], settings: tuple[Setting, ...]) -> Findings:
    """Claims, rivals and picture."""
    claims: list[Claim] = []
    rivals: dict[str, Any] = {}
    states: dict[str, str] = {}
    for setting in settings:
        name, per_seed = setting.network, per_network[setting.network]

        def claim(what: str, unit: str, op: str, bar: float, values: list[float], name: str = name) -> None:
            worst = max(values) if op == "<=" else min(values)
            claims.append(Claim(f"{name}_{what}", worst, unit, op, bar, values))

        drops = [one["drops"]["planned"]["points"] for one in per_seed]
        claim("macs", "of dense", "<=", setting.share, [one["macs"] for one in per_seed])
        claim("end_drop_points", "points", "<=", 1.0, drops)
        claim("epoch_equivalents", "epochs", "<=", 2.0, [one["epoch_equivalents"] for one in per_seed])
        below = [one["paths"]["ordered"]["below_lower_end"] for one in per_seed]
        claim("worst_below_lower_end_points", "points", "<=", 0.5, below)
        claim("latency_ratio", "of dense", "<=", 0.6, [one["latency"]["ratio"] for one in per_seed])
        ahead = [one["rival"]["tuned_drop_points"] - drop for one, drop in zip(per_seed, drops, strict=True)]
        claim("ahead_of_torch_pruning_points", "points", ">=", 0.0, ahead)
        ends = {
            "closed form alone": [one["drops"]["closed form"]["points"] for one in per_seed],
            "hard prune of the same units": [one["drops"]["hard prune"]["points"] for one in per_seed],
            RIVAL: [one["rival"]["tuned_drop_points"] for one in per_seed],
        }
        for rival, values in ends.items():
            rivals.setdefault(rival, {})[f"{name}_end_drop_points"] = values
        rivals[RIVAL][f"{name}_runs"] = [one["rival"] for one in per_seed]
        for way in STRATEGIES:
            if way != "ordered":
                walked = [one["paths"][way]["below_lower_end"] for one in per_seed]
                rivals.setdefault(way, {})[f"{name}_worst_below_lower_end_points"] = walked
        states[name] = (
            f"{setting.waypoints} whole states by bytes, those between layers and in the middle of each, "
            f"{setting.torn} torn ones each way, {setting.walked} test images"
        )
    return Findings(seeds, claims, rivals, {"states": states, "networks": per_network}, picture(per_network))


def picture(per_network: dict[str, list[dict[str, Any]]]) -> Figure:
    """For each network, units left of each layer, and the drop along the ways there; one line a seed."""
    figure = Figure(figsize=(9, 3.8 * len(per_network)), layout="constrained")
    axes = figure.subplots(len(per_network), 2, squeeze=False)
    for (network, per_seed), (cut, walk) in zip(per_network.items(), axes, strict=True):
        names = list(per_seed[0]["kept_share"])
        for number, one in enumerate(per_seed):
            shares = [one["kept_share"][name] for name in names]
            cut.barh(np.arange(len(names)) + 0.8 * number / len(per_seed), shares, 0.8 / len(per_seed), color="#0072B2")
        cut.set_yticks(range(len(names)), names, fontsize=8)
        cut.invert_yaxis()
        cut.set_xlabel("share of units left")
        cut.set_title(f"{network}: {per_seed[0]['macs']:.2f} of the multiply-accumulates", fontsize=10)
        for name, color in zip(STRATEGIES, ("#000000", "#E69F00", "#D55E00"), strict=True):
            for number, one in enumerate(per_seed):
                accuracies = np.array(one["paths"][name]["accuracies"])
                walk.plot(one["paths"][name]["at"], 100 * (accuracies[0] - accuracies), color=color,
                          marker="o", ms=3, label=name if number == 0 else None)  # fmt: skip
        walk.invert_yaxis()
        walk.set_xlabel("share of the bytes written")
        walk.set_ylabel("points below C1")
        walk.set_title("test accuracy while weights are rewritten", fontsize=10)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), ncols=3, fontsize=9, loc="outside lower center")
    return figure


if __name__ == "__main__":
    sys.exit(main("deep", run))
