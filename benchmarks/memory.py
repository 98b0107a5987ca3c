"""What walking takes of a device's memory: VGG-11's tour, each case in a fresh process that loads the runtime alone.

A process opens the plan, answers for a while at rest, and then walks the tour at the profile's pace while it answers.
A thread beside it looks every 2 ms at what is resident (RSS, of which the peak counts) and at what of it is its own:
anonymous pages, which no file stands for and no other process shares (at rest the median counts, walking the peak).
Bars: with policy `in-place`, both at most 1.05 times what they are at rest; with `shadow`, which holds the moved
tensors twice, at most what `in-place` has at rest and 1.1 times the bytes of the moved tensors.

The network rests on the graph that it walks on (`snap: false`). With `snap: true` a mode's smaller graph is loaded on
arrival, before the live one is released, and the other way round when it leaves: that is another matter than walking,
has no bar, and is measured beside it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import bare, digits, vgg
from benchmarks.frame import Claim, Findings, main
from benchmarks.parts import kept

PLAN_SEED = 2
IN_PLACE_BAR, SHADOW_BAR = 1.05, 1.1
CASES = {"in-place": ("in-place", False), "shadow": ("shadow", False), "in-place, snap": ("in-place", True)}
KINDS = ("resident", "own")
console = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """How long, and how often.

    Attributes:
        runs: Each of every case, in processes of their own.
        rest_s: Seconds at rest.
        tours: Walks of the whole tour.
    """

    runs: tuple[int, ...] = (0, 1, 2)
    rest_s: float = 5.0
    tours: int = 2


QUICK = Setting(runs=(0,), rest_s=1.0, tours=1)


def run(quick: bool) -> Findings:
    """Measure; quick: the demo's network, on which the runtime itself outweighs all weights."""
    setting = QUICK if quick else Setting()
    bundle = digits.plan(0) if quick else vgg.plan(PLAN_SEED, vgg.Setting())[0]
    suffix = "-quick" if quick else ""
    runs = []
    for number in setting.runs:
        found: dict[str, Any] = {}
        for name, (policy, snap) in CASES.items():
            work = partial(
                bare.call, "benchmarks.resident", path=str(bundle.path), policy=policy, snap=snap,
                rest_s=setting.rest_s, tours=setting.tours,
            )  # fmt: skip
            part = f"memory-{name.replace(', ', '-')}-{number}{suffix}"
            found[name] = kept(part, (setting, bundle.id), None, work)
            console.print(f"{name}, run {number}: {_shown(found[name])}")
        runs.append(found)
    return findings(setting, runs)


def _shown(one: dict[str, Any]) -> str:
    kinds = (f"{kind} {one['rest'][kind] / 1e6:.1f} → {one['walking'][kind] / 1e6:.1f} MB" for kind in KINDS)
    return ", ".join(kinds)


def findings(setting: Setting, runs: list[dict[str, Any]]) -> Findings:
    """Claims, the worst of the runs."""
    claims = []
    for kind in KINDS:
        grown = [one["in-place"]["walking"][kind] / one["in-place"]["rest"][kind] for one in runs]
        claims.append(Claim(f"in_place_{kind}", max(grown), "× at rest", "<=", IN_PLACE_BAR, grown))
        more = [
            (one["shadow"]["walking"][kind] - one["in-place"]["rest"][kind]) / one["shadow"]["moved_bytes"]
            for one in runs
        ]
        claims.append(
            Claim(f"shadow_{kind}", max(more), "× moved bytes, over in-place at rest", "<=", SHADOW_BAR, more)
        )
    rivals = {
        "in-place with snap": {
            kind: [one["in-place, snap"]["walking"][kind] / one["in-place, snap"]["rest"][kind] for one in runs]
            for kind in KINDS
        }
    }
    return Findings(list(setting.runs), claims, rivals, {"runs": runs}, picture(runs))


def picture(runs: list[dict[str, Any]]) -> Figure:
    """Megabytes of each case."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    at = np.arange(len(CASES))
    bars = [(kind, part) for kind in KINDS for part in ("rest", "walking")]
    colors = ("#56B4E9", "#0072B2", "#F0E442", "#E69F00")
    for place, ((kind, part), color) in enumerate(zip(bars, colors, strict=True)):
        values = [max(one[name][part][kind] for one in runs) / 1e6 for name in CASES]
        axis.bar(at + 0.2 * place, values, 0.19, color=color, label=f"{kind}, {'at rest' if part == 'rest' else part}")
    axis.set_xticks(at + 0.3, list(CASES))
    axis.set_ylabel("MB, the most of all runs")
    axis.set_title("Memory of a process that answers, at rest and while it walks", fontsize=11)
    axis.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main("memory", run))
