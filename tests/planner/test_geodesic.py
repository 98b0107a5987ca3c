from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.configuration import Configuration, ShapeMismatch
from planner.cost import CostMeter
from planner.dual import Solver
from planner.geodesic import Flow, FlowStatus, PathError, flow, functional_length
from planner.metric import PullbackMetric
from planner.tangent import TangentError
from tests import tolerances
from tests.oracles import Toy, convolutional_toy, curved_toy, linear_toy, random_vector


def metric_of(toy: Toy, cost: CostMeter | None = None) -> PullbackMetric:
    return PullbackMetric(toy.module, toy.configuration, toy.inputs, cost=cost)


def follow(toy: Toy, seed: int = 1, **settings: float) -> tuple[Flow, torch.Tensor, torch.Tensor]:
    start, end = random_vector(toy.configuration.size, seed), random_vector(toy.configuration.size, seed + 1)
    return flow(metric_of(toy), start, end, **{"beta": 1.0, **settings}), start, end


def test_functional_length_by_hand():
    outputs = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 2.0]]])
    assert functional_length(outputs) == pytest.approx(math.sqrt(25 / 2) + math.sqrt(4 / 2))
    assert functional_length(list(outputs)) == functional_length(outputs)
    assert functional_length(outputs[:1]) == 0.0


@given(st.integers(1, 6), st.integers(0, 2**31))
@settings(deadline=None)
def test_functional_length_is_a_length(legs, seed):
    outputs = random_vector((legs + 1) * 6, seed).view(legs + 1, 3, 2)
    length = functional_length(outputs)
    assert functional_length(outputs.flip(0)) == pytest.approx(length)
    assert functional_length(outputs[[0, -1]]) <= length * (1 + tolerances.FLOAT64)  # a chord is no longer than a path
    assert functional_length(2 * outputs + 1) == pytest.approx(2 * length)
    midpoints = torch.stack([outputs[:-1], (outputs[:-1] + outputs[1:]) / 2], dim=1).flatten(0, 1)
    assert functional_length([*midpoints, outputs[-1]]) == pytest.approx(length)


@pytest.mark.parametrize("toy", [curved_toy(), convolutional_toy(), linear_toy()])
@pytest.mark.parametrize("beta", [0.01, 1.0, 100.0])
def test_ends_on_the_end_and_never_turns_back(toy, beta):
    found, start, end = follow(toy, beta=beta)
    assert torch.equal(found.points[0], start)
    assert torch.equal(found.points[-1], end)
    assert len(found.points) == len(found.lengths) + 1 == len(found.distances) + 1
    assert all(after < before for before, after in zip(found.distances, found.distances[1:], strict=False))
    distances = [float((end - point).norm()) for point in found.points[:-1]]
    assert found.distances == pytest.approx(distances, rel=tolerances.FLOAT64)
    assert found.unsolved == 0


def test_a_long_step_ends_nearest_to_the_end():
    """It may not pass the foot of the perpendicular from the end: from there on it would lead away."""
    found, start, end = follow(convolutional_toy(), beta=0.01, step=1.0, max_steps=1)
    taken, left = found.points[1] - start, end - found.points[1]
    assert len(found.points) == 3
    assert abs(float(taken @ left)) <= tolerances.FLOAT64 * float(taken.norm() * left.norm())


def test_length_is_that_of_its_outputs():
    toy = curved_toy()
    found, _, _ = follow(toy)
    assert found.length == pytest.approx(functional_length([toy.function(point) for point in found.points]))


def test_a_large_beta_goes_straight():
    found, start, end = follow(curved_toy(), beta=1e6)
    assert found.status is FlowStatus.ARRIVED
    way = (end - start) / (end - start).norm()
    for point in found.points:
        aside = (point - start) - ((point - start) @ way) * way
        assert float(aside.norm()) <= 1e-3 * float((end - start).norm())


def test_a_small_beta_first_goes_where_the_function_changes_least():
    """One leg of equal length under either β: the smaller changes the function less."""
    straight, _, _ = follow(curved_toy(), beta=1e6, max_steps=1)
    careful, _, _ = follow(curved_toy(), beta=0.01, max_steps=1)
    assert careful.lengths[0] < straight.lengths[0]


def test_is_no_geodesic():
    """The metric of a linear network is constant and its geodesics are straight: the flow's curve is longer."""
    toy = linear_toy(probes=20)
    found, start, end = follow(toy, beta=0.1, max_iterations=20)
    line = functional_length([toy.function(start), toy.function(end)])
    assert found.length > 1.01 * line


def test_stops_where_the_tangent_leads_nowhere():
    found, _, end = follow(curved_toy(), beta=1e-9, damping=0.0, step=1e-4)
    assert found.status is FlowStatus.STALLED
    assert torch.equal(found.points[-1], end)
    assert "raise beta" in found.status.value


def test_stops_when_the_steps_run_out():
    found, start, end = follow(curved_toy(), max_steps=3)
    assert found.status is FlowStatus.MAX_STEPS
    assert len(found.points) == 5
    none, _, _ = follow(curved_toy(), max_steps=0)
    assert torch.equal(torch.stack(none.points), torch.stack([start, end]))


def test_from_a_point_to_itself():
    toy = curved_toy()
    found = flow(metric_of(toy), toy.point, toy.point, beta=1.0)
    assert found.status is FlowStatus.ARRIVED
    assert found.length == 0.0
    assert all(torch.equal(point, toy.point) for point in found.points)


def test_counts_tangents_that_did_not_converge():
    found, _, _ = follow(convolutional_toy(), beta=0.01, max_iterations=1, tolerance=1e-6, solver=Solver.LANCZOS)
    assert found.unsolved > 0
    assert found.unsolved in (len(found.lengths), len(found.lengths) - 1)


def test_only_the_configuration_moves():
    toy = convolutional_toy(names=("0.weight", "6.bias"))
    before = {name: tensor.clone() for name, tensor in toy.module.state_dict().items()}
    found, _, _ = follow(toy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.module.state_dict().items())
    assert all(point.shape == (toy.configuration.size,) for point in found.points)


def test_same_bits_and_untouched_ends():
    first, start, end = follow(convolutional_toy())
    second, _, _ = follow(convolutional_toy())
    assert torch.equal(torch.stack(first.points), torch.stack(second.points))
    assert torch.equal(start, random_vector(len(start), 1))
    assert torch.equal(end, random_vector(len(end), 2))


def test_outputs_at_points_are_not_computed_twice():
    toy, cost = curved_toy(probes=6), CostMeter()
    start, end = random_vector(6, 1), random_vector(6, 2)
    found = flow(metric_of(toy, cost), start, end, beta=1.0, max_steps=2, max_iterations=1, tolerance=1.0)
    # A tangent: the point (1 + 2), one Krylov vector and one residual (2 × 4). Then outputs at the last two points.
    assert len(found.points) == 4
    assert cost.forward_passes == 6 * (2 * (3 + 8) + 2)


def test_misuse_raises():
    toy = curved_toy()
    for name, value in (("step", 0.0), ("step", 1.5), ("max_steps", -1), ("arrival", 1.0)):
        with pytest.raises(PathError, match=f"{name} {value}"):
            follow(toy, **{name: value})
    with pytest.raises(TangentError, match="beta is -1"):
        follow(toy, beta=-1.0)
    with pytest.raises(ShapeMismatch, match=r"waypoint 1 has shape \[5\]"):
        flow(metric_of(toy), toy.point, toy.point[:5], beta=1.0)
    with pytest.raises(ShapeMismatch, match=r"shape \[5\]"):
        flow(metric_of(toy), toy.point[:5], toy.point[1:], beta=1.0)
    with pytest.raises(ShapeMismatch, match="float32"):
        flow(metric_of(toy), toy.point.float(), toy.point.float() + 1, beta=1.0)


def test_a_configuration_of_another_network_is_refused():
    toy = curved_toy()
    other = Configuration.of(convolutional_toy().module.state_dict(), ("0.weight",))
    with pytest.raises(ShapeMismatch, match=r"'0\.weight'"):
        PullbackMetric(toy.module, other, toy.inputs)
