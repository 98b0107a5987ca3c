"""How many test images are proved right in every order and part of the writes, and how many does a search leave?

LeNet-300-100 loses half and three quarters of its first layer's units, LeNet-5 half of conv1's filters, VGG-11 50 of
the first layer's 64; the readers are refitted, and the ordered path is bounded, stage by stage. Units, dampings and
blocks are chosen on training images that the network was not fitted on; test images are read for the figures alone.
Beside the proof stand a search for wrong states, whose share lies above any proof's, and random torn states, which the
runtime answers: on proved images all of them must be right.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from benchmarks.frame import Claim, Findings, main
from benchmarks.networks import fit_and_selection, trained, vgg11
from benchmarks.parts import kept
from planner import adversary, blocks, bounds, certificate, reachable, rounding, steady, tail
from planner.adversary import Search, find_wrong
from planner.blocks import divide
from planner.certificate import Certificate, certify, population_bound, stages_of
from planner.cost import CostMeter
from planner.datasets import Dataset, load
from planner.deploy import row_table
from planner.endpoint_search import EndPointSearch
from planner.export import export_live
from planner.modes import ModeTarget
from planner.network import Network, trace
from planner.tail import Tail
from runtime.plan.evaluation import Evaluator, random_tears
from runtime.plan.samples import Samples
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State
from runtime.walking.session import Session
from runtime.walking.strategies import ordered

BAR = 97.3
MADE_BY = (adversary, blocks, bounds, certificate, reachable, rounding, steady, tail)
BESIDE = 1000
"""Test images on which variants of the proof are told apart, and random states answered."""
IN_BLOCKS = 3000
"""Test images on which the divided path is bounded."""
console = Console(stderr=True)


@dataclass(frozen=True)
class Case:
    """What is bounded.

    Attributes:
        name: What it is called.
        model: Network.
        data: Data set.
        removed: Layer to how many units it loses.
        tested: Test images, at most.
        fit: Images that rows are refitted on.
        chosen_on: Images that units, dampings and blocks are chosen on.
        most: Stages at most when blocks are divided; 0 for no division.
        orders: Random orders that are walked.
        seeds: Seeds of network and plan.
    """

    name: str
    model: str
    data: str
    removed: dict[str, int]
    tested: int
    fit: int
    chosen_on: int
    most: int
    orders: int
    seeds: tuple[int, ...]


MLP = Case("LeNet-300-100, half of fc1", "lenet-300-100", "mnist", {"fc1": 150}, 10_000, 5000, 1500, 6, 3, (0, 1, 2))
FULL = (
    MLP,
    replace(MLP, name="LeNet-300-100, three quarters of fc1", removed={"fc1": 225}, tested=3000),
    Case("LeNet-5, half of conv1", "lenet5", "mnist", {"conv1": 10}, 500, 2000, 200, 6, 2, (0, 1, 2)),
    Case("VGG-11, 50 of 64 first filters", "vgg11", "cifar10", {"features.0": 50}, 100, 1000, 300, 0, 1, (0, 1, 2)),
)
QUICK = (Case("digits CNN, half of conv1", "digits-cnn", "digits", {"conv1": 8}, 200, 800, 200, 6, 2, (0,)),)


def run(quick: bool) -> Findings:
    """Measure; quick: one small network on digits."""
    tasks = [(case, seed) for case in (QUICK if quick else FULL) for seed in case.seeds]
    for name in {case.data for case, _ in tasks}:
        load(name)  # fetched once, before several processes ask for it
    with ProcessPoolExecutor(
        max_workers=min(2, os.cpu_count() or 1), mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:  # fmt: skip
        found = list(pool.map(part, *zip(*tasks, strict=True)))
    return findings(found)


def part(case: Case, seed: int) -> dict[str, Any]:
    """`measure`, kept in the cache under the code that made it, so that a run that was stopped goes on."""
    code = hashlib.sha256("".join(map(inspect.getsource, MADE_BY)).encode()).hexdigest()

    def work() -> dict[str, Any]:
        begun = time.monotonic()
        return {**measure(case, seed), "seconds": time.monotonic() - begun}

    removed = "-".join(f"{layer}-{count}" for layer, count in case.removed.items())
    return kept(f"certificate-{case.model}-{removed}-seed{seed}", (code, case), None, work)


def measure(case: Case, seed: int) -> dict[str, Any]:
    """One network: prove, search, divide, and ask the runtime."""
    dataset = load(case.data)
    module = vgg11(dataset, seed) if case.model == "vgg11" else trained(case.model, dataset, seed)
    planning = CostMeter()
    chosen_on, network, table, states = plan(case, seed, dataset, module, planning)
    start, end = states["C1"], states["C2"]
    chunks = ordered(table, start, end).chunks
    order = np.random.default_rng(seed).permutation(len(dataset.test_y))[: case.tested]
    test = Samples(dataset.test_x[order], dataset.test_y[order])

    def bound(what: ChunkList, on: Samples = test, **options: Any) -> tuple[Certificate, dict[str, Any]]:
        cost = CostMeter()
        found = certify(network, table, start, what, on, cost=cost, **options)
        return found, summary(found, cost, len(dataset.train_y))

    proof, described = bound(chunks, search=Search(targets=2, steps=4) if case.model == "vgg11" else Search())
    console.print(f"{case.name}, seed {seed}: {described}")
    record = {"case": case.name, "seed": seed, "images": len(test), "one stage a layer": described}
    few = test.take(BESIDE if case.model != "vgg11" else BESIDE // 40)
    record["beside, on fewer images"] = {
        "images": len(few),
        "proof alone": bound(chunks, few)[1],
        "intervals alone": bound(chunks, few, effort="interval")[1],
        "any numbers of a torn row": bound(chunks, few, tear="set")[1],
    }
    record["searched on proved images"] = searched(network, table, start, chunks, few, proof)
    states_asked = wrong_on_proved(case, seed, dataset, network, table, (start, end), chunks, (), few, proof)
    record["random states"] = states_asked
    if case.most:
        begun, cost = time.monotonic(), CostMeter()
        divided = divide(network, table, start, chunks, chosen_on, cost=cost, most=case.most)
        seconds = time.monotonic() - begun
        record["dividing"] = {
            "images": len(chosen_on),
            "proved with each more block": divided.proved,
            "seconds": seconds,
            "epoch_equivalents": cost.epoch_equivalents(len(dataset.train_y)),
        }
        blocked = test.take(IN_BLOCKS)
        again, record["divided"] = bound(divided.chunks, blocked, stops=divided.stops)
        record["divided"]["images"] = len(blocked)
        record["divided"]["undivided, same images"] = 100 * float(proof.torn[: len(blocked)].mean())
        record["random states, divided"] = wrong_on_proved(
            case, seed, dataset, network, table, (start, end), divided.chunks, divided.stops, few, again
        )
    console.print(f"{case.name}, seed {seed}: done")
    return record


def plan(
    case: Case, seed: int, dataset: Dataset, module: nn.Module, cost: CostMeter
) -> tuple[Samples, Network, RowTable, dict[str, State]]:
    """The compensated end point, and the images that blocks are chosen on."""
    fit, selection = fit_and_selection(dataset, seed)
    generator = np.random.default_rng(seed)
    fit, selection = generator.permutation(fit)[: case.fit], generator.permutation(selection)[: case.chosen_on]
    network = trace(module, torch.from_numpy(dataset.train_x[:2]))
    search = EndPointSearch(
        network, torch.from_numpy(dataset.train_x[fit]), torch.from_numpy(dataset.train_x[selection]), cost
    )
    targets = {"C1": ModeTarget("C1", None, {}), "C2": ModeTarget("C2", "C1", case.removed)}
    table, states = row_table(network, search.find(targets, lambda _: None))
    return Samples(dataset.train_x[selection], dataset.train_y[selection]), network, table, states


def summary(found: Certificate, cost: CostMeter, training: int) -> dict[str, Any]:
    """Shares in percent, and what they cost."""
    count = len(found.ends)

    def percent(right: NDArray[np.bool_] | None) -> float | None:
        return None if right is None else 100 * float(right.mean())

    return {
        "right at the ends": percent(found.ends),
        "proved, whole rows": percent(found.whole),
        "proved, one row torn": percent(found.torn),
        "bound, whole rows": 100 * population_bound(int(found.whole.sum()), count),
        "bound, one row torn": 100 * population_bound(int(found.torn.sum()), count),
        "not found wrong, whole rows": percent(found.survived_whole),
        "not found wrong, one row torn": percent(found.survived_torn),
        "stages": [asdict(stage) for stage in found.stages],
        "seconds": found.seconds,
        "epoch_equivalents": cost.epoch_equivalents(training),
    }


def searched(
    network: Network, table: RowTable, start: State, chunks: ChunkList, test: Samples, proof: Certificate
) -> dict[str, int]:
    """What the search finds wrong among images that are proved right: it has to be nothing."""
    found = {"images": 0, "found wrong": 0}
    for writes in stages_of(network, table, start, chunks):
        for torn, proved in ((False, proof.whole), (True, proof.torn)):
            chosen = np.flatnonzero(proved[: len(test)])
            if len(chosen):
                behind = Tail(network, writes.layer, writes.before, torch.from_numpy(test.inputs[chosen]).double())
                labels = torch.from_numpy(test.labels[chosen])
                wrong = find_wrong(behind, writes, labels, torn=torn, search=Search(), cost=CostMeter())
                found["images"] += len(chosen)
                found["found wrong"] += int(wrong.sum())
    return found


def wrong_on_proved(
    case: Case,
    seed: int,
    dataset: Dataset,
    network: Network,
    table: RowTable,
    ends: tuple[State, State],
    chunks: ChunkList,
    stops: tuple[int, ...],
    test: Samples,
    proof: Certificate,
) -> dict[str, Any]:
    """What ONNX Runtime answers, in float32, in random orders, torn at random, both ways."""
    dense = {name: tensor.numpy() for name, tensor in network.module.state_dict().items()}
    moved = [name for layer in table.layers for name in (layer.weight, layer.bias) if name is not None]
    live = export_live(network.module, torch.from_numpy(dataset.train_x[:2]), moved, {})
    constants = {name: tensor for name, tensor in dense.items() if name not in moved}
    evaluator = Evaluator(Session(live, constants, threads=1), test)
    states = wrong = 0
    right = np.ones(len(test), np.bool_)
    torn, whole = proof.torn[: len(test)], proof.whole[: len(test)]
    for number in range(case.orders):
        mixed = shuffled(chunks, stops, seed + 100 * number)
        mixed.check(table, *ends, "a random order")
        for way, begin, salt in ((mixed, ends[0], 1), (mixed.reversed(), ends[1], 2)):
            tears = random_tears(table, way, 10, seed + 1000 * number + salt)
            for answers in evaluator.torn(table, begin, way, tears):
                states, wrong = states + 1, wrong + int((~answers.right & torn).sum())
                right &= answers.right
            positions = sorted({position for position, _ in tears})
            for answers in evaluator.along(table, begin, way, positions):
                states, wrong = states + 1, wrong + int((~answers.right & whole).sum())
    return {
        "images": len(test),
        "states": states,
        "wrong answers on proved images": wrong,
        "right in all torn states": 100 * right.mean(),
    }


def shuffled(chunks: ChunkList, stops: tuple[int, ...], seed: int) -> ChunkList:
    """The same writes, those of each stage in another order."""
    generator = np.random.default_rng(seed)
    edges = [0, *sorted(stops), len(chunks)]
    sizes = [len(one.rows) for begin, end in pairwise(edges) for one in chunks.runs(begin, end)]
    ends = np.cumsum(sizes)
    order = np.concatenate([generator.permutation(size) + end - size for size, end in zip(sizes, ends, strict=True)])
    return replace(chunks, **{name: getattr(chunks, name)[order] for name in ("layer", "row", "old", "new")})


def findings(found: list[dict[str, Any]]) -> Findings:
    """Claims, rivals and picture."""
    names = list(dict.fromkeys(one["case"] for one in found))
    first = [one for one in found if one["case"] == names[0]]

    def claim(name: str, unit: str, op: str, bar: float, values: list[float]) -> Claim:
        return Claim(name, min(values) if op == ">=" else max(values), unit, op, bar, values)

    whole = [one["one stage a layer"]["proved, whole rows"] for one in first]
    torn = [one["one stage a layer"]["proved, one row torn"] for one in first]
    asked = [one[key] for one in found for key in ("random states", "random states, divided") if key in one]
    claims = [
        claim("half_proved_in_every_order", "percent", ">=", BAR, whole),
        claim("half_proved_in_every_order_and_part", "percent", ">=", BAR, torn),
        claim("half_proved_in_blocks_and_part_on_3000_images", "percent", ">=", BAR,
              [one["divided"]["proved, one row torn"] for one in first]),
        claim("proved_images_that_a_search_finds_wrong", "images", "==", 0,
              [float(one["searched on proved images"]["found wrong"]) for one in found]),
        claim("wrong_answers_on_proved_images", "answers", "==", 0,
              [float(one["wrong answers on proved images"]) for one in asked]),
    ]  # fmt: skip
    rivals = {
        one["case"] + f", seed {one['seed']}": {
            key: one["one stage a layer"][f"not found wrong, {key}"] for key in ("whole rows", "one row torn")
        }
        for one in found
    }
    seeds = sorted({one["seed"] for one in found})
    return Findings(seeds, claims, {"gradient search, not certified": rivals}, {"per_case": found}, picture(found))


def picture(found: list[dict[str, Any]]) -> Figure:
    """For each network: right at the ends, not found wrong, proved; one mark a seed."""
    names = list(dict.fromkeys(one["case"] for one in found))
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    columns = (
        ("right at both ends", "one stage a layer", "right at the ends", "0.55", "o"),
        ("whole rows: not found wrong", "one stage a layer", "not found wrong, whole rows", "#56B4E9", "v"),
        ("whole rows: proved", "one stage a layer", "proved, whole rows", "#0072B2", "^"),
        ("one row torn: not found wrong", "one stage a layer", "not found wrong, one row torn", "#E69F00", "v"),
        ("one row torn: proved", "one stage a layer", "proved, one row torn", "#D55E00", "^"),
        ("one row torn: proved (images of the next)", "divided", "undivided, same images", "#CC79A7", "^"),
        ("one row torn, in blocks: proved", "divided", "proved, one row torn", "#009E73", "D"),
    )
    for axis, name in zip(axes, names, strict=True):
        own = [one for one in found if one["case"] == name]
        lowest = 100.0
        for place, (label, section, key, color, mark) in enumerate(columns):
            for number, one in enumerate(own):
                part = one.get(section)
                if part is None or part[key] is None:
                    continue
                shift = 0.16 * (number - (len(own) - 1) / 2)
                axis.plot(place + shift, part[key], mark, color=color, ms=8, label=label if number == 0 else None)
                if key.startswith(("proved", "undivided")):
                    images = part.get("images", one["images"])
                    bound = 100 * population_bound(round(part[key] * images / 100), images)
                    axis.plot([place + shift] * 2, [bound, part[key]], color=color, lw=1.5)
                    lowest = min(lowest, bound)
        blocked = own[0].get("divided", own[0])["images"]
        fewer = f", {blocked:,} in blocks" if blocked < own[0]["images"] else ""
        axis.set_title(name.replace(", ", "\n") + f"\n{own[0]['images']:,} images{fewer}", fontsize=9)
        axis.set_xticks([])
        axis.set_xlim(-0.6, len(columns) - 0.4)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        if name == MLP.name:
            axis.axhline(BAR, color="0.5", ls=":", lw=1)
        axis.set_ylim(max(-4.0, lowest - 0.06 * (100 - lowest) - 0.2), 100.2)
    axes[0].set_ylabel("percent of test images")
    figure.suptitle("Answers right in every state of C1 → C2; thin lines reach down to the 95 % bound for all inputs; "
                    "dotted: the bar; scales differ", fontsize=10)  # fmt: skip
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=3, fontsize=9, loc="outside lower center")
    return figure


if __name__ == "__main__":
    sys.exit(main("certificate", run))
