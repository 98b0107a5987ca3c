from __future__ import annotations

import pytest
import torch

from planner.correction import CorrectionStatus, correct, corrected_path, led_coordinates
from planner.cost import CostMeter
from planner.geodesic import PathError
from planner.metric import PullbackMetric
from tests import tolerances
from tests.oracles import Toy, convolutional_toy, curved_toy, dense_jacobian, linear_toy, random_vector


def metric_of(toy: Toy, cost: CostMeter | None = None) -> PullbackMetric:
    return PullbackMetric(toy.module, toy.configuration, toy.inputs, cost=cost)


def drift(toy: Toy, point: torch.Tensor, target: torch.Tensor) -> float:
    return float((toy.function(point) - target).square().sum(1).mean().sqrt())


def without(point: torch.Tensor, coordinates: list[int]) -> torch.Tensor:
    stop = point.clone()
    stop[coordinates] = 0.0
    return stop


def test_equals_the_dense_least_squares_solution_on_a_linear_network():
    """One Gauss-Newton step is exact there: ridge regression of the drift on the free columns of J."""
    toy, damping = linear_toy(probes=6), 0.01
    stop = without(toy.point, [0, 4])
    free = ~led_coordinates(toy.point, stop)
    target = toy.function(toy.point)
    found = correct(metric_of(toy), stop, target, free, damping=damping, tolerance=1e-6)
    rows = dense_jacobian(toy.function, stop).flatten(0, 1)[:, free]
    gram = rows.T @ rows / 6 + damping * torch.eye(int(free.sum()), dtype=torch.float64)
    moved = torch.linalg.solve(gram, rows.T @ (target - toy.function(stop)).flatten() / 6)
    assert found.status is CorrectionStatus.CONVERGED
    assert (found.point - stop)[free].numpy() == pytest.approx(moved.numpy(), abs=1e-3 * float(moved.norm()))
    assert torch.equal(found.point[~free], stop[~free])
    assert found.drift_before == pytest.approx(drift(toy, stop, target), rel=tolerances.FLOAT64)
    assert found.drift_after == pytest.approx(drift(toy, found.point, target), rel=tolerances.FLOAT64)


@pytest.mark.parametrize("toy", [curved_toy(4), convolutional_toy()])
def test_stationary_and_no_worse(toy):
    """At a converged point the gradient of the objective vanishes in the free coordinates."""
    damping = 1e-3
    stop = without(toy.point, [0, 1])
    free = ~led_coordinates(toy.point, stop)
    target = toy.function(toy.point)
    found = correct(metric_of(toy), stop, target, free, damping=damping, max_steps=50, tolerance=1e-12)
    assert found.status is not CorrectionStatus.MAX_STEPS
    assert found.drift_after < found.drift_before

    def objective(point: torch.Tensor) -> torch.Tensor:
        return (toy.function(point) - target).square().sum(1).mean() + damping * (point - stop).square().sum()

    slopes = [torch.func.grad(objective)(point)[free] for point in (stop, found.point)]
    assert float(slopes[1].norm()) <= 1e-3 * float(slopes[0].norm())
    assert float(objective(found.point)) < float(objective(stop))


def test_shrinks_a_step_that_goes_too_far():
    """Far from the target the network saturates and a full step overshoots; what comes back is never worse."""
    toy = curved_toy(3)
    start = 4 * random_vector(9, 3)
    target = toy.function(toy.point)
    free = torch.ones(9, dtype=torch.bool)
    for steps in range(5):
        found = correct(metric_of(toy), start, target, free, damping=1e-6, max_steps=steps)
        assert found.drift_after**2 <= found.drift_before**2 * (1 + tolerances.FLOAT64)
        assert found.steps <= steps
    assert found.drift_after < found.drift_before


def test_led_coordinates_go_straight_and_the_rest_makes_up_for_it():
    toy = convolutional_toy()
    stop = without(toy.point, list(range(9)))  # the first filter's weights
    led = led_coordinates(toy.point, stop)
    metric, target = metric_of(toy), toy.function(toy.point)
    found = corrected_path(metric, toy.point, stop, legs=4, damping=1e-3)
    assert torch.equal(found.points[0], toy.point)
    assert torch.equal(found.points[-1], stop)
    assert len(found.points) == 5
    assert len(found.corrections) == 3
    for leg, point in enumerate(found.points):
        expected = torch.lerp(toy.point, stop, leg / 4)
        assert point[led].numpy() == pytest.approx(expected[led].numpy(), abs=1e-15)
        if 0 < leg < 4:
            assert drift(toy, point, target) < 0.5 * drift(toy, expected, target)
    assert found.status in CorrectionStatus


def test_a_free_end_is_a_better_network_of_the_same_sparsity():
    toy = convolutional_toy()
    stop = without(toy.point, list(range(9)))
    target = toy.function(toy.point)
    found = corrected_path(metric_of(toy), toy.point, stop, legs=2, damping=1e-3, free_end=True)
    assert len(found.corrections) == 2
    assert not found.points[-1][:9].any()
    assert drift(toy, found.points[-1], target) < 0.5 * drift(toy, stop, target)


def test_what_is_zero_at_either_end_is_led():
    start, stop = torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 3.0])
    assert led_coordinates(start, stop).tolist() == [True, True, True, False]


def test_nothing_to_correct():
    toy = curved_toy()
    free = torch.ones(6, dtype=torch.bool)
    found = correct(metric_of(toy), toy.point, toy.function(toy.point), free, damping=1.0)
    assert found.status is CorrectionStatus.CONVERGED
    assert torch.equal(found.point, toy.point)
    assert found.steps == 0


def test_says_when_steps_run_out():
    toy = curved_toy(3)
    found = correct(
        metric_of(toy), 4 * random_vector(9, 3), toy.function(toy.point), torch.ones(9, dtype=torch.bool),
        damping=1e-6, max_steps=0,
    )  # fmt: skip
    assert found.status is CorrectionStatus.MAX_STEPS
    assert "allow more" in found.status.value


def test_cost_is_counted():
    toy, cost = convolutional_toy(), CostMeter()
    corrected_path(metric_of(toy, cost), toy.point, without(toy.point, [0]), legs=3, damping=1e-2)
    assert cost.forward_passes > 2 * 5 * (1 + 2 + 4)  # two waypoints, five probes: a point, a slope, an application


def test_same_bits_and_untouched_arguments():
    toy = convolutional_toy()
    stop = without(toy.point, [0, 1, 2])
    before = toy.point.clone(), stop.clone()
    paths = [corrected_path(metric_of(toy), toy.point, stop, legs=3, damping=1e-2) for _ in range(2)]
    assert torch.equal(torch.stack(paths[0].points), torch.stack(paths[1].points))
    assert torch.equal(toy.point, before[0])
    assert torch.equal(stop, before[1])


def test_misuse_raises():
    toy = curved_toy()
    metric, target = metric_of(toy), toy.function(toy.point)
    everything = torch.ones(6, dtype=torch.bool)
    for name, value in (("damping", 0.0), ("max_steps", -1), ("tolerance", 0.0)):
        with pytest.raises(PathError, match=f"{name} {value}"):
            correct(metric, toy.point, target, everything, **{"damping": 1.0, name: value})
    with pytest.raises(PathError, match="0 entries set"):
        correct(metric, toy.point, target, ~everything, damping=1.0)
    with pytest.raises(PathError, match="expected a bool vector"):
        correct(metric, toy.point, target, everything.double(), damping=1.0)
    with pytest.raises(PathError, match="legs is 0"):
        corrected_path(metric, toy.point, 2 * toy.point, legs=0, damping=1.0)
