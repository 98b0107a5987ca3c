from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.configuration import ShapeMismatch
from planner.geodesic import PathError, flow, functional_length
from planner.metric import PullbackMetric
from planner.relaxation import RelaxationStatus, energy, relax, respace
from tests import tolerances
from tests.oracles import (
    Geodesic,
    Toy,
    christoffel_acceleration,
    convolutional_toy,
    curved_toy,
    damped_metric_at,
    embedded_acceleration,
    exact_geodesic,
    linear_toy,
    random_vector,
)

EPSILON = 0.1
TIMES = 65


def metric_of(toy: Toy) -> PullbackMetric:
    return PullbackMetric(toy.module, toy.configuration, toy.inputs)


def line(start: torch.Tensor, end: torch.Tensor, legs: int) -> list[torch.Tensor]:
    return [torch.lerp(start, end, place / legs) for place in range(legs)] + [end]


def ends(toy: Toy, seed: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return random_vector(toy.configuration.size, seed), random_vector(toy.configuration.size, seed + 10)


@pytest.fixture(scope="module")
def exact() -> Geodesic:
    toy = curved_toy()
    return exact_geodesic(toy.function, *ends(toy), EPSILON, TIMES)


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_oracles_agree_on_the_geodesic_equation(seed):
    """Christoffel symbols of the metric, and the curvature of the embedding, give one acceleration."""
    toy = curved_toy()
    point, velocity = random_vector(6, seed), random_vector(6, seed + 1)
    first = christoffel_acceleration(toy.function, EPSILON, point, velocity)
    second = embedded_acceleration(toy.function, EPSILON, point, velocity)
    assert float((first - second).norm()) <= 1e3 * tolerances.FLOAT64 * (1 + float(second.norm()))


def test_oracle_solves_the_geodesic_equation(exact):
    assert float((exact.speeds.max() - exact.speeds.min()) / exact.energy) <= tolerances.GEODESIC_SPEED


def test_tends_to_the_exact_geodesic(exact):
    toy = curved_toy()
    gaps = []
    for legs in (8, 16, 32):
        found = relax(
            metric_of(toy), line(*ends(toy), legs), epsilon=EPSILON, iterations=500, tolerance=tolerances.RELAXATION
        )
        assert found.status is RelaxationStatus.CONVERGED
        # Far from the straight line, which is the point.
        assert found.energy_after < 0.75 * found.energy_before
        gaps.append(1 - found.energy_after / exact.energy)
        # Chords are no longer than arcs; a polygon's sides are curves that are no shorter than the geodesic.
        assert found.energy_after < exact.energy
    assert gaps[0] / gaps[1] == pytest.approx(4, abs=tolerances.ENERGY_ORDER)
    assert gaps[1] / gaps[2] == pytest.approx(4, abs=tolerances.ENERGY_ORDER)
    assert gaps[2] <= tolerances.GEODESIC_ENERGY
    far = (torch.stack(found.points) - exact.points[:: (TIMES - 1) // 32]).norm(dim=1)
    assert float(far.max()) <= tolerances.GEODESIC_POINT


def test_the_start_does_not_matter(exact):
    """A detour and the paper's flow relax to the path that the straight line relaxes to."""
    toy = curved_toy()
    metric, (start, end) = metric_of(toy), ends(toy)
    straight = line(start, end, 8)
    bent = [start, *(point + 0.3 * random_vector(6, place) for place, point in enumerate(straight[1:-1])), end]
    flowed = respace(metric, flow(metric, start, end, beta=1.0).points, epsilon=EPSILON, legs=8)
    energies = [
        relax(metric, path, epsilon=EPSILON, iterations=500, tolerance=tolerances.RELAXATION).energy_after
        for path in (straight, bent, flowed)
    ]
    assert energies == pytest.approx([energies[0]] * 3, rel=10 * tolerances.RELAXATION)


def test_straight_lines_are_geodesics_of_a_linear_network():
    toy = linear_toy()
    start, end = ends(toy)
    straight = line(start, end, 6)
    found = relax(metric_of(toy), straight, epsilon=EPSILON)
    assert found.status is RelaxationStatus.CONVERGED
    assert found.iterations == 0
    assert found.energy_after == pytest.approx(
        float((end - start) @ damped_metric_at(toy.function, EPSILON)(start) @ (end - start)), rel=tolerances.FLOAT64
    )
    assert torch.stack(found.points).numpy() == pytest.approx(torch.stack(straight).numpy(), abs=1e-12)
    bent = [start, *(point + random_vector(8, place) for place, point in enumerate(straight[1:-1])), end]
    back = relax(metric_of(toy), bent, epsilon=EPSILON, iterations=500, tolerance=tolerances.RELAXATION)
    assert back.energy_after == pytest.approx(found.energy_after, rel=10 * tolerances.RELAXATION)


@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from([1e-3, 0.1, 10.0]), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_never_worse_than_its_input(seed, legs, epsilon, iterations):
    """Random waypoints, few iterations: whatever comes out, its figures are true and no larger than before."""
    toy = curved_toy()
    metric = metric_of(toy)
    points = [random_vector(6, seed + place) for place in range(legs + 1)]
    found = relax(metric, points, epsilon=epsilon, iterations=iterations)
    assert torch.equal(found.points[0], points[0])
    assert torch.equal(found.points[-1], points[-1])
    assert len(found.points) == legs + 1
    assert found.energy_after <= found.energy_before
    assert found.between_after <= found.between_before
    assert found.energy_before <= found.between_before * (1 + tolerances.FLOAT64)
    assert found.energy_after <= found.between_after * (1 + tolerances.FLOAT64)
    assert found.iterations <= iterations
    for path, value in ((points, found.energy_before), (found.points, found.energy_after)):
        assert energy([toy.function(point) for point in path], path, epsilon) == pytest.approx(value)


def test_energy_bounds_length():
    toy = curved_toy()
    points = [random_vector(6, place) for place in range(5)]
    outputs = [toy.function(point) for point in points]
    assert energy(outputs, points, 0.0) >= functional_length(outputs) ** 2
    assert energy(outputs, points, 0.5) > energy(outputs, points, 0.0)


def test_waypoints_at_equal_distances():
    """On a linear network length grows evenly within a leg, and respacing is exact."""
    toy = linear_toy()
    metric, (start, end) = metric_of(toy), ends(toy)
    uneven = [torch.lerp(start, end, place) for place in (0.0, 0.1, 0.15, 0.9)] + [end]
    found = respace(metric, uneven, epsilon=0.0)
    assert torch.stack(found).numpy() == pytest.approx(torch.stack(line(start, end, 4)).numpy(), abs=1e-12)
    assert len(respace(metric, uneven, epsilon=0.0, legs=7)) == 8
    assert torch.equal(respace(metric, uneven, epsilon=0.0, legs=1)[1], end)
    still = respace(metric, [start] * 4, epsilon=0.0)  # a path of no length
    assert all(torch.equal(point, start) for point in still)


class Blind:
    """A metric with a narrow barrier at 5/6 of the way from a point, which its derivatives do not announce."""

    def __init__(self, inner: PullbackMetric, start: torch.Tensor) -> None:
        self._inner = inner
        self._start = start

    def at(self, point):
        return self._inner.at(point)

    def outputs(self, point):
        bump = torch.exp(-((point - self._start).square().sum() - 25 / 36).square() * 2e3)
        return self._inner.outputs(point) + 100 * bump


def test_drops_a_path_that_is_lower_only_at_its_waypoints():
    toy = linear_toy()
    start = random_vector(8, 10)
    end = start + torch.eye(8, dtype=torch.float64)[0]
    # Respaced to thirds, the waypoints miss the barrier, but the last midpoint stands on it.
    points = [torch.lerp(start, end, place) for place in (0.0, 0.2, 0.3)] + [end]
    metric = Blind(metric_of(toy), start)
    found = relax(metric, points, epsilon=EPSILON)
    assert found.status is RelaxationStatus.HIDDEN_BARRIER
    assert all(torch.equal(point, given_) for point, given_ in zip(found.points, points, strict=True))
    assert found.energy_after == found.energy_before
    assert "add waypoints" in found.status.value


def test_says_when_iterations_run_out():
    toy = convolutional_toy()
    found = relax(metric_of(toy), line(*ends(toy), 4), epsilon=1e-4, iterations=2)
    assert found.status is RelaxationStatus.MAX_ITERATIONS
    assert found.iterations == 2
    assert found.energy_after < found.energy_before


def test_says_when_precision_runs_out():
    toy = curved_toy()
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs.float())
    start, end = (point.float() for point in ends(toy))
    found = relax(metric, line(start, end, 4), epsilon=1e-3, iterations=2000, tolerance=1e-12)
    assert found.status is RelaxationStatus.PRECISION
    assert found.energy_after < found.energy_before
    assert found.points[1].dtype == torch.float32


def test_same_bits_and_untouched_arguments():
    toy = curved_toy()
    points = line(*ends(toy), 5)
    before = torch.stack(points)
    first, second = (relax(metric_of(toy), points, epsilon=EPSILON) for _ in range(2))
    assert torch.equal(torch.stack(first.points), torch.stack(second.points))
    assert torch.equal(torch.stack(points), before)


def test_misuse_raises():
    toy = curved_toy()
    metric, points = metric_of(toy), line(*ends(toy), 3)
    with pytest.raises(PathError, match="2 waypoints: expected at least 3"):
        relax(metric, [points[0], points[-1]], epsilon=EPSILON)
    with pytest.raises(PathError, match="1 waypoints: expected at least 2"):
        respace(metric, points[:1], epsilon=EPSILON)
    for name, value in (("epsilon", 0.0), ("iterations", -1), ("tolerance", 0.0)):
        with pytest.raises(PathError, match=f"{name} {value}"):
            relax(metric, points, **{"epsilon": EPSILON, name: value})
    with pytest.raises(PathError, match="epsilon is -1"):
        respace(metric, points, epsilon=-1.0)
    with pytest.raises(PathError, match="legs is 0"):
        respace(metric, points, epsilon=0.0, legs=0)
    with pytest.raises(PathError, match="energy is inf"):
        relax(metric, [points[0], points[1] + 1e200, points[2]], epsilon=EPSILON)
    with pytest.raises(ShapeMismatch, match="waypoint 1"):
        relax(metric, [points[0], points[1][:5], points[2]], epsilon=EPSILON)
