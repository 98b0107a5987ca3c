"""The paper's procedure for a path between two networks, and the functional length of any path.

`flow` follows the tangents of eq. (5) from one network to another. It avoids what changes the function, but nothing
in it minimises length: its curve is not a geodesic. `relaxation.relax` makes it one, between the same ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from device_profiles.errors import GeoshiftError
from planner.configuration import ShapeMismatch
from planner.dual import Solver, solve_at
from planner.metric import LocalMetric
from planner.tangent import PAPER_RADIUS, SolveStatus

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
    return tuple(
        math.sqrt(float((after - before).double().square().sum()) / len(before)) for before, after in pairwise(outputs)
    )


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
    solver: Solver = Solver.AUTO,
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
        solver: As for `dual.solve_at`.

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
    check_alike([start, end])
    points = [start]
    outputs: list[Tensor] = []
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
        found = solve_at(
            local,
            direction,
            beta=beta,
            radius=radius,
            damping=damping,
            tolerance=tolerance,
            max_iterations=max_iterations,
            solver=solver,
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


def check_alike(points: Sequence[Tensor]) -> None:
    """Refuse waypoints that are not vectors of one weight space.

    Raises:
        ShapeMismatch: two differ in shape, element type or device, or they are not vectors.
    """
    first = points[0]
    for place, point in enumerate(points):
        same = (point.shape, point.dtype, point.device) == (first.shape, first.dtype, first.device)
        if point.ndim != 1 or not same:
            raise ShapeMismatch(
                f"waypoint {place} has shape {list(point.shape)}, {point.dtype} on {point.device}: expected a vector "
                f"like the first, which has shape {list(first.shape)}, {first.dtype} on {first.device}"
            )


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
