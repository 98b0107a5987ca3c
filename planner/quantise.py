"""Rounds rows to a device's grid so that what they compute changes least: by the metric, not to the nearest value.

With G = mean ã ãᵀ over what a layer will really read (`planner.gram`) and W the rows wanted, moving to Q costs

    mean |(Q − W) ã|² = tr (Q − W) G (Q − W)ᵀ.

Values are rounded column by column; what each loses, the columns not yet rounded make up for. Then single values step
to where the whole error is least, and the scale follows in closed form; both only lower it. The bias is 32 bits wide
and free: it takes its best value for whatever the weights are, and drops out of G as a Schur complement.

Reference:
    Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", 2023, for the
    rounding; Hassibi & Stork, "Optimal brain surgeon", 1993, for what the other columns do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from runtime.plan.grid import LARGEST_SCALE, SMALLEST_SCALE, Grid

FACTORS = tuple(0.2 * 5 ** (step / 11) for step in range(12))
"""Scales tried for a row, in terms of the one that just reaches its largest weight. On 2 bits the best of LeNet-5's lie
between 0.3 and 0.8, on 8 near 1."""
OCTAVES = 4
"""Powers of two tried for a row, from the least that reaches its largest weight downwards: the same range as that."""
ROUNDS = 2
"""Turns of stepping and of the scale following. Each lowers the error; the first by most."""
SWEEPS = 4
"""Times that each value may step in one turn, at most; it ends when none does."""
BLOCK = 128
"""Columns whose effect on those behind them is worked out at once, as in GPTQ: memory is passed over less often."""

LARGEST_HALF = 65504.0
"""Of float16."""

Rounding = Callable[["Part", Tensor, Grid], Tensor]
"""Given rows and the scale of each: the same rows on the grid."""


@dataclass(frozen=True)
class Part:
    """Rows of a layer that read the same inputs.

    Attributes:
        units: Which rows, R of them.
        wanted: Weights that would compute what is wanted, float64 [R, columns].
        metric: What a deviation costs, positive definite, float64 [columns, columns].
        zero: Weights that have to be zero, bool [R, columns].
    """

    units: tuple[int, ...]
    wanted: Tensor
    metric: Tensor
    zero: Tensor

    @cached_property
    def order(self) -> Tensor:
        """Columns, the dearest first: they are rounded while the most others can make up for them."""
        return self.metric.diagonal().argsort(descending=True, stable=True)

    @cached_property
    def upper(self) -> Tensor:
        """U with UᵀU the inverse of the metric, columns in ``order``."""
        metric = self.metric[self.order[:, None], self.order]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(metric))
        return torch.linalg.cholesky(inverse, upper=True)

    def error(self, rows: Tensor) -> Tensor:
        """Mean squared change of what each row computes, [R]."""
        away = rows - self.wanted
        return ((away @ self.metric) * away).sum(1)


@dataclass(frozen=True)
class Rounded:
    """Rows on the grid.

    Attributes:
        scales: Scale of each unit, float32 [units]; all equal where the layer has one; all 1 without codes.
        rows: For each part, its weights in scales where there are codes, else as they are; float64 [R, columns].
    """

    scales: Tensor
    rows: tuple[Tensor, ...]


def round_layer(parts: Sequence[Part], units: int, grid: Grid, *, rounding: Rounding | None = None) -> Rounded:
    """Round all versions of a layer's rows to the grid, one scale for all versions of a row.

    Args:
        parts: Every version of every row; a row may come in several parts.
        units: Rows of the layer.
        grid: The grid; not float32.
        rounding: How; by the metric if None, which then also lets values step and scales follow.
    """
    by = rounding or by_metric
    if not grid.coded:
        ones = torch.ones(units, dtype=torch.float64)
        rows = [by(part, ones[list(part.units)], grid) for part in parts]
        if rounding is None:
            rows = [_stepped(part, own, ones, grid) for part, own in zip(parts, rows, strict=True)]
        return Rounded(ones.float(), tuple(rows))
    scales = _searched(parts, units, grid, by)
    rows = [by(part, scales[list(part.units)], grid) for part in parts]
    if rounding is None:
        for _ in range(ROUNDS):
            rows = [_stepped(part, own, scales, grid) for part, own in zip(parts, rows, strict=True)]
            followed = _followed(parts, rows, scales, grid)
            rows = [
                own / scales[list(part.units), None] * followed[list(part.units), None]
                for part, own in zip(parts, rows, strict=True)
            ]
            scales = followed
        rows = [_stepped(part, own, scales, grid) for part, own in zip(parts, rows, strict=True)]
    codes = [(own / scales[list(part.units), None]).round() for part, own in zip(parts, rows, strict=True)]
    return Rounded(scales.float(), tuple(codes))


def nearest(part: Part, scales: Tensor, grid: Grid) -> Tensor:
    """Each value rounded to the nearest on the grid, for comparison: what the others lose is not made up for."""
    return _nearest(part.wanted, scales[:, None], grid).masked_fill(part.zero, 0.0)


def compensated(part: Part, scales: Tensor, grid: Grid) -> Tensor:
    """Values rounded one column after the other, each error made up for by the columns behind.

    Args:
        part: The rows.
        scales: Scale of each of its rows, float64 [R].
        grid: The grid.
    """
    order, upper = part.order, part.upper
    columns = part.wanted.T[order].contiguous()  # [columns, R], so that a column lies side by side in memory
    zero = part.zero.T[order].contiguous()
    for begin in range(0, len(columns), BLOCK):
        end = min(begin + BLOCK, len(columns))
        lost = columns.new_zeros(end - begin, columns.shape[1])
        for at in range(begin, end):
            value = _nearest(columns[at], scales, grid).masked_fill(zero[at], 0.0)
            torch.div(columns[at] - value, upper[at, at], out=lost[at - begin])
            columns[at + 1 : end].addr_(upper[at, at + 1 : end], lost[at - begin], alpha=-1)
            columns[at] = value
        columns[end:] -= upper[begin:end, end:].T @ lost
    found = torch.empty_like(columns)
    found[order] = columns
    return found.T.contiguous()


def by_metric(part: Part, scales: Tensor, grid: Grid) -> Tensor:
    """Each row compensated, or to the nearest where that costs less, as it may where many weights have to be zero."""
    made_up, plain = compensated(part, scales, grid), nearest(part, scales, grid)
    return made_up.where((part.error(made_up) <= part.error(plain))[:, None], plain)


def _stepped(part: Part, rows: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """Single values moved to the best on the grid, given all others, until none moves: never a larger error."""
    own, metric, diagonal = scales[list(part.units)], part.metric, part.metric.diagonal()
    columns, wanted, zero = rows.T.contiguous(), part.wanted.T, part.zero.T.contiguous()  # [columns, R]
    slope = metric @ (columns - wanted)
    for _ in range(SWEEPS):
        before = columns.clone()
        for begin in range(0, len(columns), BLOCK):
            end = min(begin + BLOCK, len(columns))
            for at in range(begin, end):
                aim = columns[at] - slope[at] / diagonal[at]
                value = _nearest(aim, own, grid).masked_fill(zero[at], 0.0)
                # A step to an equal distance on the other side gains nothing, and could go on forever.
                gains = (aim - value).abs() < (aim - columns[at]).abs() * (1 - 1e-9)
                step = (value - columns[at]).where(gains, torch.zeros_like(value))
                slope[at + 1 : end].addr_(metric[at, at + 1 : end], step)
                columns[at] = value.where(gains, columns[at])
            slope[end:] += metric[end:, begin:end] @ (columns - before)[begin:end]
        if torch.equal(columns, before):
            break
        slope = metric @ (columns - wanted)
    return columns.T.contiguous()


def _searched(parts: Sequence[Part], units: int, grid: Grid, rounding: Rounding) -> Tensor:
    """The scale of each row at which rounding costs least over all its versions, float64 [units], float32 values."""
    largest = torch.zeros(units, dtype=torch.float64)
    for part in parts:
        reach = part.wanted.abs().amax(1) if part.wanted.shape[1] else largest.new_zeros(len(part.units))
        largest[list(part.units)] = torch.maximum(largest[list(part.units)], reach)
    if grid.scale == "layer":
        largest[:] = largest.max()
    full = torch.where(largest > 0, largest / grid.largest_code, torch.ones_like(largest))
    best = torch.full((units,), torch.inf, dtype=torch.float64)
    found = full.clone()
    for scales in _tried(full, grid):
        cost = torch.zeros(units, dtype=torch.float64)
        for part in parts:
            own = list(part.units)
            cost[own] += part.error(rounding(part, scales[own], grid))
        if grid.scale == "layer":
            cost[:] = cost.sum()
        better = cost < best
        best, found = torch.where(better, cost, best), torch.where(better, scales, found)
    return found


def _tried(full: Tensor, grid: Grid) -> Iterator[Tensor]:
    """Scales to try, given those that just reach each row's largest weight; float64, float32 values."""
    if grid.scales == "powers-of-two":
        least = torch.exp2(full.log2().ceil())
        for step in range(OCTAVES):
            yield _as_float32(least * 0.5**step)
    else:
        for factor in FACTORS:
            yield _as_float32(full * factor)


def _followed(parts: Sequence[Part], rows: Sequence[Tensor], scales: Tensor, grid: Grid) -> Tensor:
    """The scales at which the codes that there are cost least: least squares in one number for each row.

    Where they have to be powers of two, the search has tried those that are near, and they stay.
    """
    if grid.scales == "powers-of-two":
        return scales
    above, below = torch.zeros_like(scales), torch.zeros_like(scales)
    for part, own in zip(parts, rows, strict=True):
        at = list(part.units)
        codes = own / scales[at, None]
        read = codes @ part.metric
        above[at] += (read * part.wanted).sum(1)
        below[at] += (read * codes).sum(1)
    if grid.scale == "layer":
        above[:], below[:] = above.sum(), below.sum()
    usable = (below > 0) & (above > 0)
    return _as_float32(torch.where(usable, above / torch.where(usable, below, torch.ones_like(below)), scales))


def _as_float32(scales: Tensor) -> Tensor:
    """Scales that a bundle can hold, in float64."""
    return scales.clamp(SMALLEST_SCALE, LARGEST_SCALE).float().double()


def _nearest(values: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """Nearest value on the grid; scales of a shape that goes with the values'."""
    if not grid.coded:
        return values.clamp(-LARGEST_HALF, LARGEST_HALF).half().double()
    return (values / scales).round().clamp(-grid.largest_code, grid.largest_code) * scales
