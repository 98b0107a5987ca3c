"""Pictures of the paths that a plan was chosen from: costs against the worst state, and paths over the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from runtime.plan.candidates import front, price
from runtime.plan.costs import TradeOff, rests_on_assumed
from runtime.plan.landscape import Landscape, LandscapePath
from runtime.plan.manifest import CandidateEntry, TransitionEntry
from runtime.reporting.canvas import (
    Axes,
    Figure,
    FixedLocator,
    FuncFormatter,
    Look,
    MaxNLocator,
    NullLocator,
    frame,
    panels,
    pen_of,
    png,
)
from runtime.reporting.inspection import ASSUMED

COLUMNS: Final = 2
SCALES: Final[Mapping[TradeOff, tuple[float, str]]] = {
    "bytes": (1e-3, "kB written"),
    "accuracy": (1e-3, "kB written"),
    "seconds": (1.0, "seconds"),
    "energy": (1e3, "mJ"),
    "wear": (1e6, "wear there and back, millionths"),
}
"""What costs are multiplied with on their axis, and what that is called."""
LEVELS: Final = 14
LEAST: Final = 1.0
"""Percentage points that an axis shows at least: less would make chance look like a difference."""
THICK: Final = 3.2
THIN: Final = 1.7


def candidates(look: Look, moves: Sequence[TransitionEntry], trade_off: TradeOff = "bytes") -> bytes:
    """Cost against the worst state, one panel a transition; the front joined, the chosen path ringed."""
    scale, words = SCALES[trade_off]
    figure, axes = panels(look, len(moves), 2.6 if look.narrow else 2.9, COLUMNS)
    strategies: dict[str, None] = {}
    for axis, move in zip(axes, moves, strict=True):
        _scatter(axis, look, move.candidates, trade_off, scale)
        frame(axis, look, f"{move.from_} → {move.to}")
        known = [one.cost for one in move.candidates if one.cost is not None]
        axis.set_xlabel(
            words + (ASSUMED if any(rests_on_assumed(one, trade_off) for one in known) else ""), **look.words
        )
        axis.grid(color=look.faint, linewidth=0.7)
        strategies |= dict.fromkeys(one.strategy for one in move.candidates)
    axes[0].set_ylabel("worst state, %", **look.words)
    for name in strategies:
        axes[0].plot([], [], pen_of(name).marker, color=pen_of(name).color(look), markersize=7, label=name)
    axes[0].plot([], [], "o", color=look.ink, markerfacecolor="none", markersize=12, label="chosen")
    axes[0].plot([], [], color=look.ink, linewidth=1, dashes=(2, 2), label="Pareto front")
    _legend(figure, look)
    return png(figure, look)


def _scatter(axis: Axes, look: Look, found: Sequence[CandidateEntry], trade_off: TradeOff, scale: float) -> None:
    """Feasible candidates filled, others hollow and faint."""
    costs = [scale * price(one, trade_off) for one in found]
    for one, cost in zip(found, costs, strict=True):
        pen = pen_of(one.strategy)
        place = cost, 100 * one.worst_accuracy
        fill = pen.color(look) if one.feasible else "none"
        style: dict[str, Any] = {"color": pen.color(look), "markerfacecolor": fill, "zorder": 4}
        axis.plot(*place, pen.marker, markersize=7, alpha=0.9 if one.feasible else 0.5, **style)
        if one.chosen:
            axis.plot(*place, "o", color=look.ink, markerfacecolor="none", markersize=15, markeredgewidth=1.6)
    best = sorted((cost, 100 * one.worst_accuracy) for one, cost, on in
                  zip(found, costs, front(found, trade_off), strict=True) if on)  # fmt: skip
    if best:
        # From the last of them on, whatever costs more is no better.
        xs, ys = zip(*best, (max(costs), best[-1][1]), strict=True)
        axis.step(xs, ys, where="post", color=look.ink, linewidth=1, dashes=(2, 2), zorder=3)
    if min(costs) > 0:
        axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(_apart(costs)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:.2g}"))
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.margins(x=0.1)
    low, high = (100 * edge(one.worst_accuracy for one in found) for edge in (min, max))
    edge = max(0.14 * (high - low), (LEAST - high + low) / 2)
    axis.set_ylim(low - edge, high + edge)


def _apart(values: Sequence[float]) -> list[float]:
    """Values that have room for their names on a logarithmic axis."""
    room = 0.16 * np.log(max(values) / min(values)) if min(values) > 0 else 0.0
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or np.log(value / kept[-1]) > room:
            kept.append(value)
    return kept


def landscapes(look: Look, drawn: Sequence[tuple[TransitionEntry, Landscape]]) -> bytes:
    """Paths over the loss, one panel a transition."""
    figure, axes = panels(look, len(drawn), 3.4 if look.narrow else 3.9, COLUMNS)
    seen: dict[str, None] = {}
    for axis, (move, landscape) in zip(axes, drawn, strict=True):
        _loss(figure, axis, look, landscape)
        by_name = {one.name: one for one in move.candidates}
        for path in sorted(landscape.paths, key=lambda path: by_name[path.name].chosen):
            _path(axis, look, path, by_name[path.name])
            seen[by_name[path.name].strategy] = None
        end = landscape.paths[0].points[-1]
        for name, place in ((move.from_, (0.0, 0.0)), (move.to, (end.x, end.y))):
            axis.plot(*place, "o", color=look.ink, markersize=8, zorder=7)
            axis.annotate(name, place, xytext=(0, 12), ha="center", weight="bold", **look.label)
        frame(axis, look, f"{move.from_} → {move.to}")
        axis.set_xlim(landscape.x[0], landscape.x[-1])
        axis.set_ylim(landscape.y[0], landscape.y[-1])
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_locator(MaxNLocator(4))
    for strategy in seen:
        pen = pen_of(strategy)
        style = pen.line(look) | {"linewidth": THIN}
        axes[0].plot([], [], marker=pen.marker, markersize=5, label=strategy, **style)
    axes[0].plot([], [], color=look.ink, linewidth=THICK, label="chosen")
    _legend(figure, look)
    return png(figure, look)


def _loss(figure: Figure, axis: Axes, look: Look, landscape: Landscape) -> None:
    """Shades of the loss, darker where it is larger on white paper, brighter on black."""
    values = np.log10(np.maximum(np.array(landscape.loss), 1e-6))
    shades = axis.contourf(landscape.x, landscape.y, values, levels=LEVELS, cmap="gray" if look.dark else "Greys",
                           alpha=0.75, zorder=0)  # fmt: skip
    bar = figure.colorbar(shades, ax=axis, pad=0.02, fraction=0.05)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.3g}"))
    bar.ax.tick_params(colors=look.ink, labelsize=look.words["fontsize"] - 1, length=0)
    bar.ax.set_title("loss", loc="left", color=look.ink, fontsize=look.words["fontsize"] - 1)
    bar.outline.set_visible(False)


def _path(axis: Axes, look: Look, path: LandscapePath, candidate: CandidateEntry) -> None:
    pen = pen_of(candidate.strategy)
    thick = {"linewidth": THICK, "zorder": 6} if candidate.chosen else {"linewidth": THIN, "zorder": 5}
    style = pen.line(look) | thick
    axis.plot([point.x for point in path.points], [point.y for point in path.points], marker=pen.marker,
              markersize=4, **style)  # fmt: skip


def _legend(figure: Figure, look: Look) -> None:
    columns, size = (2, 9.5) if look.narrow else (5, 11)
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, labelcolor=look.ink, fontsize=size,
                  handlelength=3.2, columnspacing=1.4)  # fmt: skip
