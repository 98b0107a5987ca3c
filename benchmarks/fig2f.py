"""LeNet-300-100 goes from MNIST towards Fashion-MNIST (the paper's figure 2F): how well does one network do both?

One head of ten outputs serves both tasks. Both data sets are seen through MNIST's preprocessing. *Strict*: MNIST images
without labels, and the weights of the two networks, are all that the path is made from. *Surrogate*: made-up images,
MNIST's transformed, labelled by the Fashion network as well. The network on the strict path is the last before MNIST
accuracy on 5,000 selection images falls below 88 %; on the surrogate path it is the last. The test images of both are
read for the figures alone.

No Fashion label enters a run's choice. But form and settings of the method (what pulls, how strongly, for how long, and
the bound of 88 %) were settled while looking at Fashion accuracy too, on 5,000 *training* images put aside, for one
pair of each kind with seed 0. Seeds 1 and 2 played no part in that.

Each pair comes in two kinds: both networks from one initialisation, and from two. Finished pairs are kept in the cache.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.frame import Claim, Findings, main
from benchmarks.parts import kept
from planner import checkpoint, models
from planner.configuration import Configuration
from planner.cost import CostMeter
from planner.datasets import Dataset, load, split
from planner.geodesic import flow
from planner.image_files import cache_directory
from planner.metric import PullbackMetric
from planner.other_network import Surrogate, approach, furthest
from planner.surrogate import Collage

MODEL = "lenet-300-100"
SELECTION = 5000
STRICT_LEAST = 0.88
STRICT: dict[str, Any] = {"pulls": (1e-3, 4.0), "epochs": 3.0, "waypoints": 20, "batch_size": 256}
SURROGATE: dict[str, Any] = {"pulls": (1e-3, 0.025), "epochs": 2.1, "waypoints": 20, "batch_size": 128}
FLOW: dict[str, Any] = {"beta": 10.0, "step": 0.08, "max_steps": 20}
PROBES = 256
KINDS = {"common": 0, "independent": 1000}
"""Kind of a pair to how far the seed of its second network is from that of its first."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Task:
    """Images of one data set, [N, 1, 28, 28] as MNIST's are preprocessed, and labels."""

    fit: tuple[Tensor, Tensor]
    selection: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    size: int


@dataclass(frozen=True)
class Pair:
    """Two networks' weights in one weight space."""

    name: str
    seed: int
    module: nn.Module
    space: Configuration
    first: Tensor
    second: Tensor


class Path(NamedTuple):
    """Points in weight space, and what finding them took."""

    points: list[Tensor]
    epoch_equivalents: float
    seconds: float


def run(quick: bool) -> Findings:
    """Measure; quick: one pair, few images."""
    seeds = [0] if quick else [0, 1, 2]
    tasks = [(seed, kind, quick) for seed in seeds for kind in (["common"] if quick else KINDS)]
    for name in ("mnist", "fashion-mnist"):
        load(name)  # fetched once, before several processes ask for it
    with ProcessPoolExecutor(
        max_workers=min(2, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:  # fmt: skip
        return findings(seeds, list(pool.map(part, *zip(*tasks, strict=True))))


def part(seed: int, kind: str, quick: bool) -> dict[str, Any]:
    """One pair's figures, from the cache where it was measured before."""
    mnist_data = load("mnist")
    fashion_data = as_mnist(load("fashion-mnist"), mnist_data)
    mnist, fashion = (task(data, seed, 2000 if quick else None) for data in (mnist_data, fashion_data))
    module = models.build(MODEL, seed=seed).eval()
    space = Configuration.of(module.state_dict(), list(module.state_dict()))
    epochs = 2 if quick else 10
    ends = [
        trained(space, mnist, "mnist", seed, epochs),
        trained(space, fashion, "fashion", seed + KINDS[kind], epochs),
    ]
    pair = Pair(kind, seed, module, space, *ends)
    if quick:
        return measure(pair, mnist, fashion)
    module.load_state_dict(space.unflatten(pair.second))  # what tells pairs of one seed apart
    setting = (STRICT, SURROGATE, FLOW, PROBES, STRICT_LEAST, SELECTION)
    found = kept(f"fig2f-{kind}-seed{seed}", setting, module, partial(measure, pair, mnist, fashion))
    at = {name: "/".join(f"{value:.1f}" for value in one["at_chosen"]) for name, one in found["paths"].items()}
    console.print(f"{kind} {seed}: " + ", ".join(f"{name} {both}" for name, both in at.items()))
    return found


def measure(pair: Pair, mnist: Task, fashion: Task) -> dict[str, Any]:
    """Every path of one pair, and its rivals."""
    inputs = mnist.fit[0]
    collage = Collage(mean=0.1307, std=0.3081)
    paths: dict[str, Path] = {}

    def search(name: str, work: Callable[[CostMeter], Sequence[Tensor]]) -> None:
        cost, begun = CostMeter(), perf_counter()
        points = list(work(cost))
        paths[name] = Path(points, cost.epoch_equivalents(mnist.size), perf_counter() - begun)

    def ours(name: str, settings: dict[str, Any], surrogate: Surrogate | None) -> None:
        search(name, lambda cost: approach(
            pair.module, pair.space, pair.first, pair.second, inputs, seed=pair.seed, cost=cost, surrogate=surrogate,
            **settings,
        ).points)  # fmt: skip

    def real(seen: Tensor, generator: torch.Generator) -> Tensor:
        return fashion.fit[0][torch.randint(len(fashion.fit[0]), (len(seen),), generator=generator)]

    ours("strict", STRICT, None)
    ours("surrogate", SURROGATE, collage)
    ours("surrogate alone", {**SURROGATE, "pulls": (1e-9, 1e-9)}, collage)
    ours("real Fashion images", SURROGATE, real)
    search("straight line", lambda _: [torch.lerp(pair.first, pair.second, place / 20) for place in range(21)])
    search("sequential", partial(sequential, pair, fashion))
    search("flow of eq. 5", lambda cost: flow(
        PullbackMetric(pair.module, pair.space, inputs[:PROBES], cost=cost), pair.first, pair.second, **FLOW
    ).points)  # fmt: skip

    measured = {}
    for name, (points, spent, seconds) in paths.items():
        selection = [accuracy(pair, point, mnist.selection) for point in points]
        place = len(points) - 1
        if name == "strict":
            place = furthest(selection, STRICT_LEAST)
            picking = CostMeter()
            picking.forward(len(points) * len(mnist.selection[0]))
            spent += picking.epoch_equivalents(mnist.size)
        elif name not in ("surrogate", "surrogate alone", "real Fashion images"):
            # Rivals are shown at their best: the point of the path that the test images themselves would pick.
            place = -1
        front = [[accuracy(pair, point, one.test) for one in (mnist, fashion)] for point in points]
        if place < 0:
            place = max(range(len(front)), key=lambda at: min(front[at]))
        measured[name] = {
            "mnist": [100 * both[0] for both in front],
            "fashion": [100 * both[1] for both in front],
            "mnist_selection": [100 * one for one in selection],
            "chosen": place,
            "at_chosen": [100 * value for value in front[place]],
            "best_smaller": 100 * max(min(both) for both in front),
            "epoch_equivalents": spent,
            "seconds": seconds,
        }
        if name in ("strict", "surrogate"):
            # Half-way states: a device passes through them too.
            between = [accuracy(pair, torch.lerp(one, other, 0.5), mnist.test) for one, other in pairwise(points)]
            measured[name]["mnist_between"] = [100 * one for one in between]
    return {"initialisation": pair.name, "seed": pair.seed, "paths": measured}


def sequential(pair: Pair, fashion: Task, cost: CostMeter) -> list[Tensor]:
    """The first network trained on Fashion-MNIST, as one would without a thought of MNIST; two points an epoch."""
    weights = pair.first.clone()
    points = [weights]
    for half in range(6):
        weights = fitted(pair.space, pair.module, weights, fashion.fit, 0.5, pair.seed + half, 0.02, cost)
        points.append(weights)
    return points


def trained(space: Configuration, data: Task, name: str, seed: int, epochs: int) -> Tensor:
    """A network of one task; its weights are kept in the cache, so that a second run measures the same."""
    folder = cache_directory() / "benchmarks"
    path = folder / f"fig2f-{name}-seed{seed}-epochs{epochs}-images{len(data.fit[0])}.safetensors"
    module = models.build(MODEL, seed=seed)
    if not path.exists():
        console.print(f"training {MODEL} on {name}, seed {seed}")
        fresh = space.flatten(module.state_dict())
        found = fitted(space, module, fresh, data.fit, epochs, seed, 0.1, CostMeter())
        module.load_state_dict(space.unflatten(found))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, module, {"definition": MODEL, "dataset": name, "seed": str(seed)})
    checkpoint.load(path, module)
    return space.flatten(module.state_dict())


def fitted(
    space: Configuration, module: nn.Module, start: Tensor, data: tuple[Tensor, Tensor], epochs: float, seed: int,
    rate: float, cost: CostMeter,
) -> Tensor:  # fmt: skip
    """Weights trained on labelled images: momentum, weight decay 5e-4, one cycle of the rate."""
    weights = start.detach().clone().requires_grad_()
    optimiser = torch.optim.SGD([weights], lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images, labels = data
    steps = int(epochs * len(images) / 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []
    for _ in range(steps):
        batches = batches or list(torch.randperm(len(images), generator=generator).split(128))
        batch = batches.pop()
        loss = F.cross_entropy(functional_call(module, space.unflatten(weights), (images[batch],)), labels[batch])
        (weights.grad,) = torch.autograd.grad(loss, weights)
        optimiser.step()
        schedule.step()
        cost.forward_backward(len(batch))
    return weights.detach()


def as_mnist(data: Dataset, mnist: Dataset) -> Dataset:
    """The same images with another data set's preprocessing: one network has one way to read an image."""

    def constants(of: Dataset, key: str) -> np.ndarray:
        return np.asarray(of.preprocessing[key], dtype=np.float32).reshape(1, -1, 1, 1)

    def again(images: np.ndarray) -> np.ndarray:
        pixels = images * constants(data, "std") + constants(data, "mean")
        return ((pixels - constants(mnist, "mean")) / constants(mnist, "std")).astype(np.float32)

    return replace(
        data, train_x=again(data.train_x), test_x=again(data.test_x), preprocessing=dict(mnist.preprocessing)
    )


def task(data: Dataset, seed: int, most: int | None) -> Task:
    """Fit, selection and test images of a data set."""
    fit, held = split(data, seed, SELECTION)
    fit = np.random.default_rng(seed).permutation(fit)[:most]

    def pick(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(images), torch.from_numpy(labels)

    return Task(
        pick(data.train_x[fit], data.train_y[fit]), pick(data.train_x[held], data.train_y[held]),
        pick(data.test_x, data.test_y), len(data.train_y) if most is None else most,
    )  # fmt: skip


def accuracy(pair: Pair, point: Tensor, data: tuple[Tensor, Tensor]) -> float:
    """Share of right answers."""
    with torch.no_grad():
        answers = functional_call(pair.module, pair.space.unflatten(point), (data[0],)).argmax(1)
    return float((answers == data[1]).double().mean())


def findings(seeds: list[int], per_pair: list[dict[str, Any]]) -> Findings:
    """Claims, rivals and picture."""

    def values(name: str, what: Callable[[dict[str, Any]], float]) -> list[float]:
        return [what(pair["paths"][name]) for pair in per_pair]

    def claim(name: str, unit: str, op: str, bar: float, found: Sequence[float]) -> Claim:
        return Claim(name, max(found) if op == "<=" else min(found), unit, op, bar, list(found))

    def on_path(one: dict[str, Any]) -> float:
        return min(one["mnist"] + one["mnist_between"])

    claims = [
        claim("strict_smaller_of_both", "percent", ">=", 73.0, values("strict", lambda one: min(one["at_chosen"]))),
        claim("strict_above_paper", "percent", ">=", 80.0, values("strict", lambda one: min(one["at_chosen"]))),
        claim("surrogate_mnist", "percent", ">=", 95.0, values("surrogate", lambda one: one["at_chosen"][0])),
        claim("surrogate_fashion", "percent", ">=", 87.5, values("surrogate", lambda one: one["at_chosen"][1])),
        claim("surrogate_path_worst_mnist", "percent", ">=", 95.0, values("surrogate", on_path)),
        claim("surrogate_cost", "epochs", "<=", 6.0, values("surrogate", lambda one: one["epoch_equivalents"])),
    ]
    rivals = {
        name: {
            "smaller_of_both": values(name, lambda one: min(one["at_chosen"])),
            "mnist": values(name, lambda one: one["at_chosen"][0]),
            "fashion": values(name, lambda one: one["at_chosen"][1]),
            "epoch_equivalents": values(name, lambda one: one["epoch_equivalents"]),
            "seconds": values(name, lambda one: one["seconds"]),
        }
        for name in per_pair[0]["paths"]
        if name not in ("strict", "surrogate")
    }
    return Findings(seeds, claims, rivals, {"pairs": rounded(per_pair)}, picture(per_pair))


def rounded(value: Any) -> Any:
    """Floats to three decimals, through lists and dictionaries."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


COLOURS = {
    "strict": "tab:blue", "surrogate": "tab:green", "surrogate alone": "tab:olive", "real Fashion images": "tab:grey",
    "straight line": "tab:red", "sequential": "tab:orange", "flow of eq. 5": "tab:purple",
}  # fmt: skip


def picture(per_pair: list[dict[str, Any]]) -> Figure:
    """MNIST against Fashion-MNIST accuracy along each path, one panel for each kind of initialisation."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, kind in zip(axes, ("common", "independent"), strict=True):
        for pair in (one for one in per_pair if one["initialisation"] == kind):
            for name, path in pair["paths"].items():
                label = name if pair["seed"] == per_pair[0]["seed"] else None
                panel.plot(path["mnist"], path["fashion"], ".-", ms=3, lw=0.9, color=COLOURS[name], label=label)
                if name in ("strict", "surrogate"):
                    panel.plot(*path["at_chosen"], "*", ms=11, color=COLOURS[name], mec="black", mew=0.6)
        panel.plot(80, 80, "kx", ms=9, mew=2, label="the paper")
        panel.axvline(95, color="black", lw=0.6, ls=":")
        panel.axhline(87.5, color="black", lw=0.6, ls=":")
        panel.set(title=f"{kind} initialisation", xlabel="MNIST, test accuracy in %", xlim=(40, 100), ylim=(0, 95))
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("Fashion-MNIST, test accuracy in %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main("fig2f", run))
