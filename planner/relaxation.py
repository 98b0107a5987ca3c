"""The discrete geodesic: a path relaxed between its fixed ends.

With F_ε(w) = (f(w)/√N, √ε w), f(w) the outputs [N, m] for all probes, the damped metric g + εI is the flat metric
pulled back by F_ε. The energy ∫ |dF_ε/dt|² dt of a curve becomes K Σ |F_ε(w_{i+1}) − F_ε(w_i)|² on a path of K legs;
its minimum between fixed ends tends to a geodesic of g + εI as waypoints are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from planner.geodesic import Metric, PathError, check_alike, leg_lengths

# Correction pairs of L-BFGS. On models.DigitsCNN (two layers, 64 probes, 4 legs) ten needed 174 steps, twenty 152.
_MEMORY = 20
_RAN_OUT = 1  # scipy's status when the iterations are used up


class RelaxationStatus(Enum):
    """How a relaxation ended; the value says what to do."""

    CONVERGED = "no path nearby has an energy lower by more than the tolerance"
    MAX_ITERATIONS = "the iterations ran out before that could be said: allow more, or raise epsilon"
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
    return (len(points) - 1) * math.fsum(leg * leg for leg in _damped_legs(outputs, points, epsilon))


def respace(metric: Metric, points: Sequence[Tensor], *, epsilon: float, legs: int | None = None) -> tuple[Tensor, ...]:
    """Waypoints on the same polygon, about equally far apart in functional length.

    Args:
        metric: Pullback metric.
        points: Waypoints, at least two, each [n].
        epsilon: ε ≥ 0 of F_ε, in which length is measured; within a leg it is taken to grow evenly.
        legs: How many legs the result has; as many as now by default.

    Returns:
        The waypoints; the ends are the ones given.

    Raises:
        PathError: there are fewer than two waypoints, or epsilon or legs is out of range.
        ShapeMismatch: the waypoints do not lie in the metric's weight space.
    """
    _check_path(points, epsilon, least=2)
    legs = len(points) - 1 if legs is None else legs
    if legs < 1:
        raise PathError(f"legs is {legs}: expected at least 1")
    outputs = [metric.outputs(point) for point in points]
    along = np.concatenate([[0.0], np.cumsum(_damped_legs(outputs, points, epsilon))])
    places = np.interp(np.linspace(0.0, along[-1], legs + 1)[1:-1], along, np.arange(len(points)))
    return (points[0], *(_on_polygon(points, float(place)) for place in places), points[-1])


def relax(
    metric: Metric,
    points: Sequence[Tensor],
    *,
    epsilon: float,
    iterations: int = 50,
    tolerance: float = 1e-3,
) -> Relaxation:
    """Lower a path's energy between its fixed ends, towards the discrete geodesic of g + εI.

    Waypoints are first respaced by length; the minimum keeps them so, because legs of equal length have the least
    energy. Then L-BFGS moves all inner waypoints at once. An iteration passes each probe forward and backward at
    each inner waypoint, and the activations of two waypoints are held.

    Args:
        metric: Pullback metric.
        points: Waypoints w_0 … w_K, at least three, each [n]; the ends stay.
        epsilon: ε > 0. Without it, whatever the probes do not see is free, and waypoints drift there.
        iterations: Most steps of the optimiser. On models.DigitsCNN 25 left 0.4 % of the energy to be gained, 50
            0.2 %.
        tolerance: Share of the energy that may remain to be gained. A thousandth of the energy is half a thousandth
            of the length, less than the choice of probes changes it.

    Returns:
        The relaxed path, or the one given where nothing better was found, and how far to trust it.

    Raises:
        PathError: there are fewer than three waypoints, an energy is not finite, or epsilon, iterations or tolerance
            is out of range.
        ShapeMismatch: the waypoints do not lie in the metric's weight space.
    """
    _check_path(points, epsilon, least=3)
    if not epsilon > 0 or iterations < 0 or not tolerance > 0:
        raise PathError(
            f"found epsilon {epsilon}, iterations {iterations}, tolerance {tolerance}: expected epsilon above 0, "
            "iterations of at least 0 and tolerance above 0"
        )
    given = tuple(points)
    before, between_before = _energies(metric, given, epsilon)
    if not math.isfinite(between_before):
        raise PathError(f"the path's energy is {between_before}: expected finite weights and outputs along it")
    spaced = respace(metric, given, epsilon=epsilon)
    first = spaced if _energies(metric, spaced, epsilon)[0] < before else given

    descent = _Descent(metric, first, epsilon)
    search = descent.run(iterations, tolerance)
    found = descent.path(search.x)
    after, between_after = _energies(metric, found, epsilon)
    if descent.gain_left(search.jac) <= tolerance * search.fun:
        status = RelaxationStatus.CONVERGED
    elif search.status == _RAN_OUT:
        status = RelaxationStatus.MAX_ITERATIONS
    else:
        status = RelaxationStatus.PRECISION
    if not (after <= before and between_after <= between_before):
        if after < (1 - tolerance) * before:
            status = RelaxationStatus.HIDDEN_BARRIER
        found, after, between_after = given, before, between_before
    return Relaxation(found, status, before, after, between_before, between_after, int(search.nit))


class _Descent:
    """Energy as a function of the inner waypoints, in coordinates in which it is well conditioned along the path.

    w_i = first_i + Σ_j M_ij a_j with M = (2K L)^−½ and L = tridiag(−1, 2, −1). The energy of a displacement in flat
    weight space is then |a|²/2, and under a constant metric G it is Σ aᵀ_j G a_j / 2: curvature ranges over the
    eigenvalues of g + εI only, however many waypoints there are.
    """

    def __init__(self, metric: Metric, first: tuple[Tensor, ...], epsilon: float) -> None:
        self._metric = metric
        self._first = first
        self._epsilon = epsilon
        self._end_outputs = metric.outputs(first[0]), metric.outputs(first[-1])
        self._start = torch.stack(first[1:-1]).double().cpu().numpy()
        inner = len(self._start)
        laplacian = 2.0 * np.eye(inner) - np.eye(inner, k=1) - np.eye(inner, k=-1)
        values, vectors = np.linalg.eigh(2.0 * (inner + 1) * laplacian)
        self._precondition: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T

    def run(self, iterations: int, tolerance: float) -> OptimizeResult:
        """Descend until the gain left is below `tolerance` of the energy, or no step helps."""
        start = np.zeros(self._start.size)
        value, gradient = self(start)
        if iterations == 0 or self.gain_left(gradient) <= tolerance * value:  # scipy takes one step in any case
            return OptimizeResult(x=start, fun=value, jac=gradient, nit=0, status=_RAN_OUT)

        latest = {"gradient": gradient}

        def evaluate(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            value, latest["gradient"] = self(x)
            return value, latest["gradient"]

        def stop_when_done(intermediate_result: OptimizeResult) -> None:
            # A step is accepted right after it was evaluated, so that the latest gradient is this point's.
            if self.gain_left(latest["gradient"]) <= tolerance * intermediate_result.fun:
                raise StopIteration

        rounding = torch.finfo(self._first[0].dtype).eps
        return minimize(
            evaluate,
            start,
            jac=True,
            method="L-BFGS-B",
            callback=stop_when_done,
            options={
                "maxiter": iterations,
                "maxfun": 20 * (iterations + 1),  # its line search takes at most 20 trials a step
                "maxcor": _MEMORY,
                "ftol": rounding,
                "gtol": 0.0,
            },
        )

    def path(self, x: NDArray[np.float64]) -> tuple[Tensor, ...]:
        """The waypoints with these coordinates."""
        inner = torch.as_tensor(self._start + self._precondition @ x.reshape(self._start.shape))
        return (self._first[0], *inner.to(self._first[0]).unbind(), self._first[-1])

    def gain_left(self, gradient: NDArray[np.float64]) -> float:
        """How much lower the energy may get: |gradient|²/(2ε), since its curvature is at least ε where it is convex."""
        return float(gradient @ gradient) / (2.0 * self._epsilon)

    def __call__(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        path = self.path(x)
        legs = len(path) - 1
        outputs = [self._end_outputs[0]]
        slopes = []
        waiting = None
        for point in [*path[1:-1], None]:
            local = None if point is None else self._metric.at(point)
            outputs.append(self._end_outputs[1] if local is None else local.outputs)
            if waiting is not None:
                before, here, after = outputs[-3:]
                slopes.append(waiting.pull(2 * here - before - after) / len(here))
            waiting = local
        # dE/dw_i = 2K (Jᵀ(2 f_i − f_{i−1} − f_{i+1})/N + ε (2 w_i − w_{i−1} − w_{i+1}))
        weights = torch.stack(path).double()
        bends = 2 * weights[1:-1] - weights[:-2] - weights[2:]
        gradient = 2 * legs * (torch.stack(slopes).double() + self._epsilon * bends)
        return energy(outputs, path, self._epsilon), (self._precondition @ gradient.cpu().numpy()).ravel()


def _damped_legs(outputs: Sequence[Tensor], points: Sequence[Tensor], epsilon: float) -> list[float]:
    steps = [float((after - before).double().square().sum()) for before, after in pairwise(points)]
    return [
        math.sqrt(length * length + epsilon * step) for length, step in zip(leg_lengths(outputs), steps, strict=True)
    ]


def _energies(metric: Metric, points: tuple[Tensor, ...], epsilon: float) -> tuple[float, float]:
    """Energy at the waypoints, and with the midpoints between them."""
    refined = [_on_polygon(points, place / 2) for place in range(2 * len(points) - 1)]
    outputs = [metric.outputs(point) for point in refined]
    return energy(outputs[::2], points, epsilon), energy(outputs, refined, epsilon)


def _on_polygon(points: Sequence[Tensor], place: float) -> Tensor:
    leg = min(int(place), len(points) - 2)
    return torch.lerp(points[leg], points[leg + 1], place - leg)


def _check_path(points: Sequence[Tensor], epsilon: float, least: int) -> None:
    if len(points) < least:
        raise PathError(f"the path has {len(points)} waypoints: expected at least {least}, both ends among them")
    check_alike(points)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise PathError(f"epsilon is {epsilon}: expected a number of at least 0")
