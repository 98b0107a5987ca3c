"""Pictures of a simulation as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.plan.manifest import ModeEntry
from runtime.reporting.canvas import OTHER, Axes, Figure, FuncFormatter, Look, MaxNLocator, frame, pen_of, png
from runtime.reporting.findings import AT_ONCE, Point, curves, decimals, fitted, limits, percent, ranked, worst_point
from runtime.simulation.simulator import Simulation, StrategyResult


def tour(look: Look, simulation: Simulation, stops: Sequence[str], chosen: Sequence[str]) -> bytes:
    """Accuracy of every measured state along the tour, one line a strategy.

    Args:
        look: Where it is shown.
        simulation: All strategies.
        stops: Names of the modes on the axis, one more than there are transitions.
        chosen: Strategy that the plan uses in each transition.
    """
    low, high, floor = limits(simulation)
    titles = ["right answers in %", "the same, only the upper end of the axis"][: 1 if floor is None else 2]
    figure = look.figure(6.8 if floor is not None else 5.0 if look.narrow else 4.5)
    axes: list[Axes] = list(figure.subplots(len(titles), 1, squeeze=False, height_ratios=[2, 3][-len(titles) :])[:, 0])
    for axis, title in zip(axes, titles, strict=True):
        for name, result in reversed(ranked(simulation)):
            beyond = axis is axes[-1] and 100 * result.min_accuracy < low
            _draw(axis, look, name, result, strength=0.3 if beyond else 1)
        _furnish(axis, look, simulation, fitted(stops, 40 if look.narrow else 90), title)
    axes[-1].set_ylim(low, high)
    _mark_worst(axes[-1], look, simulation, low, high)
    if floor is not None:
        axes[0].set_ylim(floor, high + 0.06 * (high - floor))
        _mark_worst(axes[0], look, simulation, floor, low)
    where: dict[str, Any] = {"xycoords": axes[-1].get_xaxis_transform(), "xytext": (0, -9), "ha": "center"}
    for number, name in enumerate(chosen):
        words = name if look.narrow else f"plan uses {name}"
        axes[-1].annotate(words, (number + 0.5, 1), style="italic", **where, **look.label)
    for name, _ in ranked(simulation):
        pen = pen_of(name)
        axes[0].plot([], [], marker=pen.marker, markersize=7, label=name, **pen.line(look))
    columns, size = (2, 9.5) if look.narrow else (5, 11)
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, labelcolor=look.ink, fontsize=size,
                  handlelength=3.2, columnspacing=1.4)  # fmt: skip
    return png(figure, look)


def states(look: Look, simulation: Simulation, stops: Sequence[str]) -> bytes:
    """Each strategy in a panel of its own."""
    low, high, _ = limits(simulation)
    columns = 1 if look.narrow else 3
    rows = -(-len(simulation.strategies) // columns)
    figure = look.figure(rows * (1.75 if look.narrow else 1.95))
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (name, result) in zip(panels, ranked(simulation), strict=False):
        _draw(axis, look, name, result)
        worst = percent(result.min_accuracy, simulation.samples)
        deep = 100 * result.min_accuracy < low
        title = f"{name}: worst {worst}{', own scale' if deep else ''}"
        _furnish(axis, look, simulation, fitted(stops, 36), title)
        axis.set_ylim(100 * result.min_accuracy - 0.1 * (high - 100 * result.min_accuracy) if deep else low, high)
        axis.plot(*worst_point(result), marker="o", markersize=12, markerfacecolor="none", markeredgecolor=look.ink)
    for axis in panels[len(simulation.strategies) :]:
        axis.set_axis_off()
    return png(figure, look)


def strategies(look: Look, simulation: Simulation) -> bytes:
    """What each strategy costs, as bars side by side."""
    names, results = zip(*ranked(simulation), strict=True)
    colors = [pen_of(name).color(look) for name in names]
    lost = [max(0.0, 100 * (simulation.dense_accuracy - result.min_accuracy)) for result in results]
    costs = (
        ("worst state, points\nbelow the dense network", lost, f"{{:.{decimals(simulation.samples)}f}}"),
        ("kB written", [result.bytes_written / 1e3 for result in results], "{:,.0f}"),
        ("kB of weights\nheld at once", [result.peak_weight_bytes / 1e3 for result in results], "{:,.0f}"),
        ("milliseconds\nspent switching", [1e3 * result.seconds for result in results], "{:,.0f}"),
    )
    figure, panels = _side_by_side(look, len(costs), 0.34 * len(names) + 0.7)
    for axis, (title, values, form) in zip(panels, costs, strict=True):
        _rows(axis, look, names if look.narrow or axis is panels[0] else [""] * len(names), title)
        _bars(axis, look, values, [form.format(value) for value in values], colors)
    return png(figure, look)


def modes(look: Look, entries: Sequence[ModeEntry], samples: int) -> bytes:
    """Cost and accuracy of every mode.

    Args:
        look: Where it is shown.
        entries: Modes, the dense one first.
        samples: Held-out samples that the accuracies were measured on.
    """
    names = fitted([mode.name for mode in entries], 12 * len(entries))
    figure, panels = _side_by_side(look, 3, 0.36 * len(entries) + 0.8)
    titles = ("multiply-accumulates", "weight bytes", "right answers, axis not from 0")
    for axis, title in zip(panels, titles, strict=True):
        _rows(axis, look, names, title)
    costs = [(mode.macs, mode.weight_bytes) for mode in entries]
    for axis, values in zip(panels, zip(*costs, strict=True), strict=False):
        shares = [100 * value / max(values[0], 1) for value in values]
        _bars(axis, look, shares, [f"{share:.0f} %" for share in shares], [OTHER.color(look)] * len(shares))
    right = [100 * mode.accuracy for mode in entries]
    panels[2].axvline(right[0], color=look.ink, linewidth=1, dashes=(2, 2))
    panels[2].plot(right, range(len(right)), "o", markersize=8, color=OTHER.color(look))
    for place, value in enumerate(right):
        # Away from the dotted line of the dense mode, which must not run through a number.
        shift, side = (-9, "right") if value < right[0] else (9, "left")
        panels[2].annotate(percent(value / 100, samples), (value, place), (shift, 0), ha=side, **look.label)
    span = max(max(right) - min(right), 1.0)
    panels[2].set_xlim(min(right) - 0.9 * span, max(right) + 0.9 * span)
    return png(figure, look)


def _draw(axis: Axes, look: Look, name: str, result: StrategyResult, strength: float = 1) -> None:
    """A line through the whole states, rings for the torn ones; what is replaced at once is a step."""
    pen = pen_of(name)
    whole, torn = curves(result)
    step = "steps-mid" if name in AT_ONCE else "default"
    axis.plot(*zip(*whole, strict=True), drawstyle=step, alpha=strength, **pen.line(look))
    ring: dict[str, Any] = {
        "color": pen.color(look),
        "markerfacecolor": look.paper,
        "markersize": 3.6,
        "alpha": strength,
    }
    axis.plot([x for x, _ in torn], [y for _, y in torn], "o", **ring)


def _mark_worst(axis: Axes, look: Look, simulation: Simulation, low: float, high: float) -> None:
    """A marker at every worst state between two percentages; the three lowest places get names, where there is room."""
    places: dict[Point, list[str]] = {}
    for name, result in reversed(ranked(simulation)):
        x, y = worst_point(result)
        if not low <= y < high:
            continue
        names = places.setdefault((round(x, 2), y), [])
        pen = pen_of(name)
        # Markers in one place shrink from the lowest to the uppermost, so that all can be seen.
        size = max(12 - 4 * len(names), 4)
        axis.plot(x, y, pen.marker, color=pen.color(look), zorder=5, markersize=size, markeredgecolor=look.paper)
        names.append(name)
    (bottom, top), middle = axis.get_ylim(), axis.get_xlim()[1] / 2
    taken: list[float] = []
    for (x, y), names in list(places.items())[:3]:
        if all(abs(y - other) > 0.055 * (top - bottom) for other in taken):
            taken.append(y)
            words = f"{', '.join(names)} {percent(y / 100, simulation.samples)}"
            axis.annotate(words, (x, y), (9 if x < middle else -9, 0), ha="left" if x < middle else "right",
                          **look.label)  # fmt: skip


def _furnish(axis: Axes, look: Look, simulation: Simulation, stops: Sequence[str], title: str) -> None:
    """Grid, mode names and the dense network's accuracy."""
    axis.axhline(100 * simulation.dense_accuracy, color=look.ink, linewidth=0.9, dashes=(1, 3), zorder=1)
    axis.set_xticks(range(len(stops)), stops)
    axis.set_xlim(-0.03, len(stops) - 0.97)
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=3))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(color=look.faint, linewidth=0.7)
    frame(axis, look, title)


def _side_by_side(look: Look, count: int, height_in: float) -> tuple[Figure, list[Axes]]:
    """Panels beside each other, on a phone below each other."""
    figure = look.figure(count * height_in if look.narrow else height_in)
    rows, columns = (count, 1) if look.narrow else (1, count)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _rows(axis: Axes, look: Look, names: Sequence[str], title: str) -> None:
    """Named rows from the top down, and no scale below: the values stand beside the marks."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xticks([])
    frame(axis, look, title)
    axis.spines["bottom"].set_visible(False)


def _bars(axis: Axes, look: Look, values: Sequence[float], labels: Sequence[str], colors: Sequence[str]) -> None:
    bars = axis.barh(range(len(values)), values, color=list(colors), height=0.64)
    axis.bar_label(bars, labels, padding=3, **look.words)
    axis.set_xlim(0, 1.4 * max(*values, 1e-9))
