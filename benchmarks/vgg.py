"""VGG-11's tour as the paper has it, planned once a seed: figures 2A, 2B and 2D measure the same bundle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks.networks import trained, vgg11
from benchmarks.parts import digest, folder, kept
from device_profiles import Guard, Profile, loader
from device_profiles.schema import Change, Mode, Selector
from planner.candidates import drop_bound
from planner.datasets import Dataset, load
from planner.options import Options
from planner.plan import make_plan
from runtime.plan.bundle import Bundle, read
from runtime.plan.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.plan.samples import Samples
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import RowTable, State
from runtime.walking.session import Session

FILTERS, RESTORED, NODES = 50, 30, 1000
MODEL = "vgg11"
STATES_IMAGES = 2000
"""Test images that states between modes are measured on, of rivals the first 250; modes on all 10,000."""
WHOLE, TORN = 5, 4
console = Console(stderr=True)


def profile(width: int = 1, *, rough: bool = False) -> Profile:
    """The modes of figure 2D on a Raspberry Pi 5: 50 of 64 filters, 1,000 nodes of the last hidden layer, 30 back.

    Args:
        width: What all widths of the network are divided by; where they are, there are C1 and C2 alone.
        rough: Whether any loss will do, since nothing is refined.
    """
    filters = Selector(role="convolution", position=1)
    nodes = Selector(role="classifier", position=-1)
    modes = {
        "C1": Mode(description="the dense network"),
        "C2": Mode(
            description=f"{FILTERS // width} of {64 // width} first-layer filters removed", from_="C1",
            remove=(Change(layer=filters, count=FILTERS // width),),
        ),
        "C3": Mode(
            description=f"{NODES} classifier nodes removed as well", from_="C2",
            remove=(Change(layer=nodes, count=NODES),),
        ),
        "C4": Mode(
            description=f"{RESTORED} filters brought back", from_="C3",
            restore=(Change(layer=filters, count=RESTORED),),
        ),
    }  # fmt: skip
    base = loader.load("raspberry-pi-5")
    loose = Guard(max_drop_points=20.0)
    if width == 1:
        guard = loose if rough else base.guard
        return msgspec.structs.replace(base, name="vgg11-tour", modes=modes, guard=guard)
    few = {name: modes[name] for name in ("C1", "C2")}
    # Of a quarter of the width, 4 filters are left of 16, and no plan loses as little as the board's guard asks for.
    return msgspec.structs.replace(base, name="vgg11-narrow", modes=few, transitions=(("C1", "C2"),), guard=loose)


@dataclass(frozen=True)
class Setting:
    """What a plan may spend, and what is measured on."""

    fit: int = 2000
    selection: int = 5000
    refine: int = 10_000
    images: int = STATES_IMAGES
    rival_images: int = 250
    tested: int = 10_000
    width: int = 1


QUICK = Setting(fit=100, selection=200, refine=0, images=50, rival_images=50, tested=50)
NARROW = Setting(width=4)


def network(seed: int, setting: Setting) -> nn.Module:
    """C1: of full width one checkpoint for all planning seeds, of a quarter one that is trained here."""
    return vgg11(load("cifar10"), seed) if setting.width == 1 else trained(f"{MODEL}-quarter", load("cifar10"), 0)


def plan(seed: int, setting: Setting) -> tuple[Bundle, dict[str, Any]]:
    """The bundle of a planning seed and what it cost; kept in the cache, so that figures measure the same one."""
    module = network(seed, setting)
    made_of = f"{options(seed, setting)}, widths divided by {setting.width}"
    key = hashlib.sha256(f"{made_of}{digest(module)}".encode()).hexdigest()[:12]
    name = f"vgg11-tour-{key}-seed{seed}"
    path = folder() / name
    if not path.exists():
        (folder() / f"{name}.json").unlink(missing_ok=True)

    def work() -> dict[str, Any]:
        console.print(f"planning VGG-11's tour, seed {seed}")
        # A process of its own: its peak memory is that of planning alone.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(_plan, seed, setting, path).result()

    facts = kept(name, made_of, module, work)
    return read(path), facts


def options(seed: int, setting: Setting) -> Options:
    """What the plan of a seed may spend."""
    return Options(
        seed=seed, fit=setting.fit, selection=setting.selection, refine=setting.refine, shift=4, stored=200,
        tested=500, waypoints=3, torn=2,
    )  # fmt: skip


def _plan(seed: int, setting: Setting, path: Path) -> dict[str, Any]:
    module, dataset = network(seed, setting), load("cifar10")
    begun = time.monotonic()
    device = profile(setting.width, rough=not setting.refine)
    made = make_plan(module, MODEL, dataset, device, path, options=options(seed, setting), replace=True)
    return {
        "planning_seconds": made.planning.seconds,
        "seconds_with_evidence": time.monotonic() - begun,
        "threads": torch.get_num_threads(),
        "epoch_equivalents": made.planning.epoch_equivalents,
        "peak_gib": peak_kib() / 2**20,
    }


def peak_kib() -> int:
    """Most memory that this process was resident in.

    Not ``ru_maxrss``, in which Linux counts what the process that started this one was resident in at that moment.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def test_samples(dataset: Dataset, count: int) -> Samples:
    """The first images of the test set in random order, the same for every seed and strategy."""
    chosen = np.random.default_rng(0).permutation(len(dataset.test_y))[:count]
    return Samples(dataset.test_x[chosen], dataset.test_y[chosen])


def evaluator(bundle: Bundle, samples: Samples) -> Evaluator:
    """Asks the bundle's live graph."""
    return Evaluator(Session(bundle.graph, bundle.constants, threads=1), samples)


def states(
    asked: Evaluator, table: RowTable, start: State, end: State, chunks: ChunkList, seed: int
) -> Iterator[tuple[str, float, Answers]]:
    """Answers in the states that every strategy is measured in, with the share of bytes written.

    Whole states equally far apart, those between two layers (so also just after a pruning), and torn ones, there and
    back. Seeds of the torn ones are not those that a planner looks at.
    """
    written = np.concatenate([[0], chunks.chunk_bytes(table).cumsum()])
    between = np.flatnonzero(np.diff(chunks.layer)) + 1
    positions = sorted({*spread_positions(chunks, table, WHOLE), *between.tolist()[:WHOLE]})
    for position, answers in zip(positions, asked.along(table, start, chunks, positions), strict=True):
        yield "whole", written[position] / max(1, written[-1]), answers
    for way, begin, salt in ((chunks, start, 1000), (chunks.reversed(), end, 2000)):
        tears = random_tears(table, way, TORN // 2, seed + salt)
        for (position, _), answers in zip(tears, asked.torn(table, begin, way, tears), strict=True):
            share = written[position] / max(1, written[-1])
            yield "torn", share if way is chunks else 1 - share, answers


def drop(dense: Answers, other: Answers) -> tuple[float, float]:
    """Paired drop of accuracy and its upper 95 % bound, in points."""
    return 100 * (dense.accuracy - other.accuracy), 100 * drop_bound(dense, other)
