"""The demo's network planned for every built-in device: what comes of it, or why it is refused.

The same trained network, images and seeds for all. Accuracies and the worst state are those of the plan's evidence on
test images, on the device's grid where it has one; bytes, seconds and joules are the prediction that the runtime writes
by, for the whole tour C1 → C2 → C3 → C4 → C1 of the profile, waiting between increments included. A network of VGG-11's
size shows refusals: where its weights do not fit, that has to be said before anything is spent.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from msgspec import UNSET
from rich.console import Console

from benchmarks.frame import Claim, Findings, main
from benchmarks.networks import trained
from device_profiles import GeoshiftError, builtin_names, load
from planner import models
from planner.datasets import load as load_data
from planner.demo import DATA, MODEL
from planner.options import Options
from planner.plan import make_plan
from runtime.plan.bundle import read
from runtime.plan.verification import verify

LARGE = "vgg11"
"""Of 113 MB: its random weights do, since it is to be refused by its size or not at all."""
SHIFTED = "max78000"
"""Its scales are powers of two: what that costs is measured beside free ones."""
OTHER_SCALES = {
    "8 bits, free": ("weights.scales=any",),
    "4 bits, powers of two": ("weights.bits=4",),
    "4 bits, free": ("weights.bits=4", "weights.scales=any"),
}
console = Console(stderr=True)


def run(quick: bool) -> Findings:
    """Measure; quick: one seed and two devices."""
    seeds = [0] if quick else [0, 1, 2]
    names = ("generic-x86", "rram-crossbar") if quick else builtin_names()
    found = {name: [planned(name, seed) for seed in seeds] for name in names}
    refused = {name: refusal(name) for name in names}
    scales = {} if quick else {"8 bits, powers of two": found[SHIFTED]} | {
        words: [planned(SHIFTED, seed, changes) for seed in seeds] for words, changes in OTHER_SCALES.items()
    }  # fmt: skip
    return findings(seeds, found, refused, scales)


def planned(name: str, seed: int, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Plan for a device, verify the plan, and say what it came to.

    Args:
        name: Built-in profile.
        seed: Of training and planning.
        changes: Overrides, as for ``--set``.
    """
    profile = load(name, changes)
    module = trained(MODEL, load_data(DATA), seed)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="geoshift-profiles-") as folder:
        path = Path(folder) / "plan"
        try:
            make_plan(module, MODEL, load_data(DATA), profile, path, options=Options(seed=seed, probes=16, certified=0))
        except GeoshiftError as error:
            console.print(f"{name}, seed {seed}: refused: {error}")
            return {"seed": seed, "refused": str(error).replace(str(path), "plan")}
        bundle = read(path)
        checked = verify(bundle, profile)
    manifest = bundle.manifest
    dense = manifest.modes[0].accuracy
    costs = [move.entry.cost for move in bundle.transitions]
    assert all(cost is not None for cost in costs), "a new plan has its costs"
    joules = [cost.joules for cost in costs if cost is not None]
    record = {
        "seed": seed,
        "refused": "",
        "accuracy": {mode.name: mode.accuracy for mode in manifest.modes},
        "unquantised_accuracy": dense if manifest.grid is UNSET else manifest.grid.unquantised_accuracy,
        "worst_drop_points": max(move.entry.worst_drop_points for move in bundle.transitions),
        "strategies": [move.entry.strategy for move in bundle.transitions],
        "bytes": sum(cost.bytes for cost in costs if cost is not None),
        "increments": sum(cost.increments for cost in costs if cost is not None),
        "seconds": sum(cost.seconds for cost in costs if cost is not None),
        "joules": None if None in joules else sum(one for one in joules if one is not None),
        "assumed": sorted({name for cost in costs if cost is not None for name in cost.assumed}),
        "transitions_left": min(
            (cost.transitions_left for cost in costs if cost is not None and cost.transitions_left is not None),
            default=None,
        ),
        "verified": all(one.ok for one in checked),
        "planning_seconds": time.monotonic() - begun,
    }
    console.print(f"{name}, seed {seed}: worst {record['worst_drop_points']:.2f}, {record['bytes']} bytes")
    return record


def refusal(name: str) -> str:
    """What planning VGG-11 for a device says before it spends anything; empty where it would begin."""
    from runtime.plan.fit import check_size

    weights = sum(tensor.numel() for tensor in models.build(LARGE, seed=0).state_dict().values())
    try:
        check_size(weights, load(name), f"plan for {name}")
    except GeoshiftError as error:
        return str(error)
    return ""


def findings(
    seeds: list[int],
    found: dict[str, list[dict[str, Any]]],
    refused: dict[str, str],
    scales: dict[str, list[dict[str, Any]]],
) -> Findings:
    """Claims and picture."""
    made = [one for per_seed in found.values() for one in per_seed if not one["refused"]]
    reasons = [why for why in refused.values() if why]
    exact = [why for why in reasons if "memory.weights_bytes: found" in why and "weights fit" in why]
    limits = {name: load(name).guard.max_drop_points for name in found}
    beyond = [
        one["worst_drop_points"] - limits[name]
        for name, per_seed in found.items()
        for one in per_seed
        if not one["refused"]
    ]
    claims = [
        Claim("devices_planned_for", float(len({n for n, s in found.items() if not any(o["refused"] for o in s)})),
              "devices", "==", len(found)),
        Claim("plans_that_verify", float(sum(one["verified"] for one in made)), "plans", "==", len(made)),
        Claim("worst_state_beyond_the_guard", max(beyond), "points", "<=", 0.0, beyond),
        Claim("refusals_of_vgg11_that_name_limit_need_and_what_fits", float(len(exact)), "devices", "==", len(reasons)),
    ]  # fmt: skip
    return Findings(seeds, claims, {}, {"devices": found, "vgg11": refused, "scales": scales}, picture(found))


def picture(found: dict[str, list[dict[str, Any]]]) -> Figure:
    """Worst state below C1 against the seconds of the tour, a mark a seed."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    colors = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
    marks = "osD^vP*"
    for place, (name, per_seed) in enumerate(found.items()):
        own = [one for one in per_seed if not one["refused"]]
        axes.plot([one["seconds"] for one in own], [one["worst_drop_points"] for one in own], marks[place % 7],
                  color=colors[place % 7], label=name, ms=7, mfc="none")  # fmt: skip
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlabel("predicted seconds of writing for the tour")
    axes.set_ylabel("worst state, points below C1")
    axes.invert_yaxis()
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_title("The demo's network on every built-in device; one mark a seed", fontsize=10)
    figure.legend(ncols=4, fontsize=8, loc="outside lower center")
    return figure


if __name__ == "__main__":
    sys.exit(main("profiles", run))
