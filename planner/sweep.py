"""Removals of units from one layer's normal equations, one after the other, on one inverse.

With A = G + δD (D = 1 on weight columns, 0 on the bias), B = C + δ W₀ D,
P = A⁻¹ and W = B P, forcing a unit's columns β to zero costs exactly tr(W_β P_ββ⁻¹ W_βᵀ), and leaves

    P ← P − v vᵀ,   W ← W − q vᵀ,   v = P_β L⁻ᵀ,   q = W_β L⁻ᵀ,   L Lᵀ = P_ββ.

The cost needs only H = WᵀW, not W, so the rows drop out: y = Wᵀq − ½ v qᵀq gives H ← H − v yᵀ − y vᵀ. P and H stay as
they were factored; v and y are stacked, and a step works out only the columns it needs. The loop thus takes some
columns × (removed columns)² multiplications, fewer than the factorisation before it, whatever the number of rows.
The columns of other layers' units, where the layer reads a concatenation, stay throughout; only the error needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from planner.gram import CompensationError, Statistics, relative

# Of 1e-8 to 1e-1, the one whose held-out error was within 1.5 times the best in all of 24 cases: six removals from each
# of two digits networks, fitted on 60 or on 1,200 images. At 1e-1 a ridge towards zero has up to 2.9 times the error.
DAMPING = 1e-3


@dataclass(frozen=True)
class Reading:
    """How one layer reads the units that are to be removed.

    Attributes:
        stats: Its second moments.
        columns: Its weight columns that belong to each unit, int64 [units, columns per unit].
        others: Its weight columns that belong to none of them and stay, int64 [any].
    """

    stats: Statistics
    columns: Tensor
    others: Tensor


class System:
    """The normal equations W A = B on some of the columns."""

    def __init__(self, stats: Statistics, columns: Tensor, damping: float, original: Tensor) -> None:
        weights = stats.gram.diagonal()[: stats.columns]
        # Columns that are all dead leave no scale to measure δ by; any positive one then keeps W₀.
        self.delta = damping * (float(weights.mean()) or 1.0)
        ridge = torch.full((len(columns),), self.delta, dtype=torch.float64, device=stats.gram.device)
        ridge[columns >= stats.columns] = 0.0
        self.original = original[:, columns]
        self.right = stats.cross[:, columns] + self.original * ridge
        left = stats.gram[columns[:, None], columns]
        left.diagonal().add_(ridge)
        self.factor, info = torch.linalg.cholesky_ex(left)
        if int(info):
            raise CompensationError(
                f"the inputs of layer {stats.layer!r} are linearly dependent and damping is {damping:g}; expected a "
                f"positive damping: try {max(10 * damping, DAMPING):g}"
            )


class Sweep:
    """Removals from one factorisation, until half its units are gone: a fresh one is cheaper then, and exact."""

    def __init__(self, reading: Reading, units: Sequence[int], damping: float) -> None:
        stats = self.stats = reading.stats
        self.units = list(units)
        self.width = width = reading.columns.shape[1]
        weights = torch.cat([reading.columns[self.units].flatten(), reading.others])  # the units' columns come first
        columns = with_bias(stats, weights)
        system = System(stats, columns, damping, stats.original)
        size = len(weights)  # the bias bears no ridge and is never removed: its row of P, H and F is never read
        # Two triangular solves; cholesky_inverse does the same at less than half the speed.
        inverse = torch.cholesky_solve(torch.eye(len(columns)).to(system.factor), system.factor)
        rows = system.right @ inverse
        self.delta = system.delta
        self.fit = float((system.right * rows).sum())  # ⟨B, W⟩
        rows, original = rows[:, :size], system.original[:, :size]
        self.inverse = inverse[:size, :size]  # P
        self.products = rows.T @ rows  # H = WᵀW
        self.overlap = rows.T @ original  # F = WᵀW₀
        self.overlap_trace = float(self.overlap.diagonal().sum())
        self.own = len(units) * width
        self.others_norm = float(self.products.diagonal()[self.own :].sum())
        self.inverse_blocks = _diagonal_blocks(self.inverse[: self.own, : self.own], width)
        self.product_blocks = _diagonal_blocks(self.products[: self.own, : self.own], width)
        self.factors = self.inverse_blocks  # of the blocks as they stand, from the last `costs`
        self.last_costs = torch.empty(0)
        self.present = torch.ones(len(units), dtype=torch.bool, device=rows.device)
        self.room = max(1, len(units) // 2) * width
        self.v, self.y, self.r = (rows.new_empty(size, self.room) for _ in range(3))
        self.used = 0

    @property
    def spent(self) -> bool:
        """Whether no more units can be removed on this inverse."""
        return self.used == self.room

    @property
    def power(self) -> float:
        """Mean |z|², or 1 where z vanishes: the unit of a relative error."""
        return float(self.stats.power.sum()) or 1.0

    def error(self) -> float:
        """Relative error without the ridge: mean |z|² − ⟨B,W⟩ + 2δ⟨W₀,W⟩ − δ|W|², by the normal equations."""
        norm = float(self.product_blocks[self.present].diagonal(dim1=1, dim2=2).sum()) + self.others_norm
        squares = float(self.stats.power.sum()) - self.fit + self.delta * (2 * self.overlap_trace - norm)
        return relative(squares, self.stats)

    def costs(self) -> Tensor | None:
        """What the loss of each unit costs, inf for those gone; None, and spent, if rounding has spoilt the blocks."""
        if self.width == 1:  # the same in numbers instead of blocks, several times as fast
            self.factors = self.inverse_blocks.sqrt()
            costs = (self.product_blocks / self.inverse_blocks)[:, 0, 0]
            failed = ~(self.inverse_blocks[:, 0, 0] > 0)
        else:
            self.factors, info = torch.linalg.cholesky_ex(self.inverse_blocks)
            costs = torch.cholesky_solve(self.product_blocks, self.factors).diagonal(dim1=1, dim2=2).sum(1)
            failed = info != 0
        if bool((self.present & (failed | ~costs.isfinite())).any()):
            if not self.used:
                raise CompensationError(
                    f"the inputs of layer {self.stats.layer!r} are too nearly dependent; increase the damping"
                )
            self.used = self.room
            return None
        self.last_costs = costs.masked_fill(~self.present, torch.inf)
        return self.last_costs

    def remove(self, place: int) -> None:
        """Remove the unit at a place of `units`; `costs` was called since the last removal."""
        factor = self.factors[place]
        self.fit -= float(self.last_costs[place])
        used, width = self.used, self.width
        at = slice(place * width, (place + 1) * width)
        v_past, y_past, r_past = self.v[:, :used], self.y[:, :used], self.r[:, :used]
        # Columns of P and H, and rows of F, as the removals so far have left them.
        inverse = self.inverse[:, at] - v_past @ v_past[at].T
        products = self.products[:, at] - y_past @ v_past[at].T - v_past @ y_past[at].T
        overlap = self.overlap[at] - v_past[at] @ r_past.T
        v = _right_solve(inverse, factor)
        wq = _right_solve(products, factor)  # Wᵀq
        qq = torch.linalg.solve_triangular(factor, wq[at], upper=False)  # qᵀq
        y = wq - 0.5 * v @ qq
        r = torch.linalg.solve_triangular(factor, overlap, upper=False).T  # W₀ᵀq
        self.overlap_trace -= float((v * r).sum())
        self.others_norm -= 2 * float((v[self.own :] * y[self.own :]).sum())
        new = slice(used, used + width)
        self.v[:, new], self.y[:, new], self.r[:, new] = v, y, r
        self.used += width
        self.present[place] = False
        by_unit, y_by_unit = (one[: self.own].view(-1, width, width) for one in (v, y))
        self.inverse_blocks -= by_unit @ by_unit.mT
        cross = y_by_unit @ by_unit.mT
        self.product_blocks -= cross + cross.mT
        # A removed unit's blocks are rounding noise from here on; the identity keeps the batched factorisation sound.
        self.inverse_blocks[place] = torch.eye(width, dtype=v.dtype, device=v.device)


def with_bias(stats: Statistics, weights: Tensor) -> Tensor:
    """Weight columns and, if there is one, the bias column."""
    return torch.cat([weights, weights.new_full((1,), stats.columns)]) if stats.bias else weights


def _diagonal_blocks(matrix: Tensor, width: int) -> Tensor:
    """The diagonal blocks of a square matrix, shape [units, width, width]; a copy."""
    blocks = matrix.unflatten(1, (-1, width)).unflatten(0, (-1, width))  # [unit, row, unit, column]
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()


def _right_solve(left: Tensor, factor: Tensor) -> Tensor:
    """X with X Lᵀ = left, for lower triangular L."""
    return torch.linalg.solve_triangular(factor.mT, left, upper=True, left=False)
