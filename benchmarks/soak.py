"""Does a device that switches 10,000 times hold on to anything?

The demo's network on a device as it is served: its journal on the disk, its switches, its events, its smaller graphs.
Each policy has a process of its own, with a seed of its own, that loads the runtime alone. Each switch goes to a random
other mode, with a question asked meanwhile; the pace of the profile is switched off. After 3,000 transitions to warm
up, and then 10 times along 10,000, the process is looked at. Bars: resident memory at most 1 % more at the end than
after the warm-up, and not one file descriptor or thread more.

The warm-up is for the heap's high-water mark: it rises for a while after the last thousand events are there, which are
kept, and in steps, since the interpreter takes memory from the system by the mebibyte, 1.2 % of this process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import bare, digits
from benchmarks.frame import Claim, Findings, main
from benchmarks.parts import kept

POLICIES = ("in-place", "shadow", "persistent")
GROWTH_BAR = 1.0
console = Console(stderr=True)


@dataclass(frozen=True)
class Setting:
    """How often.

    Attributes:
        seeds: Of the modes and the questions; a policy each.
        warm: Transitions before the first look.
        transitions: Those that count.
        looks: In their course.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    warm: int = 3000
    transitions: int = 10_000
    looks: int = 10


QUICK = Setting(warm=10, transitions=20, looks=1)


def run(quick: bool) -> Findings:
    """Measure; quick: few transitions."""
    setting = QUICK if quick else Setting()
    return findings(
        setting,
        {(policy, seed): measured(policy, seed, quick) for policy, seed in zip(POLICIES, setting.seeds, strict=True)},
    )


def measured(policy: str, seed: int, quick: bool = False) -> dict[str, Any]:
    """A soak's figures, kept."""
    setting = QUICK if quick else Setting()
    bundle = digits.plan(0)
    work = partial(
        bare.call, "benchmarks.enduring", path=str(bundle.path), policy=policy, seed=seed, warm=setting.warm,
        transitions=setting.transitions, looks=setting.looks,
    )  # fmt: skip
    suffix = "-quick" if quick else ""
    found = kept(f"soak-{policy}-seed{seed}{suffix}", (setting, bundle.id), None, work)
    console.print(
        f"{policy}, seed {seed}: {setting.transitions} transitions in {found['seconds']:.0f} s, resident memory "
        f"{growth(found, 'resident'):+.2f} %"
    )
    return found


def growth(one: dict[str, Any], kind: str) -> float:
    """Percent by which something is more at the end than after the warm-up."""
    first, last = (one["looks"][at][kind] for at in (0, -1))
    return float(100 * (last - first) / first)


def findings(setting: Setting, soaks: dict[tuple[str, int], dict[str, Any]]) -> Findings:
    """Claims, the worst of the soaks."""
    claims = []
    for kind in ("resident", "own"):
        values = [growth(one, kind) for one in soaks.values()]
        claims.append(Claim(f"{kind}_memory_growth", max(values), "%", "<=", GROWTH_BAR, values))
    for kind in ("descriptors", "threads"):
        more = [float(one["looks"][-1][kind] - one["looks"][0][kind]) for one in soaks.values()]
        claims.append(Claim(f"{kind}_more", max(more), "", "<=", 0, more))
    fewest = [float(one["transitions"]) for one in soaks.values()]
    claims.append(
        Claim(
            "transitions", min(fewest), "committed, warm-up included", ">=", setting.transitions + setting.warm, fewest
        )
    )
    data = {"soaks": [{"policy": policy, "seed": seed, **one} for (policy, seed), one in soaks.items()]}
    return Findings(list(setting.seeds), claims, {}, data, picture(soaks))


def picture(soaks: dict[tuple[str, int], dict[str, Any]]) -> Figure:
    """Resident memory along the transitions."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    colors = dict(zip(POLICIES, ("#0072B2", "#D55E00", "#009E73"), strict=True))
    for (policy, _), one in soaks.items():
        looks = one["looks"]
        first = looks[0]["resident"]
        axis.plot(
            [look["transitions"] for look in looks], [100 * (look["resident"] / first - 1) for look in looks],
            color=colors[policy], label=policy, marker=".",
        )  # fmt: skip
    axis.axhline(GROWTH_BAR, color="0.5", ls=":", lw=1)
    axis.set_xlabel("transitions after the warm-up")
    axis.set_ylabel("% more resident memory")
    axis.set_title("A device that switches again and again; dotted: the bar", fontsize=11)
    axis.legend()
    return figure


if __name__ == "__main__":
    cases = {policy: partial(measured, policy, seed) for policy, seed in zip(POLICIES, Setting().seeds, strict=True)}
    sys.exit(main("soak", run, cases))
