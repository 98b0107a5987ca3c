"""How planning grows: seconds and bytes against the number of weights, and apart from it against the widest layer.

Stacks of linear layers on the digits, with fresh weights: what is measured is time and size, and neither depends on how
good a network is. The widest layer sets the size of the normal equations, so that it is held while the depth grows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.frame import Claim, Findings, main
from device_profiles import Guard, Profile, loader
from device_profiles.schema import Change, Mode, Selector
from planner.datasets import Dataset, load
from planner.options import Options
from planner.plan import make_plan
from runtime.plan.bundle import read

WIDTH = 256
DEPTHS = (0, 1, 6, 40, 150, 450)
"""Hidden layers of `WIDTH` behind the first: 1.9e4 to 3.0e7 weights."""
WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
WIDE_DEPTH = 1
REPEATS = 3


def run(quick: bool) -> Findings:
    """Plan stacks of growing depth, then of growing width; quick: the three smallest of each."""
    dataset = load("digits")
    depths, widths = (DEPTHS[:3], WIDTHS[:3]) if quick else (DEPTHS, WIDTHS)
    repeats = range(1 if quick else REPEATS)
    torch.set_num_threads(1)
    plan(WIDTH, 0, dataset, 0)  # imports and first calls
    # Interleaved, so that a slow spell of the machine falls on all sizes alike.
    rounds = [[plan(WIDTH, depth, dataset, seed) for depth in depths] for seed in repeats]
    wide = [[plan(width, WIDE_DEPTH, dataset, seed) for width in widths] for seed in repeats]
    slopes = {
        f"{what}_slope": [slope([(one["weights"], one[key]) for one in row]) for row in rounds]
        for what, key in (("seconds", "seconds"), ("bundle_bytes", "bundle_bytes"), ("path_bytes", "path_bytes"))
    }
    claims = [Claim(name, max(values), "log-log", "<=", 1.1, values) for name, values in slopes.items()]
    widest = [slope([(one["width"], one["seconds"]) for one in row[len(row) // 2 :]]) for row in wide]
    data = {"depth": rounds, "width": wide, "seconds_against_widest_layer_slope": widest}
    return Findings(list(repeats), claims, {}, data, picture(rounds, wide))


def plan(width: int, depth: int, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Plan one stack: half of the first layer's units removed."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")  # signals neither fade nor grow with the depth
    with tempfile.TemporaryDirectory() as folder:
        options = Options(seed=seed, fit=800, selection=300, tested=100, stored=50, waypoints=3, torn=2)
        begun = time.monotonic()
        make_plan(network.eval(), "stack", dataset, profile(), Path(folder) / "plan", options=options)
        bundle = read(Path(folder) / "plan")
    planning = bundle.manifest.planning
    return {
        "width": width, "depth": depth, "weights": sum(one.numel() for one in network.parameters()),
        "seconds": planning.seconds, "seconds_with_evidence": time.monotonic() - begun,
        "bundle_bytes": bundle.size_bytes, "path_bytes": bundle.transitions[0].entry.bytes_written,
    }  # fmt: skip


def profile() -> Profile:
    """One transition, and a guard that fresh weights meet."""
    first = Change(layer=Selector(role="classifier", position=1), fraction=0.5)
    modes = {
        "C1": Mode(description="dense"),
        "C2": Mode(description="half of the first layer", from_="C1", remove=(first,)),
    }
    return msgspec.structs.replace(
        loader.load("generic-x86"), name="scaling", modes=modes, transitions=(("C1", "C2"),),
        guard=Guard(max_drop_points=100.0),
    )  # fmt: skip


def slope(points: list[tuple[float, float]]) -> float:
    """Slope of the straight line through the logarithms."""
    x, y = np.log(np.array(points, float)).T
    return float(np.polyfit(x, y, 1)[0])


def picture(rounds: list[list[dict[str, Any]]], wide: list[list[dict[str, Any]]]) -> Figure:
    """Seconds and bytes against weights, seconds against the widest layer."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axis, rows, x, y, title in (
        (left, rounds, "weights", "seconds", f"planning, layers of {WIDTH}"),
        (middle, rounds, "weights", "bundle_bytes", f"bundle, layers of {WIDTH}"),
        (right, wide, "width", "seconds", f"planning, {WIDE_DEPTH + 1} hidden layers"),
    ):
        for row in rows:
            axis.loglog([one[x] for one in row], [one[y] for one in row], "o-", color="#0072B2", ms=3, lw=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("weights" if x == "weights" else "units of the widest layer")
        axis.set_ylabel("bytes" if y == "bundle_bytes" else "seconds")
        axis.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    sys.exit(main("scaling", run))
