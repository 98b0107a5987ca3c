"""The picture of the sceptic's experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.strategies_summary import kills_by_strategy

COLOURS = {
    "naive": "#D55E00", "zero-first": "#E69F00", "linear": "#CC79A7", "ordered": "#0072B2", "ramp": "#56B4E9",
    "geodesic": "#009E73", "planned": "#000000", "plain": "#8B0000", "flip": "#7F7F7F", "reload": "#B0B0B0",
    "plain flip": "#C49A9A",
}  # fmt: skip


def picture(found: list[dict[str, Any]], rivals: dict[str, Any]) -> Figure:
    """Worst loss, wrong answers, what it costs, and what kills leave."""
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _losses(axes[0, 0], rivals)
    _wrong(axes[0, 1], rivals)
    _costs(axes[1, 0], rivals)
    _kills(axes[1, 1], found)
    used = list(dict.fromkeys(name for of in rivals.values() for name in of))
    handles = [axes[0, 0].plot([], [], "o", color=COLOURS[name], label=name)[0] for name in used]
    figure.legend(handles=handles, ncols=6, fontsize=9, loc="outside lower center")
    return figure


def _losses(axis: Axes, rivals: dict[str, Any]) -> None:
    """Loss of the worst state, by journey and strategy."""
    for place, of in enumerate(rivals.values()):
        for number, (name, one) in enumerate(of.items()):
            at = place + 0.8 * (number / len(of) - 0.5)
            axis.errorbar(at, one["worst_loss"], one["interval"], fmt="o", ms=5, lw=1, color=COLOURS[name])
    axis.set_yscale("symlog", linthresh=2)
    axis.set_yticks([0, 1, 2, 5, 10, 20, 50, 90], ["0", "1", "2", "5", "10", "20", "50", "90"])
    axis.set_ylim(100, -0.5)
    _ticks(axis, rivals)
    axis.set_ylabel("points below C1, 95 % interval")
    axis.set_title("Worst state on the way", fontsize=11)


def _wrong(axis: Axes, rivals: dict[str, Any]) -> None:
    """Requests that are wrong because of the transition, in a thousand of those of the least writing."""
    for place, of in enumerate(rivals.values()):
        for number, (name, one) in enumerate(of.items()):
            counts = 1000 * np.array(one["because_per_seed"]) / np.array(of["naive"]["requests_per_seed"])
            at = place + 0.8 * (number / len(of) - 0.5)
            axis.bar(at, counts.mean(), 0.8 / len(of), color=COLOURS[name])
            axis.plot([at, at], [counts.min(), counts.max()], color="0.3", lw=1)
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(0)
    axis.set_yticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])
    _ticks(axis, rivals)
    axis.set_ylabel("per 1,000 requests of the 20 s a switch")
    axis.set_title("Wrong because of the transition (of plain, ends are to blame)", fontsize=11)


def _costs(axis: Axes, rivals: dict[str, Any]) -> None:
    """Bytes against weight memory, a marker for each journey."""
    for marker, (what, of) in zip("os^Dv*", rivals.items(), strict=False):
        for name, one in of.items():
            if name not in ("plain", "plain flip"):
                peak = one["peak_bytes"] / of["ordered"]["peak_bytes"]
                axis.plot(one["times"], peak, marker, color=COLOURS[name], ms=8, alpha=0.7)
        axis.plot([], [], marker, color="0.5", label=what)
    axis.set_xscale("log")
    axis.set_xlabel("bytes written, of those of the changed rows (so seconds at a given write rate)")
    axis.set_ylabel("weight memory, of one copy")
    axis.set_title("What it costs; one-pass orders all stand at 1, 1", fontsize=11)
    axis.legend(fontsize=8)


def _kills(axis: Axes, found: list[dict[str, Any]]) -> None:
    """Loss of every killed process's memory before and after its repair."""
    together = kills_by_strategy(found)
    for place, ((_, name), kills) in enumerate(together.items()):
        axis.plot([place - 0.15] * len(kills["before"]), kills["before"], "x", color=COLOURS[name], ms=5)
        axis.plot([place + 0.15] * len(kills["after"]), kills["after"], "o", color=COLOURS[name], ms=4, mfc="none")
    labels = [f"{network} {name}" for network, name in together]
    place = len(labels)
    axis.set_xticks(range(place), labels, rotation=90, fontsize=7)
    axis.set_yscale("symlog", linthresh=2)
    axis.set_yticks([0, 1, 2, 5, 10, 20, 50, 90], ["0", "1", "2", "5", "10", "20", "50", "90"])
    axis.set_ylim(100, -2)
    axis.set_ylabel("points below C1")
    axis.set_title("Killed while writing: as it was left (×), and with the torn row repaired (○)", fontsize=11)


def _ticks(axis: Axes, rivals: dict[str, Any]) -> None:
    axis.set_xticks(range(len(rivals)), [what.replace(" ", "\n") for what in rivals], fontsize=9)
