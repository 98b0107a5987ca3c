"""Paths that correct their drift: some coordinates are led, the others make up for it.

Eq. (5) trades progress against functional change by β and lets both drift. Here the progress is prescribed: the
*led* coordinates, such as the weights of removed units, go from the start to the stop in equal shares. At each share
the *free* ones are solved for, so that the outputs come back to what they were at the start:

    minimise  mean |f(w) − f(w_0)|² + δ |w_free − guess|²   over w_free,

by Gauss-Newton steps (g_ff + δ I) d = −(Jᵀr/N + δ (w_free − guess))_f, each a tangent problem of `tangent.solve` within
a trust region. δ is needed: with fewer outputs than weights the probes could be met in many ways, and δ asks for the
one next to the guess, which is what changes least for inputs that are no probes.

Reference:
    Nocedal & Wright, "Numerical Optimization", 2006, ch. 10.3 for Gauss-Newton in a trust region; Allgower & Georg,
    "Numerical Continuation Methods", 1990, for prediction and correction along a path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from planner.geodesic import Metric, PathError, check_alike
from planner.metric import LocalMetric
from planner.tangent import solve

# A rejected step is tried again at a quarter of its length, so often at most.
_SHRINKS = 4


class CorrectionStatus(Enum):
    """How a correction ended; the value says what to do."""

    CONVERGED = "no step promises to lower the drift by more than the tolerance"
    MAX_STEPS = "the steps ran out while the drift was still falling: allow more, or lead in smaller shares"
    STALLED = (
        "no step along the Gauss-Newton direction lowers the drift: raise the damping, lead in smaller shares, or use "
        "float64 probe inputs"
    )


@dataclass(frozen=True)
class Correction:
    """A point brought back towards given outputs.

    Attributes:
        point: w, shape [n]; its led coordinates are those of the point given.
        status: How it ended.
        drift_before: (Mean over probes of |f − target|²)^½ at the point given.
        drift_after: The same at `point`; the sum of its square and the damping term never grows.
        steps: Gauss-Newton steps that were taken.
    """

    point: Tensor
    status: CorrectionStatus
    drift_before: float
    drift_after: float
    steps: int


@dataclass(frozen=True)
class CorrectedPath:
    """A path along which the led coordinates go straight and the free ones correct the drift.

    Attributes:
        points: w_0 … w_K, each [n]; the first is the start, the last the stop, or where the correction of it came to.
        corrections: One for each corrected waypoint, in order.
    """

    points: tuple[Tensor, ...]
    corrections: tuple[Correction, ...]

    @property
    def status(self) -> CorrectionStatus:
        """The worst of the waypoints' statuses."""
        order = list(CorrectionStatus)
        return max((one.status for one in self.corrections), key=order.index, default=CorrectionStatus.CONVERGED)


def led_coordinates(start: Tensor, stop: Tensor) -> Tensor:
    """What a sparsification or a restore prescribes: the coordinates that are zero at either end, bool [n].

    Those that are zero at both are led too, and so stay zero.
    """
    return (start == 0) | (stop == 0)


def correct(
    metric: Metric,
    point: Tensor,
    target: Tensor,
    free: Tensor,
    *,
    damping: float,
    max_steps: int = 3,
    tolerance: float = 1e-2,
    max_iterations: int = 30,
) -> Correction:
    """Move the free coordinates of a point so that its outputs come back to given ones.

    Args:
        metric: Pullback metric.
        point: Where to begin, and the guess that δ holds on to, shape [n].
        target: Outputs to come back to, shape [N, m].
        free: Coordinates that may move, bool [n].
        damping: δ > 0, in squared output units per squared weight.
        max_steps: Most Gauss-Newton steps; each takes up to `max_iterations` applications of g.
        tolerance: Share of the objective that a step has to promise to be taken.
        max_iterations: Largest Krylov space of a step.

    Returns:
        The corrected point, whatever the status; never one with a larger objective.

    Raises:
        PathError: damping, max_steps or tolerance is out of range, or no coordinate or no vector is free.
        ShapeMismatch: the point does not lie in the metric's weight space.
    """
    _check(point, free, damping, max_steps, tolerance)
    mask = free.to(point.dtype)
    here, local = point, metric.at(point)
    drift_before = _rms(local.outputs - target)
    value = _objective(local, target, here - point, damping)
    radius = math.inf
    status, steps = CorrectionStatus.MAX_STEPS, 0
    while True:
        offset = here - point
        slope = mask * (local.pull(local.outputs - target) / local.probes + damping * offset)
        if not float(torch.linalg.vector_norm(slope)):
            status = CorrectionStatus.CONVERGED
            break
        moved = _step(local, mask, slope, damping, radius, max_iterations)
        # The model's decrease, −2 slope·d − dᵀ(g + δ)d, is −slope·d at its minimum; within a radius it is more.
        promised = -float(slope @ moved)
        if promised <= tolerance * value:
            status = CorrectionStatus.CONVERGED
            break
        if steps == max_steps:
            break
        found = None
        for _ in range(1 + _SHRINKS):
            candidate = metric.at(here + moved)
            after = _objective(candidate, target, offset + moved, damping)
            if after < value:
                found = candidate
                break
            radius = float(torch.linalg.vector_norm(moved)) / 4
            moved = _step(local, mask, slope, damping, radius, max_iterations)
        if found is None:
            status = CorrectionStatus.STALLED
            break
        here, local, value, steps = here + moved, found, after, steps + 1
    return Correction(here, status, drift_before, _rms(local.outputs - target), steps)


def corrected_path(
    metric: Metric,
    start: Tensor,
    stop: Tensor,
    *,
    legs: int,
    damping: float,
    led: Tensor | None = None,
    free_end: bool = False,
    max_steps: int = 3,
    tolerance: float = 1e-2,
    max_iterations: int = 30,
) -> CorrectedPath:
    """A path on which the led coordinates go straight while the free ones hold the outputs of the start.

    A waypoint's free coordinates begin where the last waypoint left them, and go the share of their own way to the stop
    that is due, so that a fixed end is reached without a jump.

    Args:
        metric: Pullback metric.
        start: Weights w_0, shape [n].
        stop: Weights to arrive at, shape [n]; with `free_end`, only its led coordinates are arrived at.
        legs: How many legs the path has.
        damping: As for `correct`.
        led: Coordinates whose progress is prescribed, bool [n]; `led_coordinates` by default. All others are free.
        free_end: Whether the last waypoint is corrected too: a sparse network of its own instead of `stop`.
        max_steps: As for `correct`, at each waypoint.
        tolerance: As for `correct`.
        max_iterations: As for `correct`.

    Raises:
        PathError: legs or another argument is out of range.
        ShapeMismatch: the ends do not lie in the metric's weight space.
    """
    check_alike([start, stop])
    if legs < 1:
        raise PathError(f"legs is {legs}: expected at least 1")
    led = led_coordinates(start, stop) if led is None else led
    free = ~led
    target = metric.outputs(start)
    points, corrections = [start], []
    for leg in range(1, legs + 1):
        guess = torch.lerp(points[-1], stop, 1.0 / (legs - leg + 1))
        guess = torch.where(led, torch.lerp(start, stop, leg / legs), guess) if leg < legs else stop
        if leg < legs or free_end:
            found = correct(
                metric, guess, target, free,
                damping=damping, max_steps=max_steps, tolerance=tolerance, max_iterations=max_iterations,
            )  # fmt: skip
            corrections.append(found)
            guess = found.point
        points.append(guess)
    return CorrectedPath(tuple(points), tuple(corrections))


def _step(
    local: LocalMetric, mask: Tensor, slope: Tensor, damping: float, radius: float, max_iterations: int
) -> Tensor:
    """The Gauss-Newton step −(g_ff + δ I)⁻¹ slope within a radius: eq. (5) with v = −slope and β = 2."""
    bound = float(torch.linalg.vector_norm(slope)) / damping  # no step is longer: the constraint is inactive then
    found = solve(
        lambda vector: mask * local.apply(mask * vector),
        -slope,
        beta=2.0,
        radius=min(radius, 2.0 * bound),
        damping=damping,
        max_iterations=max_iterations,
    )
    return found.tangent


def _objective(local: LocalMetric, target: Tensor, offset: Tensor, damping: float) -> float:
    """Mean |f − target|² + δ |offset|²; infinite where an output is not finite."""
    value = _rms(local.outputs - target) ** 2 + damping * float(offset.double().square().sum())
    return value if math.isfinite(value) else math.inf


def _rms(difference: Tensor) -> float:
    return math.sqrt(float(difference.double().square().sum()) / len(difference))


def _check(point: Tensor, free: Tensor, damping: float, max_steps: int, tolerance: float) -> None:
    if not (math.isfinite(damping) and damping > 0) or max_steps < 0 or not tolerance > 0:
        raise PathError(
            f"found damping {damping}, max_steps {max_steps}, tolerance {tolerance}: expected damping above 0, "
            "max_steps of at least 0 and tolerance above 0"
        )
    if free.shape != point.shape or free.dtype != torch.bool or not bool(free.any()):
        raise PathError(
            f"free is {free.dtype} of shape {list(free.shape)} with {int(free.sum())} entries set: expected a bool "
            f"vector of shape {list(point.shape)} with at least one; lead fewer coordinates"
        )
