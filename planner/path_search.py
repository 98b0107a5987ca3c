"""Paths between two networks, found in every way that geometry offers, as points for candidates to be made of.

Which of them is good is not decided here: each comes with a record of how it was found, and is then walked and measured
like any other candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor

from planner.correction import CorrectionStatus, corrected_path, led_coordinates
from planner.dual import Solver
from planner.fisher import root_probabilities
from planner.geodesic import Flow, FlowStatus, Metric, flow, functional_length
from planner.insertion import Judge, at_bends, at_dips, spaced_with_middles
from planner.metric import PullbackMetric
from planner.relaxation import Relaxation, relax
from planner.tangent import PAPER_RADIUS
from planner.variation import SEARCHES

T = TypeVar("T")

LEGS = 4
"""Legs that are written. Each writes every moving row once more, and a path must earn its bytes."""
STEP = 0.3
"""Share of the remaining distance that a step of the flow covers; on a straight way it arrives in nine."""
ITERATIONS = 20
"""Largest Krylov space, and most steps of a relaxation: a limit on cost, not on error. Tangents take 14 to 140
iterations to converge, so many do not, and their number is recorded."""
DAMPING_SHARE = 1.0
"""Damping of the correction over ε, the straight line's squared length in outputs over that in weights. On
LeNet-300-100 with 225 of 300 units removed and 1,000 probes, a corrected end was right on 97.58 % of 5,000 selection
images with 0.01 and 0.1, on 97.60 % with 1; the closed form alone on 97.14 %."""


@dataclass(frozen=True)
class Record:
    """How a path was found.

    Attributes:
        status: Name of the search's status; see the enum named in `kind` for what to do about it.
        advice: What that status says.
        unsolved: Tangents, or waypoints, whose own solve did not converge; they were used as they were.
        steps: Steps of the search: tangents, descent steps, or Gauss-Newton steps.
        energy_before: Energy of the path that was relaxed; None where nothing was.
        energy_after: The same after it; never larger.
        between_before: Energy with midpoints inserted, before.
        between_after: The same after; far above the energy if something hides between the waypoints.
        inserted: Waypoints inserted where the middle of a leg was far off, or less accurate than its ends.
        length: Length over the points on the probes, in the metric that was searched in: functional length, in output
            units, or Fisher length.
        fisher_length: Length in the softmax Fisher metric over the same.
        forward_passes: What the search cost, see ``CostMeter``.
    """

    status: str
    advice: str
    unsolved: int
    steps: int
    energy_before: float | None
    energy_after: float | None
    between_before: float | None
    between_after: float | None
    inserted: int
    length: float
    fisher_length: float
    forward_passes: int


@dataclass(frozen=True)
class FoundPath:
    """Waypoints between two ends and how they were found.

    Attributes:
        name: What found them, one of ``variation.SEARCHES``.
        points: w_0 … w_K, each [n]; the ends are the ones given.
        record: How it went.
    """

    name: str
    points: tuple[Tensor, ...]
    record: Record


def search_paths(
    metric: PullbackMetric,
    start: Tensor,
    stop: Tensor,
    *,
    legs: int = LEGS,
    beta: float = 1.0,
    damping: float = 1.0,
    solver: Solver = Solver.AUTO,
    iterations: int = ITERATIONS,
    led: Tensor | None = None,
    wanted: Collection[str] = SEARCHES,
    fisher: bool = False,
    judge: Judge | None = None,
) -> list[FoundPath]:
    """Every kind of path between two networks.

    Args:
        metric: Pullback metric.
        start: Weights to leave, shape [n].
        stop: Weights to arrive at, shape [n].
        legs: Legs of each path, before waypoints are inserted.
        beta: β of eq. (5), over its natural scale at the start: with 1, progress along the straight line counts as much
            as the functional change that it costs.
        damping: ε of the relaxation and δ of the correction, over the ε with which weights weigh as much as outputs.
        solver: Where the flow's tangents are solved for.
        iterations: Largest Krylov space of a tangent, and most steps of each relaxation.
        led: Coordinates whose progress the corrected path prescribes; `correction.led_coordinates` by default,
            and where there are none (a restore, a fine-tuned end), there is no corrected path.
        wanted: Which kinds.
        fisher: Whether the metric reads 2√p already, so that its lengths are Fisher's.
        judge: Says where the flow and the relaxed paths need more waypoints; by outputs alone without one.

    Returns:
        The paths, always in the same order; nothing where the ends agree.

    Raises:
        GeoshiftError: An argument is out of range, or a weight or an output is not finite.
    """
    if torch.equal(start, stop):
        return []
    epsilon = damping * natural_epsilon(metric, start, stop)
    shape = _Shape(metric, epsilon, legs, iterations, fisher, judge)
    found: list[FoundPath] = []
    if not {"flow", "relaxed-flow"}.isdisjoint(wanted):
        flowed, cost = _counted(
            metric, lambda: follow(metric, start, stop, beta=beta, iterations=iterations, solver=solver)
        )
        spaced, looked = _counted(
            metric, lambda: spaced_with_middles(metric, flowed.points, epsilon=epsilon, legs=legs, judge=judge)
        )
        cost += looked
        if "flow" in wanted:
            found.append(shape.of_flow(flowed, spaced, cost))
        if "relaxed-flow" in wanted:
            found.append(shape.relaxed("relaxed-flow", spaced, before=cost))
    if "relaxed-line" in wanted:
        found.append(shape.relaxed("relaxed-line", straight(start, stop, legs), before=0))
    moving = led_coordinates(start, stop) if led is None else led
    if "corrected" in wanted and bool(moving.any()) and not bool(moving.all()):
        found.append(shape.corrected(start, stop, moving))
    return found


def natural_epsilon(metric: Metric, start: Tensor, stop: Tensor) -> float:
    """The ε with which the straight line's ends are as far apart in weights as in outputs: neither can be ignored."""
    change = metric.outputs(stop) - metric.outputs(start)
    return max(float(change.square().sum(1).mean()) / float((stop - start).square().sum()), 1e-9)


def straight(start: Tensor, stop: Tensor, legs: int) -> tuple[Tensor, ...]:
    """Waypoints at equal shares of the straight line; the ends are the ones given."""
    return (start, *(torch.lerp(start, stop, leg / legs) for leg in range(1, legs)), stop)


def follow(
    metric: Metric,
    start: Tensor,
    stop: Tensor,
    *,
    beta: float = 1.0,
    iterations: int = ITERATIONS,
    solver: Solver = Solver.AUTO,
) -> Flow:
    """The paper's flow, with β over its natural scale: where eq. (5)'s two terms weigh the same on the straight line.

    That scale is β Δ = Δ² ⟨v, v⟩_g for the unit vector v towards the stop.
    """
    way = (stop - start) / torch.linalg.vector_norm(stop - start)
    # An end that the outputs do not tell from the start leaves no scale; any positive one is the straight line.
    scale = PAPER_RADIUS * float(metric.at(start).inner(way, way)) or 1.0
    return flow(
        metric, start, stop, beta=beta * scale, step=STEP, max_steps=10, max_iterations=iterations, solver=solver
    )


@dataclass(frozen=True)
class _Shape:
    """What all searches between two ends share."""

    metric: PullbackMetric
    epsilon: float
    legs: int
    iterations: int
    fisher: bool
    judge: Judge | None

    def of_flow(self, flowed: Flow, spaced: tuple[Tensor, ...], cost: int) -> FoundPath:
        """The flow, at as many waypoints as the others have."""
        status: FlowStatus = flowed.status
        record = self._record(
            spaced, status=status, unsolved=flowed.unsolved, steps=len(flowed.points) - 2,
            inserted=len(spaced) - 1 - self.legs, forward_passes=cost,
        )  # fmt: skip
        return FoundPath("flow", spaced, record)

    def relaxed(self, name: str, first: tuple[Tensor, ...], *, before: int) -> FoundPath:
        """Relax; insert waypoints where the middle of a leg is off, or less accurate; relax again if any were.

        A relaxation respaces the waypoints first, those that were inserted too. Where the accuracy dips still, that is
        done once more.
        """
        judge, most = self.judge, 2 * self.legs

        def search() -> Relaxation:
            found = relax(self.metric, first, epsilon=self.epsilon, iterations=self.iterations)
            finer = at_bends(self.metric, found.points, most=most)
            for _ in range(1 if judge is None else 2):
                finer = finer if judge is None else at_dips(finer, judge, most=most)
                if len(finer) == len(found.points):
                    break
                found = relax(self.metric, finer, epsilon=self.epsilon, iterations=self.iterations)
                finer = found.points
            return found

        found, cost = _counted(self.metric, search)
        inserted = len(found.points) - 1 - self.legs
        record = self._record(
            found.points,
            status=found.status,
            steps=found.iterations,
            energy_before=found.energy_before,
            energy_after=found.energy_after,
            between_before=found.between_before,
            between_after=found.between_after,
            inserted=inserted,
            forward_passes=before + cost,
        )
        return FoundPath(name, found.points, record)

    def corrected(self, start: Tensor, stop: Tensor, led: Tensor) -> FoundPath:
        """Lead some coordinates, and let the others make up for it."""
        found, cost = _counted(
            self.metric,
            lambda: corrected_path(
                self.metric, start, stop, legs=self.legs, damping=DAMPING_SHARE * self.epsilon, led=led,
                max_iterations=self.iterations,
            ),
        )  # fmt: skip
        record = self._record(
            found.points,
            status=found.status,
            unsolved=sum(one.status is not CorrectionStatus.CONVERGED for one in found.corrections),
            steps=sum(one.steps for one in found.corrections),
            forward_passes=cost,
        )
        return FoundPath("corrected", found.points, record)

    def _record(
        self,
        points: Sequence[Tensor],
        *,
        status: Enum,
        steps: int,
        forward_passes: int,
        unsolved: int = 0,
        energy_before: float | None = None,
        energy_after: float | None = None,
        between_before: float | None = None,
        between_after: float | None = None,
        inserted: int = 0,
    ) -> Record:
        outputs = [self.metric.outputs(point) for point in points]
        length = functional_length(outputs)
        return Record(
            status=status.name,
            advice=status.value,
            unsolved=unsolved,
            steps=steps,
            energy_before=energy_before,
            energy_after=energy_after,
            between_before=between_before,
            between_after=between_after,
            inserted=inserted,
            length=length,
            fisher_length=length if self.fisher else functional_length([root_probabilities(one) for one in outputs]),
            forward_passes=forward_passes,
        )


def _counted(metric: PullbackMetric, search: Callable[[], T]) -> tuple[T, int]:
    """A search's result, and the forward passes that it cost."""
    before = metric.cost.forward_passes
    found = search()
    return found, metric.cost.forward_passes - before
