"""VGG-11's tour as the paper has it, planned once a seed: figures 2A, 2B and 2D measure the same bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from rich.console import Console

from benchmarks.networks import vgg11
from device_profiles import Profile, loader
from device_profiles.schema import Change, Mode, Selector
from planner.candidates import drop_bound
from planner.datasets import Dataset, load
from planner.image_files import cache_directory
from planner.options import Options
from planner.plan import make_plan
from runtime.bundle import Bundle, read
from runtime.chunks import ChunkList
from runtime.evaluation import Answers, Evaluator, random_tears, spread_positions
from runtime.rows import RowTable, State
from runtime.samples import Samples
from runtime.session import Session

FILTERS, RESTORED, NODES = 50, 30, 1000
MODEL = "vgg11"
STATES_IMAGES = 2000
"""Test images that states between modes are measured on; modes are measured on all 10,000."""
WHOLE, TORN = 5, 4
console = Console(stderr=True)


def profile() -> Profile:
    """The modes of figure 2D on a Raspberry Pi 5: 50 of 64 filters, 1,000 nodes of the last hidden layer, 30 back."""
    filters = Selector(role="convolution", position=1)
    nodes = Selector(role="classifier", position=-1)
    modes = {
        "C1": Mode(description="the dense network"),
        "C2": Mode(
            description=f"{FILTERS} of 64 first-layer filters removed", from_="C1",
            remove=(Change(layer=filters, count=FILTERS),),
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
    return msgspec.structs.replace(base, name="vgg11-tour", modes=modes)


@dataclass(frozen=True)
class Setting:
    """What a plan may spend, and what is measured on."""

    fit: int = 3000
    selection: int = 5000
    refine: int = 6000
    images: int = STATES_IMAGES


QUICK = Setting(fit=100, selection=200, refine=0, images=50)


def plan(seed: int, setting: Setting) -> Bundle:
    """The bundle of a seed; kept in the cache, so that figures measure the same one."""
    dataset = load("cifar10")
    name = f"vgg11-tour-{setting.fit}-{setting.selection}-{setting.refine}-seed{seed}"
    path = cache_directory() / "benchmarks" / name
    if not path.exists():
        options = Options(
            seed=seed, fit=setting.fit, selection=setting.selection, refine=setting.refine, shift=4,
            stored=200, tested=500, waypoints=3, torn=2,
        )  # fmt: skip
        console.print(f"planning VGG-11's tour, seed {seed}")
        make_plan(vgg11(dataset, seed), MODEL, dataset, profile(), path, options=options)
    return read(path)


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
