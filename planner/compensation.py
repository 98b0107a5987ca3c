"""Which units to remove, and how the layer that reads them makes up for it: least squares on one inverse.

Removing units sets columns of their reader's rows W to zero; the other columns and the bias are refitted so that the
reader's pre-activations stay as near to the dense network's as they can:

    minimise  mean |z − W ã|² + δ |W − W₀|²   over W with zeros in the removed units' columns.

**Why a ridge, and why towards W₀.** G = mean ã ãᵀ is singular as soon as a unit is dead or two units agree. A ridge
towards zero would shrink directions that the calibration inputs happen not to excite, even with nothing removed; one
towards the dense rows W₀ leaves them as they were trained, and with nothing removed it returns W₀ itself. The bias
bears no ridge: its entry of G is 1, and taking over a removed unit's mean is exactly its part.

**Elimination by error after the refit.** With A = G + δD (D = 1 on weight columns, 0 on the bias), B = C + δ W₀ D,
P = A⁻¹ and W = B P, forcing a unit's columns β to zero costs exactly tr(W_β P_ββ⁻¹ W_βᵀ), and leaves

    P ← P − v vᵀ,   W ← W − q vᵀ,   v = P_β L⁻ᵀ,   q = W_β L⁻ᵀ,   L Lᵀ = P_ββ.

The cost needs only H = WᵀW, not W, so the rows drop out: y = Wᵀq − ½ v qᵀq gives H ← H − v yᵀ − y vᵀ. P and H stay as
they were factored; v and y are stacked, and a step works out only the columns it needs. The loop thus takes some
columns × (removed columns)² multiplications, fewer than the factorisation before it, whatever the number of rows.

Reference:
    Hassibi & Stork, "Optimal brain surgeon", 1993, for removal on one inverse; here in blocks, per layer, on
    pre-activations, and with a linear term for inputs that have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from planner.gram import CompensationError, Statistics, relative

# Of 1e-8 to 1e-1, the one whose held-out error was within 1.5 times the best in all of 24 cases: six removals from each
# of two digits networks, fitted on 60 or on 1,200 images. At 1e-1 a ridge towards zero has up to 2.9 times the error.
DAMPING = 1e-3


@dataclass(frozen=True)
class Elimination:
    """Units in the order in which they are removed; every prefix is a set to stop at, so the sets are nested.

    Attributes:
        start: Units present before the first removal.
        order: Removed units, the first removed first.
        start_error: Relative pre-activation error before the first removal, after a refit.
        errors: The same after each removal.
    """

    start: tuple[int, ...]
    order: tuple[int, ...]
    start_error: float
    errors: tuple[float, ...]

    def kept(self, removed: int) -> tuple[int, ...]:
        """The units present after the first `removed` removals, ascending."""
        gone = set(self.order[:removed])
        return tuple(unit for unit in self.start if unit not in gone)


def refit(
    stats: Statistics,
    kept: Collection[int],
    columns_per_unit: int,
    *,
    damping: float = DAMPING,
    original: Tensor | None = None,
) -> Tensor:
    """The reader's rows that make up best for the units that are gone.

    Args:
        stats: Second moments of the reader.
        kept: Units that stay.
        columns_per_unit: The reader's contiguous columns per unit.
        damping: δ in units of the mean squared input of a weight column.
        original: Rows to stay near, shape [rows, n]; the dense ones by default.

    Returns:
        Rows, weights then bias, float64 [rows, n]; exactly 0 in the columns of units that are gone.

    Raises:
        CompensationError: a unit does not exist, or the system is singular.
    """
    columns = _columns(stats, sorted(set(kept)), columns_per_unit)
    system = _System(stats, columns, damping, stats.original if original is None else original.double())
    rows = torch.zeros_like(stats.cross)
    rows[:, columns] = torch.cholesky_solve(system.right.T, system.factor).T
    return rows


def eliminate(
    stats: Statistics,
    columns_per_unit: int,
    units: int,
    remove: int,
    *,
    damping: float = DAMPING,
    start_kept: Collection[int] | None = None,
    limit: float | None = None,
) -> Elimination:
    """Remove units one by one, each time the one whose loss costs least after the refit.

    Args:
        stats: Second moments of the layer that reads the units.
        columns_per_unit: The reader's contiguous columns per unit.
        units: Units of the dense layer.
        remove: How many to remove.
        damping: As in `refit`.
        start_kept: Units present at the start, all by default.
        limit: Stop before the relative error passes this.

    Returns:
        The order and the errors; shorter than `remove` only where `limit` stops it.

    Raises:
        CompensationError: fewer than `remove` units are there, or the system is singular.
    """
    if units * columns_per_unit != stats.columns:
        raise CompensationError(
            f"layer {stats.layer!r} has {stats.columns} columns; expected {units} units × {columns_per_unit} columns"
        )
    start = tuple(sorted(set(range(units) if start_kept is None else start_kept)))
    if not 0 <= remove <= len(start):
        raise CompensationError(
            f"cannot remove {remove} units before layer {stats.layer!r}: {len(start)} are there; ask for fewer"
        )
    sweep = _Sweep(stats, start, columns_per_unit, damping)
    start_error, order, errors = sweep.error(), [], []
    while len(order) < remove:
        if sweep.spent:
            gone = set(order)
            sweep = _Sweep(stats, [unit for unit in start if unit not in gone], columns_per_unit, damping)
        unit = sweep.remove_cheapest()
        if unit is None:
            continue
        if limit is not None and sweep.error() > limit:
            break
        order.append(unit)
        errors.append(sweep.error())
    return Elimination(start, tuple(order), start_error, tuple(errors))


class _System:
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


class _Sweep:
    """Removals from one factorisation, until half its units are gone: a fresh one is cheaper then, and exact."""

    def __init__(self, stats: Statistics, units: Sequence[int], width: int, damping: float) -> None:
        self.stats = stats
        self.units = list(units)
        self.width = width
        columns = _columns(stats, self.units, width)
        system = _System(stats, columns, damping, stats.original)
        size = len(units) * width  # the bias is never removed: its row of P, H and F is never read
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
        self.inverse_blocks = _diagonal_blocks(self.inverse, width)
        self.product_blocks = _diagonal_blocks(self.products, width)
        self.present = torch.ones(len(units), dtype=torch.bool, device=rows.device)
        self.room = max(1, len(units) // 2) * width
        self.v, self.y, self.r = (rows.new_empty(size, self.room) for _ in range(3))
        self.used = 0

    @property
    def spent(self) -> bool:
        return self.used == self.room

    def error(self) -> float:
        """Relative error without the ridge: mean |z|² − ⟨B,W⟩ + 2δ⟨W₀,W⟩ − δ|W|², by the normal equations."""
        norm = float(self.product_blocks[self.present].diagonal(dim1=1, dim2=2).sum())
        squares = float(self.stats.power.sum()) - self.fit + self.delta * (2 * self.overlap_trace - norm)
        return relative(squares, self.stats)

    def remove_cheapest(self) -> int | None:
        """Remove the unit whose loss costs least; None, and spent, if rounding has made the blocks unusable."""
        if self.width == 1:  # the same in numbers instead of blocks, several times as fast
            factors = self.inverse_blocks.sqrt()
            costs = (self.product_blocks / self.inverse_blocks)[:, 0, 0]
            failed = ~(self.inverse_blocks[:, 0, 0] > 0)
        else:
            factors, info = torch.linalg.cholesky_ex(self.inverse_blocks)
            costs = torch.cholesky_solve(self.product_blocks, factors).diagonal(dim1=1, dim2=2).sum(1)
            failed = info != 0
        if bool((self.present & (failed | ~costs.isfinite())).any()):
            if not self.used:
                raise CompensationError(
                    f"the inputs of layer {self.stats.layer!r} are too nearly dependent; increase the damping"
                )
            self.used = self.room
            return None
        costs = costs.masked_fill(~self.present, torch.inf)
        place = int((costs == costs.min()).nonzero()[0])  # the first of equals, so that the order is determined
        self._remove(place, factors[place])
        self.fit -= float(costs[place])
        return self.units[place]

    def _remove(self, place: int, factor: Tensor) -> None:
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
        new = slice(used, used + width)
        self.v[:, new], self.y[:, new], self.r[:, new] = v, y, r
        self.used += width
        self.present[place] = False
        by_unit, y_by_unit = v.view(-1, width, width), y.view(-1, width, width)
        self.inverse_blocks -= by_unit @ by_unit.mT
        cross = y_by_unit @ by_unit.mT
        self.product_blocks -= cross + cross.mT
        # A removed unit's blocks are rounding noise from here on; the identity keeps the batched factorisation sound.
        self.inverse_blocks[place] = torch.eye(width, dtype=v.dtype, device=v.device)


def _columns(stats: Statistics, units: Sequence[int], width: int) -> Tensor:
    """Columns of some units, ascending, and the bias column if there is one."""
    total = stats.columns // width
    if units and not 0 <= units[0] <= units[-1] < total:
        raise CompensationError(
            f"units {units[0]} to {units[-1]} are to stay before layer {stats.layer!r}; expected 0 to {total - 1}"
        )
    first = torch.tensor(units, dtype=torch.long, device=stats.gram.device) * width
    columns = (first[:, None] + torch.arange(width, device=first.device)).flatten()
    return torch.cat([columns, columns.new_full((1,), stats.columns)]) if stats.bias else columns


def _diagonal_blocks(matrix: Tensor, width: int) -> Tensor:
    """The diagonal blocks of a square matrix, shape [units, width, width]; a copy."""
    blocks = matrix.unflatten(1, (-1, width)).unflatten(0, (-1, width))  # [unit, row, unit, column]
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()


def _right_solve(left: Tensor, factor: Tensor) -> Tensor:
    """X with X Lᵀ = left, for lower triangular L."""
    return torch.linalg.solve_triangular(factor.mT, left, upper=True, left=False)
