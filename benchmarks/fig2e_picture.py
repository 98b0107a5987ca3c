"""The picture of `fig2e`: criteria against what they should tell, regrets, and paths over the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call

from benchmarks.fig2e_paths import Space
from planner.endpoint import EndPoint
from planner.landscape import Plane
from runtime.plan.samples import Samples

CRITERIA = ("functional length", "Fisher length", "end divergence", "validation")


def picture(found: list[dict[str, Any]]) -> Figure:
    """Each criterion against the held-out worst drop; what each choice regrets; paths over the loss."""
    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, 3)
    colors = shades([one["model"] for one in found])
    for axis, criterion in zip(axes.flat, CRITERIA, strict=False):
        for color, one in zip(colors, found, strict=True):
            rho = one["correlations"][criterion]
            low, high = rho["interval"]
            label = f"{one['model']} {one['seed']}: {rho['spearman']:.2f} [{low:.2f}, {high:.2f}]"
            axis.scatter(
                [each[criterion] for each in one["candidates"]],
                [max(each["held-out worst drop"], 0.01) for each in one["candidates"]],
                s=18, color=color, label=label, alpha=0.8,
            )  # fmt: skip
        axis.set(xlabel=criterion + (" (points, selection)" if criterion == "validation" else ""), yscale="log")
        axis.set_ylabel("held-out worst drop, points")
        if criterion == "validation":
            axis.set_xscale("symlog", linthresh=0.1)
        axis.legend(fontsize=6, title="rank correlation [95 %]", title_fontsize=7, framealpha=0.4)
    regrets(axes.flat[4], found, colors)
    drawn = next((one["slice"] for one in found if one.get("slice") is not None), None)
    if drawn is not None:
        plane(axes.flat[5], drawn)
    figure.suptitle(
        "Paths from C1 to a sparse hyperplane: what tells beforehand how bad the worst state gets", fontsize=12
    )
    return figure


def shades(models: Sequence[str]) -> list[tuple[float, ...]]:
    """A hue for each network, from dark to light over its seeds."""
    hues = dict(zip(dict.fromkeys(models), (colormaps["winter"], colormaps["autumn"]), strict=False))
    return [hues[model](models[:place].count(model) / models.count(model)) for place, model in enumerate(models)]


def regrets(axis: Any, found: list[dict[str, Any]], colors: Sequence[tuple[float, ...]]) -> None:
    """Bars: what each rule's choice loses to the best candidate."""
    rules = list(found[0]["choices"])
    width = 0.8 / len(found)
    for place, (color, one) in enumerate(zip(colors, found, strict=True)):
        heights = [max(one["choices"][rule]["regret_points"], 0.004) for rule in rules]
        axis.bar(np.arange(len(rules)) + width * (place - (len(found) - 1) / 2), heights, width, color=color)
    axis.axhline(0.1, color="0.4", ls=":", lw=1)
    axis.set(yscale="log", ylabel="regret of the choice, points (dotted: the bar)")
    names = [rule.replace("trade_off: ", "for ").replace(" ", "\n") for rule in rules]
    axis.set_xticks(range(len(rules)), names, fontsize=6)


def plane(axis: Any, drawn: Mapping[str, Any]) -> None:
    """The paper's picture: loss in colours, paths as lines."""
    filled = axis.contourf(drawn["x"], drawn["y"], np.log10(drawn["loss"]), levels=14, cmap="Greys")
    axis.figure.colorbar(filled, ax=axis, label="log10 of the loss, selection images")
    shown = {
        "greedy, ordered": "#0072B2", "greedy, zero-first": "#D55E00", "greedy, linear 4": "#000000",
        "greedy, flow 0.1": "#E69F00", "greedy, relaxed line": "#009E73", "greedy, corrected": "#CC79A7",
        "greedy held, corrected": "#56B4E9",
    }  # fmt: skip
    for name, color in shown.items():
        if name in drawn["paths"]:
            xs, ys = zip(*drawn["paths"][name], strict=True)
            axis.plot(xs, ys, "o-", ms=2.5, lw=1.3, color=color, label=name)
    axis.plot(0, 0, "k*", ms=9)
    axis.set(xlabel="towards the refitted end", ylabel="towards the drift-corrected end")
    axis.legend(fontsize=6.5, loc="upper left")


def landscape(
    space: Space, points: Mapping[str, Sequence[Tensor]], ends: Mapping[str, EndPoint], samples: Samples
) -> dict[str, Any] | None:
    """Loss over the plane through the dense network, the refitted end and the drift-corrected one, and paths on it.

    Paths leave the plane; they are drawn where they lie nearest to it.
    """
    dense, refitted = space.ends(ends["greedy"])
    held = space.configuration.flatten(ends["greedy held"].tensors)
    laid = Plane.through(*(point.double().numpy() for point in (dense, refitted, held)))
    if laid is None:  # the correction moved nothing
        return None
    inputs, labels = torch.from_numpy(samples.inputs), torch.from_numpy(samples.labels)
    xs = np.linspace(-0.25 * laid.width, 1.25 * laid.width, space.setting.grid)
    ys = np.linspace(-0.5 * laid.height, 1.5 * laid.height, space.setting.grid)
    losses = [
        [loss(space, torch.from_numpy(laid.at(float(x), float(y))).to(dense), inputs, labels) for x in xs] for y in ys
    ]
    drawn = {
        name: [list(laid.coordinates(point.double().numpy())[:2]) for point in path]
        for name, path in points.items()
        if name.startswith("greedy")
    }
    return {"x": xs.tolist(), "y": ys.tolist(), "loss": losses, "paths": drawn}


def loss(space: Space, point: Tensor, inputs: Tensor, labels: Tensor) -> float:
    """Cross-entropy at a point."""
    with torch.no_grad():
        outputs = functional_call(space.network.module, space.configuration.unflatten(point), (inputs,))
    return float(torch.nn.functional.cross_entropy(outputs, labels))
