"""Which units to remove, and how the layers that read them make up for it: least squares on one inverse a layer.

Removing units sets columns of a reader's rows W to zero; the other columns and the bias are refitted so that the
reader's pre-activations stay as near to the dense network's as they can:

    minimise  mean |z − W ã|² + δ |W − W₀|²   over W with zeros in the removed units' columns.

**Why a ridge, and why towards W₀.** G = mean ã ãᵀ is singular as soon as a unit is dead or two units agree. A ridge
towards zero would shrink directions that the calibration inputs happen not to excite, even with nothing removed; one
towards the dense rows W₀ leaves them as they were trained, and with nothing removed it returns W₀ itself. The bias
bears no ridge: its entry of G is 1, and taking over a removed unit's mean is exactly its part.

Units are removed one by one, each time the one whose loss costs least after the refit; `planner.sweep` has the algebra.
Where several layers read a unit, its cost is the sum over all of them.

Reference:
    Hassibi & Stork, "Optimal brain surgeon", 1993, for removal on one inverse; here in blocks, per layer, on
    pre-activations, and with a linear term for inputs that have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from planner.gram import CompensationError, Statistics
from planner.sweep import DAMPING, Reading, Sweep, System, with_bias


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
    return refit_columns(
        stats, _columns(stats, sorted(set(kept)), columns_per_unit), damping=damping, original=original
    )


def refit_columns(
    stats: Statistics, present: Tensor, *, damping: float = DAMPING, original: Tensor | None = None
) -> Tensor:
    """The same for a layer that reads several others: the columns that stay are given one by one.

    Args:
        stats: Second moments of the reader.
        present: Weight columns that stay, int64 [any], each once.
        damping: As in `refit`.
        original: As in `refit`.

    Returns:
        Rows, weights then bias, float64 [rows, n]; exactly 0 in all other columns.
    """
    columns = with_bias(stats, present)
    system = System(stats, columns, damping, stats.original if original is None else original.double())
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
    columns = torch.arange(stats.columns, device=stats.gram.device).view(units, columns_per_unit)
    reading = Reading(stats, columns, columns.new_empty(0))
    return eliminate_jointly([reading], remove, damping=damping, start_kept=start_kept, limit=limit)


def eliminate_jointly(
    readings: Sequence[Reading],
    remove: int,
    *,
    damping: float = DAMPING,
    start_kept: Collection[int] | None = None,
    limit: float | None = None,
) -> Elimination:
    """Remove units that several layers read, each time the one whose loss costs least in all of them together.

    Each layer's error counts relative to its own mean |z|², so that none weighs more for its scale.

    Args:
        readings: The layers that read the units, at least one.
        remove: How many units to remove.
        damping: As in `refit`.
        start_kept: Units present at the start, all by default.
        limit: Stop before the sum of the relative errors passes this.

    Returns:
        The order and the sums of the relative errors.

    Raises:
        CompensationError: fewer than `remove` units are there, or a system is singular.
    """
    units = len(readings[0].columns)
    start = tuple(sorted(set(range(units) if start_kept is None else start_kept)))
    if not 0 <= remove <= len(start):
        named = ", ".join(repr(reading.stats.layer) for reading in readings)
        raise CompensationError(
            f"cannot remove {remove} units before layer {named}: {len(start)} are there; ask for fewer"
        )
    sweeps = [Sweep(reading, start, damping) for reading in readings]
    order: list[int] = []
    errors: list[float] = []
    start_error = sum(sweep.error() for sweep in sweeps)
    while len(order) < remove:
        if any(sweep.spent for sweep in sweeps):
            present = [unit for unit in start if unit not in set(order)]
            sweeps = [Sweep(reading, present, damping) for reading in readings]
        unit = _remove_cheapest(sweeps)
        if unit is None:
            continue
        error = sum(sweep.error() for sweep in sweeps)
        if limit is not None and error > limit:
            break
        order.append(unit)
        errors.append(error)
    return Elimination(start, tuple(order), start_error, tuple(errors))


def _remove_cheapest(sweeps: Sequence[Sweep]) -> int | None:
    """Remove the unit that costs least over all layers; None if rounding has spent a sweep, and all are made anew."""
    costs = [sweep.costs() for sweep in sweeps]
    total = torch.zeros(())
    for cost, sweep in zip(costs, sweeps, strict=True):
        if cost is None:
            return None
        # One layer's costs are compared as they are: a division might make equals of two.
        total = cost if len(sweeps) == 1 else total + cost / sweep.power
    place = int((total == total.min()).nonzero()[0])  # the first of equals, so that the order is determined
    for sweep in sweeps:
        sweep.remove(place)
    return sweeps[0].units[place]


def _columns(stats: Statistics, units: Sequence[int], width: int) -> Tensor:
    """Weight columns of some units, ascending."""
    total = stats.columns // width
    if units and not 0 <= units[0] <= units[-1] < total:
        raise CompensationError(
            f"units {units[0]} to {units[-1]} are to stay before layer {stats.layer!r}; expected 0 to {total - 1}"
        )
    first = torch.tensor(units, dtype=torch.long, device=stats.gram.device) * width
    return (first[:, None] + torch.arange(width, device=first.device)).flatten()
