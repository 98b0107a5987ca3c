"""Pictures of a played trace as PNG: what happened, how each strategy fared over time, what each cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from runtime.reporting.canvas import (
    OTHER,
    Axes,
    FuncFormatter,
    Look,
    MaxNLocator,
    NullLocator,
    frame,
    panels,
    pen_of,
    png,
)
from runtime.reporting.findings import fitted
from runtime.simulation.result import Series, TraceResult
from runtime.simulation.trace import Trace

BAD: Final = ("#c0362c", "#ff7b6b")
"""Colour of what went wrong, on white and on black."""
_BLOCK: Final = 3
"""Strategies beside each other."""
_WIDE: Final = 30
"""Latencies that differ by more than this factor are drawn on a scale of powers of ten."""


def happenings(look: Look, result: TraceResult, trace: Trace) -> bytes:
    """Requests a second, and what the sensors say, over time."""
    series = _any_series(result)
    rows: list[tuple[str, list[tuple[float, float]]]] = []
    rates = [count / result.window_s for count in series.requests]
    rows.append(("requests a second", list(zip(series.at_s, rates, strict=True))))
    if trace.readings.battery:
        rows.append(("battery in %", list(trace.readings.battery)))
    if trace.readings.temperature:
        rows.append(("temperature in °C", list(trace.readings.temperature)))
    figure, axes = panels(look, len(rows), 1.75, len(rows))
    for axis, (title, points) in zip(axes, rows, strict=True):
        step = "steps-post" if title.startswith("requests") else "default"
        points = [*points, (result.seconds, points[-1][1])]  # what was last holds to the end
        axis.plot(*zip(*points, strict=True), color=OTHER.color(look), linewidth=1.8, drawstyle=step)
        _time(axis, look, result.seconds, title)
        if step == "steps-post":
            axis.set_ylim(0)
        for begun_s, said in trace.readings.charger if axis is axes[0] else ():
            axis.axvline(begun_s, color=look.faint, linewidth=1)
            if begun_s < result.seconds:
                where: dict[str, Any] = {**look.label, "fontsize": 8.5}
                axis.annotate(said, (begun_s, axis.get_ylim()[1]), (3, -6), **where)
    return png(figure, look)


def over_time(look: Look, result: TraceResult) -> bytes:
    """Right answers, power, place on the path and latency over time: a column a strategy, scales shared."""
    names = list(result.strategies)
    columns = 1 if look.narrow else 2 if len(names) == 4 else min(_BLOCK, len(names))
    blocks = -(-len(names) // columns)
    figure = look.figure(blocks * (5.6 if look.narrow else 5.9))
    grid: list[list[Axes]] = [list(row) for row in figure.subplots(4 * blocks, columns, squeeze=False)]
    limits = _limits(result)
    for place in range(blocks * columns):
        block, column = divmod(place, columns)
        axes = [grid[4 * block + row][column] for row in range(4)]
        if place >= len(names):
            for axis in axes:
                axis.set_axis_off()
            continue
        name = names[place]
        series = result.strategies[name].series
        assert series is not None
        _column(axes, look, result, name, series, limits)
    return png(figure, look)


def _column(axes: Sequence[Axes], look: Look, result: TraceResult, name: str, series: Series, limits: _Limits) -> None:
    """One strategy's four panels."""
    color, at_s = pen_of(name).color(look), series.at_s
    accuracy, power, stand, wait = axes
    outcome = result.strategies[name]
    _steps(
        accuracy,
        result.seconds,
        at_s,
        [100 * one if one is not None else None for one in series.dense_accuracy],
        look.ink,
        0.9,
        (1, 2),
    )
    _steps(
        accuracy, result.seconds, at_s, [100 * one if one is not None else None for one in series.accuracy], color, 1.8
    )
    low, high = limits.accuracy
    bad = BAD[look.dark]
    wrong = [(at, count) for at, count in zip(at_s, series.wrong_by_transition, strict=True) if count]
    missed = [
        (at, late + refused)
        for at, late, refused in zip(at_s, series.late, series.refused, strict=True)
        if late + refused
    ]
    floor = low - 0.16 * (high - low)
    for marks, shape in ((wrong, "x"), (missed, "v")):
        accuracy.plot(
            [at + result.window_s / 2 for at, _ in marks], [floor] * len(marks), shape, color=bad, markersize=5
        )
    accuracy.set_ylim(low - 0.28 * (high - low), high + 0.05 * (high - low))
    _time(accuracy, look, result.seconds, f"{name}: {outcome.harmed:,} harmed\nright answers in %")
    _steps(power, result.seconds, at_s, limits.power_of(series), color, 1.8)
    power.set_ylim(*limits.power)
    _time(power, look, result.seconds, limits.power_title)
    moments = [*series.stands, (result.seconds, series.stands[-1][1])]
    _steps(stand, result.seconds, [at for at, _ in moments], [place for _, place in moments], color, 1.8)
    stand.set_ylim(-0.3, len(result.modes) - 0.7)
    _time(stand, look, result.seconds, "mode, or place on the path")
    stand.set_yticks(range(len(result.modes)), fitted(result.modes, 24))
    _steps(wait, result.seconds, at_s, series.p99_ms, color, 1.8)
    _steps(wait, result.seconds, at_s, series.p50_ms, look.ink, 0.9, (1, 2))
    if limits.latency[0] > 0:
        wait.set_yscale("log")
        wait.yaxis.set_minor_locator(NullLocator())
    wait.set_ylim(*limits.latency)
    wait.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if limits.latency[0] < result.deadline_ms < limits.latency[1]:
        wait.axhline(result.deadline_ms, color=bad, linewidth=0.9, dashes=(4, 3))
    _time(wait, look, result.seconds, "latency in ms: p99, dotted p50")


class _Limits:
    """Scales that all strategies share, so that what is higher is more."""

    def __init__(self, result: TraceResult) -> None:
        every = [one.series for one in result.strategies.values() if one.series is not None]
        right = [
            100 * share
            for series in every
            for shares in (series.accuracy, series.dense_accuracy)
            for share in shares
            if share is not None
        ]
        self.accuracy = (min(right, default=0.0), 100.0)
        if self.accuracy[1] - self.accuracy[0] < 1:
            self.accuracy = (99.0, 100.0)
        self._watts = any(one is not None for series in every for one in series.watts)
        self.power_title = "power in W, estimated" if self._watts else "computation, % of full"
        self._dense = max((one for series in every for one in series.macs if one is not None), default=1.0)
        known = [one for series in every for one in self.power_of(series) if one is not None]
        self.power = (0.0, 1.1 * max(known, default=1.0))
        waits = [one for series in every for one in (*series.p99_ms, *series.p50_ms) if one]
        low, high = min(waits, default=0.1), max(waits, default=1.0)
        self.latency = (0.5 * low, 2 * high) if high > _WIDE * low else (0.0, 1.15 * high)

    def power_of(self, series: Series) -> Sequence[float | None]:
        """Watts where the profile lets them be estimated, else the share of the dense network's computation."""
        if self._watts:
            return series.watts
        return [None if one is None else 100 * one / self._dense for one in series.macs]


def _limits(result: TraceResult) -> _Limits:
    return _Limits(result)


def _any_series(result: TraceResult) -> Series:
    series = next(one.series for one in result.strategies.values())
    assert series is not None, "a page is made of results with their windows"
    return series


def costs(look: Look, result: TraceResult) -> bytes:
    """What each strategy cost, as bars side by side."""
    names = list(result.strategies)
    outcomes = list(result.strategies.values())
    rows: tuple[tuple[str, list[float], str], ...] = (
        ("requests harmed", [one.harmed for one in outcomes], "{:,.0f}"),
        ("kB written", [one.bytes_written / 1e3 for one in outcomes], "{:,.0f}"),
        ("kB of weights\nheld at once", [one.peak_weight_bytes / 1e3 for one in outcomes], "{:,.0f}"),
        ("seconds with a\nswitch under way", [one.walking_s for one in outcomes], "{:,.1f}"),
    )
    figure, axes = panels(look, len(rows), 0.34 * len(names) + 0.8, len(rows))
    for axis, (title, values, form) in zip(axes, rows, strict=True):
        axis.set_yticks(range(len(names)), names if look.narrow or axis is axes[0] else [""] * len(names))
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xticks([])
        frame(axis, look, title)
        axis.spines["bottom"].set_visible(False)
        bars = axis.barh(range(len(values)), values, color=[pen_of(name).color(look) for name in names], height=0.64)
        axis.bar_label(bars, [form.format(value) for value in values], padding=3, **look.words)
        axis.set_xlim(0, 1.45 * max(*values, 1e-9))
    return png(figure, look)


def _steps(
    axis: Axes, until_s: float, at_s: Sequence[float], values: Sequence[float | None], color: str, width: float,
    dashes: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    known = [float("nan") if value is None else value for value in values]
    at_s, known = [*at_s, until_s], [*known, known[-1]]
    style = "-" if dashes is None else (0, dashes)
    axis.plot(at_s, known, color=color, linewidth=width, linestyle=style, drawstyle="steps-post")


def _time(axis: Axes, look: Look, seconds: float, title: str) -> None:
    axis.set_xlim(0, seconds)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 3, 5, 6, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10])) if axis.get_yscale() != "log" else None
    axis.grid(color=look.faint, linewidth=0.6)
    frame(axis, look, title)
