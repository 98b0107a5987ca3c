"""The plans that strategies are compared on: made once, then read from the cache.

The demo's network and the residual one are planned as the demo is, for accuracy whatever that writes; VGG-11 for the
fewest bytes, as a profile that says nothing is. The demo's is planned with every candidate, so that its best geodesics
are stored; for those of CIFAR-10 that search is beyond what a plan may cost here, and none is. VGG-11 has figure 2D's
tour, and the mode with half the multiply-accumulates in a plan of its own, whose rows are nearly all of the network's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from torch import nn

from benchmarks import vgg
from benchmarks.networks import trained, vgg11
from benchmarks.parts import digest, folder, kept
from device_profiles import Guard, Profile, loader
from device_profiles.schema import Change, Mode, Selector
from planner import demo
from planner.datasets import Dataset, load
from planner.options import Options
from planner.plan import make_plan
from runtime.plan.bundle import Bundle, read

console = Console(stderr=True)
DEEP = "D"
SHARE = 0.5
"""Multiply-accumulates that the deep mode may keep."""
BLOCK = 16
"""Filters that a convolution keeps together where the network is a real one, see ``benchmarks.deep``."""
GUARDS = {"resnet8": 8.0, "vgg11": 30.0}
"""Points that a plan's paths may lose where the deep mode itself, or a selection of few images, rules out the 2.5 of
the devices' own guard. VGG-11's is none at all: of its paths the planner has budget for those of one pass alone."""
_DEEP_MODE = Mode(description="half the multiply-accumulates", from_="C1", macs=SHARE)


@dataclass(frozen=True)
class Subject:
    """A network with its plans.

    Attributes:
        name: What it is called in results.
        data: Name of its data.
        seed: Seed of the planning.
        made_of: Profile and options of its plans, by which finished parts are known.
        module: Gives the dense network.
        bundles: Give the plans; together they have every mode.
    """

    name: str
    data: str
    seed: int
    made_of: str
    module: Callable[[], nn.Module]
    bundles: tuple[Callable[[], Bundle], ...]


def digits(seed: int, *, geodesics: bool = True) -> Subject:
    """The demo's network, with the demo's modes and a deep one."""

    def module() -> nn.Module:
        return trained(demo.MODEL, load(demo.DATA), seed)

    profile = loader.load(demo.PROFILE)
    profile = msgspec.structs.replace(
        profile, name="digits-strategies", modes={**profile.modes, DEEP: _DEEP_MODE},
        transitions=(*profile.transitions, ("C1", DEEP)), trade_off="accuracy",
    )  # fmt: skip
    options = Options(seed=seed, every_candidate=geodesics, probes=16, certified=0, landscape=0)
    return Subject(
        "digits-cnn", demo.DATA, seed, f"{profile}{options}", module,
        (lambda: _plan(demo.MODEL, module(), load(demo.DATA), profile, options),),
    )  # fmt: skip


def residual(seed: int) -> Subject:
    """A residual network on CIFAR-10: filters of one block removed, of another as well, some back."""
    name, data = "resnet8", "cifar10"

    def module() -> nn.Module:
        return trained(name, load(data), 0, selection=5000)

    first, second = Selector(name="block1.conv1"), Selector(name="block3.conv1")
    modes = {
        "C1": Mode(description="the dense network"),
        "C2": Mode(description="half of the filters inside the first block removed", from_="C1",
                   remove=(Change(layer=first, fraction=0.5),)),
        "C3": Mode(description="a quarter of those inside the last block removed as well", from_="C2",
                   remove=(Change(layer=second, fraction=0.25),)),
        "C4": Mode(description="half of the first block's brought back", from_="C3",
                   restore=(Change(layer=first, fraction=0.5),)),
        DEEP: _DEEP_MODE,
    }  # fmt: skip
    tour = (("C1", "C2"), ("C2", "C3"), ("C3", "C4"), ("C4", "C1"), ("C1", DEEP))
    profile = msgspec.structs.replace(
        loader.load("raspberry-pi-5"), name="resnet8-strategies", modes=modes, transitions=tour,
        guard=Guard(max_drop_points=GUARDS[name]),
        channel_block=BLOCK, trade_off="accuracy",
    )  # fmt: skip
    options = Options(
        seed=seed, selection=5000, walked=500, fit=1000, budget=3.0, certified=0, landscape=0,
        stored=200, tested=500, waypoints=5, torn=4,
    )  # fmt: skip
    plans = (lambda: _plan(name, module(), load(data), profile, options),)
    return Subject(name, data, seed, f"{profile}{options}", module, plans)


def vgg_tour(seed: int) -> Subject:
    """VGG-11 with figure 2D's tour."""

    def module() -> nn.Module:
        return vgg11(load("cifar10"), 0)

    return Subject("vgg11", "cifar10", seed, f"{vgg.Setting()}", module, (lambda: vgg.plan(seed, vgg.Setting())[0],))


def vgg_deep(seed: int) -> Subject:
    """VGG-11 with the deep mode alone."""

    def module() -> nn.Module:
        return vgg11(load("cifar10"), 0)

    modes = {"C1": Mode(description="the dense network"), DEEP: _DEEP_MODE}
    profile = msgspec.structs.replace(
        loader.load("raspberry-pi-5"), name="vgg11-deep", modes=modes, transitions=(("C1", DEEP),),
        guard=Guard(max_drop_points=GUARDS["vgg11"]), channel_block=1,
    )  # fmt: skip
    options = Options(
        seed=seed, selection=2000, walked=250, fit=1000, stored=200, tested=250, waypoints=3, torn=2, budget=0.1,
    )  # fmt: skip
    return Subject(
        "vgg11-deep", "cifar10", seed, f"{profile}{options}", module,
        (lambda: _plan("vgg11", module(), load("cifar10"), profile, options),)
    )  # fmt: skip


def _plan(name: str, module: nn.Module, dataset: Dataset, profile: Profile, options: Options) -> Bundle:
    """The bundle; kept in the cache by everything that it is made of."""
    made_of = f"{options}{profile}"
    key = hashlib.sha256(f"{made_of}{digest(module)}".encode()).hexdigest()[:12]
    path: Path = folder() / f"{profile.name}-{key}"
    if not path.exists():
        path.with_suffix(".json").unlink(missing_ok=True)

    def work() -> dict[str, float]:
        console.print(f"planning {profile.name}, seed {options.seed}")
        made = make_plan(module, name, dataset, profile, path, options=options, replace=True)
        return {"planning_seconds": made.planning.seconds}

    kept(path.name, made_of, module, work)
    return read(path)
