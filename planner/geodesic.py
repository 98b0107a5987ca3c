"""Paths between two networks: the paper's flow, and the discrete geodesic it approximates.

`flow` follows the tangents of eq. (5) from one network to another. It avoids what changes the function, but nothing
in it minimises length: its curve is not a geodesic. `relax` takes any path and lowers its energy between fixed ends;
its minimum tends to a geodesic of g + εI as waypoints are added.

With F_ε(w) = (f(w)/√N, √ε w), f(w) the outputs [N, m] for all probes, g + εI is the pullback of the flat metric by
F_ε: the energy ∫ |d F_ε/dt|² dt of a curve becomes K Σ |F_ε(w_{i+1}) − F_ε(w_i)|² on a path of K legs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.metric import LocalMetric
from planner.tangent import PAPER_RADIUS, SolveStatus, solve

# A step that brings the end nearer by less than this share of the whole way is no progress: at that rate the flow
# would need a thousand steps.
_LEAST_PROGRESS = 1e-3


class PathError(GeoshiftError):
    """A path cannot be made from these arguments."""


class Metric(Protocol):
    """What a path needs of a pullback metric; `PullbackMetric` has it."""

    def at(self, point: Tensor) -> LocalMetric:
        """The metric at one point, with the outputs there."""

    def outputs(self, point: Tensor) -> Tensor:
        """Outputs at a point, shape [N, m]."""


class FlowStatus(Enum):
    """How a flow ended; the value says what to do. Its last leg is a straight line to the end in each case."""

    ARRIVED = "the end came within reach"
    STALLED = (
        "the tangent no longer leads towards the end, and the last leg is long: raise beta so that progress counts for "
        "more, or relax the path"
    )
    MAX_STEPS = "the steps ran out, and the last leg is long: allow more, or make them longer"


@dataclass(frozen=True)
class Flow:
    """A path from one network to another along the tangents of eq. (5).

    Attributes:
        points: w_0 … w_K, each [n]; the first and the last are the ends given.
        status: How it ended.
        distances: Euclidean distance to the end from w_0 … w_{K−1}; the last is the length of the last leg.
        lengths: Functional length of each leg, in output units.
        unsolved: Tangents whose solve did not converge; they were used as they were.
    """

    points: tuple[Tensor, ...]
    status: FlowStatus
    distances: tuple[float, ...]
    lengths: tuple[float, ...]
    unsolved: int

    @property
    def length(self) -> float:
        """Functional length of the whole path."""
        return math.fsum(self.lengths)


def leg_lengths(outputs: Sequence[Tensor]) -> tuple[float, ...]:
    """Functional length of each leg of a path, (mean over samples of |f_{i+1} − f_i|²)^½.

    Args:
        outputs: The network's outputs at each waypoint for one batch of samples, K + 1 tensors of shape [N, m].

    Returns:
        K lengths in output units.
    """
    pairs = zip(outputs[:-1], outputs[1:], strict=True)
    return tuple(math.sqrt(float((after - before).double().square().sum()) / len(before)) for before, after in pairs)


def functional_length(outputs: Sequence[Tensor]) -> float:
    """How far the function travels along a path: L = Σ (mean over samples of |f_{i+1} − f_i|²)^½.

    The paper's eq. (3) lacks the root, which makes it an energy.

    Args:
        outputs: As `leg_lengths` takes them; a tensor [K + 1, N, m] will do.
    """
    return math.fsum(leg_lengths(outputs))


def flow(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    beta: float,
    step: float = 0.1,
    max_steps: int = 100,
    arrival: float = 0.05,
    radius: float = PAPER_RADIUS,
    damping: float = 0.0,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
) -> Flow:
    """The paper's procedure: from a network to a fixed other one, by the tangent of eq. (5) at each point.

    At w the direction is v = (end − w)/|end − w|, and θ solves eq. (5) with it. The step goes along θ, a share `step`
    of the remaining distance, but never past the point of that line which is nearest to the end; so the distance
    falls with every step. Only its direction is taken from θ: the paper's Δ is an absolute length, and would need
    hundreds of steps for ends that are far apart.

    Args:
        metric: Pullback metric; only the tensors of its configuration move.
        start: Weights w_0, shape [n].
        end: Weights to arrive at, shape [n].
        beta: Weight of progress against functional change in eq. (5). Large: the straight line.
        step: Length of a step over the remaining distance, in (0, 1].
        max_steps: Most tangents to solve for.
        arrival: Share of the whole distance from which the end is reached in one last leg. Steps shrink with the
            distance, so that this leg is about as long as the first step times arrival / step.
        radius: Δ of eq. (5).
        damping: As for `tangent.solve`.
        tolerance: As for `tangent.solve`.
        max_iterations: As for `tangent.solve`.

    Returns:
        The path. It ends on `end` exactly, whatever the status.

    Raises:
        PathError: step, max_steps or arrival is out of range.
        ShapeMismatch: the ends do not lie in the metric's weight space.
        TangentError: another argument is out of range, or a weight or an output is not finite.
    """
    if not 0 < step <= 1 or max_steps < 0 or not 0 <= arrival < 1:
        raise PathError(
            f"found step {step}, max_steps {max_steps}, arrival {arrival}: expected step in (0, 1], max_steps of at "
            "least 0 and arrival in [0, 1)"
        )
    _check_alike([start, end])
    points = [start]
    outputs = []
    distances = [_norm(end - start)]
    unsolved = 0
    status = FlowStatus.ARRIVED
    while distances[-1] > arrival * distances[0]:
        if len(outputs) == max_steps:
            status = FlowStatus.MAX_STEPS
            break
        here, distance = points[-1], distances[-1]
        direction = (end - here) / distance
        local = metric.at(here)
        found = solve(
            local.apply,
            direction,
            beta=beta,
            radius=radius,
            damping=damping,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        outputs.append(local.outputs)
        unsolved += found.status is not SolveStatus.CONVERGED
        size = _norm(found.tangent)
        progress = float(found.tangent @ direction) / size if size else 0.0  # cosine of θ and v
        following = here + found.tangent * (distance * min(step, progress) / size) if progress > 0 else here
        if distance - _norm(end - following) < _LEAST_PROGRESS * distances[0]:
            status = FlowStatus.STALLED
            break
        points.append(following)
        distances.append(_norm(end - following))
    # The loop leaves a point without outputs, or, where it stalled, none.
    outputs += [metric.outputs(point) for point in [*points, end][len(outputs) :]]
    return Flow((*points, end), status, tuple(distances), leg_lengths(outputs), unsolved)


class RelaxationStatus(Enum):
    """How a relaxation ended; the value says what to do."""

    CONVERGED = "no path nearby has an energy lower by more than the tolerance"
    MAX_ITERATIONS = "the iterations ran out while the energy was still falling: allow more, or raise epsilon"
    PRECISION = (
        "the energy falls no further at the precision of the outputs: use float64 probe inputs, raise epsilon, or take "
        "the path as it is"
    )
    HIDDEN_BARRIER = (
        "the path found is lower at its waypoints but not between them, and was dropped for the one given: add "
        "waypoints, or raise epsilon"
    )


@dataclass(frozen=True)
class Relaxation:
    """A path of lower energy between the same ends.

    Attributes:
        points: w_0 … w_K, each [n]: the relaxed path, or the one given if that could not be improved.
        status: How it ended.
        energy_before: K Σ |F_ε(w_{i+1}) − F_ε(w_i)|² of the path given.
        energy_after: The same of `points`; never larger.
        between_before: The energy of the path given with the midpoint of every leg inserted; never below
            energy_before, and far above it if a barrier hides between waypoints.
        between_after: The same of `points`; never larger than between_before.
        iterations: Steps of the optimiser.
    """

    points: tuple[Tensor, ...]
    status: RelaxationStatus
    energy_before: float
    energy_after: float
    between_before: float
    between_after: float
    iterations: int


def energy(outputs: Sequence[Tensor], points: Sequence[Tensor], epsilon: float) -> float:
    """Energy of a path, K Σ |F_ε(w_{i+1}) − F_ε(w_i)|²; at least the square of its length under g + εI.

    Args:
        outputs: Outputs at each waypoint, K + 1 tensors of shape [N, m].
        points: Waypoints, K + 1 vectors of shape [n].
        epsilon: ε, in squared output units per squared weight.
    """
    return (len(points) - 1) * math.fsum(length * length for length in _damped_legs(outputs, points, epsilon))


def respace(metric: Metric, points: Sequence[Tensor], *, epsilon: float, legs: int | None = None) -> tuple[Tensor, ...]:
    """Waypoints on the same polygon, equally far apart in functional length.

    Args:
        metric: Pullback metric.
        points: Waypoints, each [n].
        epsilon: ε of F_ε, in which length is measured.
        legs: How many legs the result has; as many as now by default.

    Returns:
        The waypoints; the ends are the ones given.
    """
    _check_path(points, epsilon, least=2)
    legs = len(points) - 1 if legs is None else legs
    if legs < 1:
        raise PathError(f"legs is {legs}: expected at least 1")
    outputs = [metric.outputs(point) for point in points]
    along = np.concatenate([[0.0], np.cumsum(_damped_legs(outputs, points, epsilon))])
    places = np.interp(np.linspace(0, along[-1], legs + 1)[1:-1], along, np.arange(len(points)))
    inner = [torch.lerp(points[int(a)], points[min(int(a) + 1, len(points) - 1)], a % 1) for a in places]
    return (points[0], *inner, points[-1])


def relax(
    metric: Metric,
    points: Sequence[Tensor],
    *,
    epsilon: float,
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> Relaxation:
    """Lower a path's energy between its fixed ends, towards the discrete geodesic of g + εI.

    Waypoints are first respaced by length; the minimum keeps them so, since legs of equal length have the least
    energy. Then L-BFGS on all inner waypoints at once, w_i = start_i + Σ_j M_ij a_j with M = (2K·second difference)^−½:
    in the coordinates a, |a|² / 2 is the energy of a displacement in flat weight space, so that the number of
    iterations does not grow with the number of waypoints. An iteration passes each probe forward and backward at
    each inner waypoint, and the activations of two are held.

    Args:
        metric: Pullback metric; a network linear in its weights has the straight line as its geodesic.
        points: Waypoints w_0 … w_K, at least three, each [n]; the ends stay.
        epsilon: ε > 0. Without it, whatever the probes do not see is free, and waypoints drift there.
        iterations: Most steps of the optimiser.
        tolerance: Share of the energy that may remain to be gained.

    Returns:
        The relaxed path, or the one given where nothing better was found, and how far to trust it.

    Raises:
        PathError: there are fewer than three waypoints, or epsilon, iterations or tolerance is out of range.
        ShapeMismatch: the waypoints do not lie in the metric's weight space.
    """
    _check_path(points, epsilon, least=3)
    if iterations < 0 or not tolerance > 0:
        raise PathError(f"iterations is {iterations}, tolerance {tolerance}: expected at least 0, and more than 0")
    given = tuple(points)
    before, between_before = _energies(metric, given, epsilon)
    spaced = respace(metric, given, epsilon=epsilon)
    first = min((given, spaced), key=lambda path: _energies(metric, path, epsilon)[0])

    descent = _Descent(metric, first, epsilon)
    search = _minimise(descent, iterations, tolerance)
    gained = descent.gain_left <= tolerance * descent.energy
    found = descent.path
    after, between_after = _energies(metric, found, epsilon)
    if gained:
        status = RelaxationStatus.CONVERGED
    elif search.status == _RAN_OUT:
        status = RelaxationStatus.MAX_ITERATIONS
    else:
        status = RelaxationStatus.PRECISION
    if after <= before and between_after > between_before:
        status = RelaxationStatus.HIDDEN_BARRIER
    if not (after <= before and between_after <= between_before):
        found, after, between_after = given, before, between_before
    return Relaxation(found, status, before, after, between_before, between_after, int(search.nit))
