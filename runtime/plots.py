"""Pictures of a simulation as PNG; the one file that imports matplotlib.

Only figure objects are used: no pyplot, no window, no state that two reports in one process would share.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from runtime.findings import AT_ONCE, Point, curves, decimals, fitted, limits, percent, ranked, worst_point
from runtime.manifest import ModeEntry
from runtime.simulator import Simulation, StrategyResult

WIDE_IN: Final = 9.6
"""A browser shows 96 pixels to the inch: 920 pixels, the width of the page's column."""
NARROW_IN: Final = 3.75
"""360 pixels, a phone."""


@dataclass(frozen=True)
class Look:
    """Where a picture is shown.

    Attributes:
        narrow: On a phone; pictures are drawn anew for it instead of shrunk, so that words keep their size.
        dark: On a dark page.
    """

    narrow: bool = False
    dark: bool = False

    @property
    def ink(self) -> str:
        """Colour of words."""
        return "#e6e6e6" if self.dark else "#1c1c1c"

    @property
    def faint(self) -> str:
        """Colour of grids."""
        return "#4a4f55" if self.dark else "#d4d4d4"

    @property
    def paper(self) -> str:
        """Colour behind everything."""
        return "#16191d" if self.dark else "#ffffff"

    @property
    def words(self) -> dict[str, Any]:
        """Colour and size of words, for matplotlib."""
        return {"color": self.ink, "fontsize": 9.5 if self.narrow else 11}

    @property
    def label(self) -> dict[str, Any]:
        """Words beside a mark, readable on top of lines, for matplotlib."""
        box = {"facecolor": self.paper, "alpha": 0.75, "linewidth": 0, "pad": 1}
        return {"textcoords": "offset points", "va": "center", "zorder": 6, "bbox": box, **self.words}

    def figure(self, height_in: float) -> Figure:
        """An empty figure of the right width."""
        width = NARROW_IN if self.narrow else WIDE_IN
        return Figure(figsize=(width, height_in), facecolor=self.paper, layout="constrained")


@dataclass(frozen=True)
class _Pen:
    """How a strategy is drawn: colour (on white, on black), dashes and marker each tell it apart."""

    colors: tuple[str, str]
    dashes: tuple[float, ...] | None
    marker: str
    width: float = 1.8

    def color(self, look: Look) -> str:
        return self.colors[look.dark]

    def line(self, look: Look) -> dict[str, Any]:
        style = "-" if self.dashes is None else (0, self.dashes)
        return {"color": self.color(look), "linewidth": self.width, "linestyle": style}


# The colours of Okabe and Ito without yellow, which white paper swallows, and a grey; jfly.uni-koeln.de/color.
_PENS: Final = {
    "ordered": _Pen(("#0072B2", "#3d9fdb"), None, "o", 2.8),
    "ramp": _Pen(("#56B4E9", "#8fd0f5"), (7, 2), "v"),
    "geodesic": _Pen(("#009E73", "#1fc795"), (8, 2, 2, 2), "P"),
    "linear": _Pen(("#7A7A7A", "#a8a8a8"), (3, 1.5), "^"),
    "zero-first": _Pen(("#E69F00", "#E69F00"), (5, 1.5, 1, 1.5), "s"),
    "naive": _Pen(("#D55E00", "#ef7a1f"), (4, 3), "D"),
    "plain": _Pen(("#000000", "#ffffff"), (1, 1.5), "X"),
    "flip": _Pen(("#CC79A7", "#dd93bc"), None, "*", 1.3),
    "reload": _Pen(("#CC79A7", "#dd93bc"), (1, 2.5), "h", 1.3),
}
_OTHER: Final = _Pen(("#7A7A7A", "#a8a8a8"), (2, 2), "p")


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
        pen = _PENS.get(name, _OTHER)
        axes[0].plot([], [], marker=pen.marker, markersize=7, label=name, **pen.line(look))
    columns, size = (2, 9.5) if look.narrow else (5, 11)
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, labelcolor=look.ink, fontsize=size,
                  handlelength=3.2, columnspacing=1.4)  # fmt: skip
    return _png(figure, look)


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
    return _png(figure, look)


def strategies(look: Look, simulation: Simulation) -> bytes:
    """What each strategy costs, as bars side by side."""
    names, results = zip(*ranked(simulation), strict=True)
    colors = [_PENS.get(name, _OTHER).color(look) for name in names]
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
    return _png(figure, look)


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
        _bars(axis, look, shares, [f"{share:.0f} %" for share in shares], [_OTHER.color(look)] * len(shares))
    right = [100 * mode.accuracy for mode in entries]
    panels[2].axvline(right[0], color=look.ink, linewidth=1, dashes=(2, 2))
    panels[2].plot(right, range(len(right)), "o", markersize=8, color=_OTHER.color(look))
    for place, value in enumerate(right):
        panels[2].annotate(percent(value / 100, samples), (value, place), (9, 0), **look.label)
    span = max(max(right) - min(right), 1.0)
    panels[2].set_xlim(min(right) - 0.15 * span, max(right) + 0.9 * span)
    return _png(figure, look)


def _draw(axis: Axes, look: Look, name: str, result: StrategyResult, strength: float = 1) -> None:
    """A line through the whole states, rings for the torn ones; what is replaced at once is a step."""
    pen = _PENS.get(name, _OTHER)
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
        pen = _PENS.get(name, _OTHER)
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
    _frame(axis, look, title)


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
    _frame(axis, look, title)
    axis.spines["bottom"].set_visible(False)


def _bars(axis: Axes, look: Look, values: Sequence[float], labels: Sequence[str], colors: Sequence[str]) -> None:
    bars = axis.barh(range(len(values)), values, color=list(colors), height=0.64)
    axis.bar_label(bars, labels, padding=3, **look.words)
    axis.set_xlim(0, 1.4 * max(*values, 1e-9))


def _frame(axis: Axes, look: Look, title: str) -> None:
    axis.set_facecolor(look.paper)
    axis.set_axisbelow(True)
    axis.set_title(title, loc="left", **look.words)
    axis.tick_params(colors=look.ink, labelsize=look.words["fontsize"], length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(look.faint)


def _png(figure: Figure, look: Look) -> bytes:
    """The figure with two pixels of the file to one of the page, or a little more on a phone."""
    figure.set_dpi(216 if look.narrow else 192)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    # 256 colours are enough for lines on paper, and a third of the size.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256)
    image.save(buffer, format="png")
    return buffer.getvalue()
