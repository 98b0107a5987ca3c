from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from planner.configuration import Configuration, ShapeMismatch
from planner.cost import CostMeter
from planner.dual import SampleSpace, Solver, solve_at
from planner.fisher import root_probabilities
from planner.geodesic import flow
from planner.metric import LocalMetric, PullbackMetric
from planner.tangent import PAPER_RADIUS, SolveStatus, TangentError, solve
from tests import tolerances
from tests.oracles import (
    Toy,
    convolutional_toy,
    curved_toy,
    dense_metric,
    dense_tangent,
    linear_toy,
    random_vector,
)


def local_of(toy: Toy, **settings: object) -> LocalMetric:
    return PullbackMetric(toy.module, toy.configuration, toy.inputs, **settings).at(toy.point)


def unit(size: int, seed: int) -> torch.Tensor:
    vector = random_vector(size, seed)
    return vector / vector.norm()


@pytest.mark.parametrize("probes", [1, 3, 30])
@pytest.mark.parametrize("beta", [1e-3, 0.1, 10.0, 1e4])
def test_three_solvers_agree(probes, beta):
    """Dual, Lanczos and the dense eigendecomposition; 30 probes have more outputs than there are weights."""
    toy = convolutional_toy(probes)
    direction = unit(toy.configuration.size, 3)
    local = local_of(toy)
    dual = SampleSpace(local).solve(direction, beta=beta, tolerance=tolerances.KKT_RESIDUAL)
    lanczos = solve(local.apply, direction, beta=beta, tolerance=tolerances.KKT_RESIDUAL)
    dense_g = dense_metric(toy.function, toy.point)
    dense = dense_tangent(dense_g, direction, beta, PAPER_RADIUS)
    assert dual.status is lanczos.status is SolveStatus.CONVERGED
    assert float((dual.tangent - dense.tangent).norm()) <= tolerances.TANGENT * PAPER_RADIUS
    assert float((dual.tangent - lanczos.tangent).norm()) <= tolerances.TANGENT * PAPER_RADIUS
    assert dual.multiplier == pytest.approx(dense.multiplier, rel=1e-4)
    assert dual.active
    assert float(dual.tangent.norm()) == pytest.approx(PAPER_RADIUS, rel=tolerances.TANGENT)
    residual = dense_g @ dual.tangent + dual.multiplier * dual.tangent - beta / 2 * direction
    assert dual.kkt_residual == pytest.approx(float(residual.norm()) / (beta / 2), abs=tolerances.FLOAT64)
    assert dual.iterations == torch.linalg.matrix_rank(dense_g, rtol=1e-12)


@given(st.floats(-3, 2), st.floats(-3, 1), st.floats(-4, 0), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_one_decomposition_serves_every_damping_and_radius(log_beta, log_radius, log_damping, seed):
    toy = curved_toy(3, probes=4)
    space, dense_g = SampleSpace(local_of(toy)), dense_metric(toy.function, toy.point)
    direction, damping = unit(9, seed), 10.0**log_damping
    beta, radius = 10.0**log_beta, 10.0**log_radius
    found = space.solve(direction, beta=beta, radius=radius, damping=damping, tolerance=tolerances.KKT_RESIDUAL)
    damped = dense_g + damping * torch.eye(9, dtype=torch.float64)
    expected = dense_tangent(damped, direction, beta, radius)
    assert found.status is SolveStatus.CONVERGED
    assert found.multiplier == pytest.approx(expected.multiplier, rel=1e-4, abs=1e-9 * beta)
    scale = float(expected.tangent.norm())
    assert float((found.tangent - expected.tangent).norm()) <= tolerances.TANGENT * scale


def test_the_blocks_do_not_matter():
    toy = convolutional_toy(7)
    direction = unit(toy.configuration.size, 5)
    row = 2 * toy.configuration.size * 8
    tangents = [
        SampleSpace(local_of(toy, batch_size=size), block_bytes=block).solve(direction, beta=0.1).tangent
        for size, block in ((256, 2**20), (256, 4 * row), (3, 6 * row), (1, 1))
    ]
    for other in tangents[1:]:
        assert float((other - tangents[0]).norm()) <= tolerances.TANGENT * PAPER_RADIUS


def test_of_the_fisher_metric():
    toy = convolutional_toy(4)
    direction = unit(toy.configuration.size, 6)
    local = local_of(toy, reading=root_probabilities)
    dual = SampleSpace(local).solve(direction, beta=0.01, tolerance=tolerances.KKT_RESIDUAL)
    lanczos = solve(local.apply, direction, beta=0.01, tolerance=tolerances.KKT_RESIDUAL)
    assert dual.iterations == 4  # two probabilities sum to one: one direction a probe
    assert float((dual.tangent - lanczos.tangent).norm()) <= tolerances.TANGENT * PAPER_RADIUS


def test_a_direction_that_the_probes_see_whole():
    """v in the range of g, inside the ball: the pseudo-inverse."""
    toy = convolutional_toy(2)
    dense_g = dense_metric(toy.function, toy.point)
    direction = dense_g @ random_vector(len(dense_g), 7)
    direction /= direction.norm()
    smallest = float(torch.linalg.eigvalsh(dense_g)[-4])
    found = SampleSpace(local_of(toy)).solve(direction, beta=0.01 * smallest, tolerance=tolerances.KKT_RESIDUAL)
    assert not found.active
    assert found.multiplier == 0.0
    expected = torch.linalg.pinv(dense_g, rtol=1e-10) @ (0.005 * smallest * direction)
    assert float((found.tangent - expected).norm()) <= tolerances.TANGENT * float(expected.norm())


def test_zero_is_the_answer_to_no_pull():
    space = SampleSpace(local_of(curved_toy()))
    found = space.solve(unit(6, 1), beta=0.0)
    assert torch.equal(found.tangent, torch.zeros(6, dtype=torch.float64))
    assert found.status is SolveStatus.CONVERGED


def test_single_precision():
    toy = convolutional_toy(6)
    local = PullbackMetric(toy.module, toy.configuration, toy.inputs.float()).at(toy.point.float())
    direction = unit(toy.configuration.size, 8)
    found = SampleSpace(local).solve(direction.float(), beta=0.1, tolerance=1e-5)
    assert found.tangent.dtype == torch.float32
    expected = dense_tangent(dense_metric(toy.function, toy.point), direction, 0.1, PAPER_RADIUS).tangent
    assert float((found.tangent.double() - expected).norm()) <= 1e-3 * PAPER_RADIUS


def test_says_what_to_do_when_precision_runs_out():
    toy = convolutional_toy(6)
    local = PullbackMetric(toy.module, toy.configuration, toy.inputs.float()).at(toy.point.float())
    found = SampleSpace(local).solve(unit(toy.configuration.size, 8).float(), beta=1e-9, tolerance=1e-6)
    assert found.status is SolveStatus.BREAKDOWN
    assert found.kkt_residual > 1e-6
    assert "float64" in found.status.value


def test_the_smaller_problem_is_solved(monkeypatch):
    few, many = convolutional_toy(2), convolutional_toy(40)
    for toy, dual in ((few, True), (many, False)):
        direction = unit(toy.configuration.size, 9)
        cost = CostMeter()
        found = solve_at(local_of(toy, cost=cost), direction, beta=0.1, tolerance=tolerances.KKT_RESIDUAL)
        by_hand = CostMeter()
        local = local_of(toy, cost=by_hand)
        expected = (
            SampleSpace(local).solve(direction, beta=0.1, tolerance=tolerances.KKT_RESIDUAL)
            if dual
            else solve(local.apply, direction, beta=0.1, tolerance=tolerances.KKT_RESIDUAL)
        )
        assert torch.equal(found.tangent, expected.tangent)
        assert cost.forward_passes == by_hand.forward_passes
    monkeypatch.setattr("planner.dual.KERNEL_PRODUCTS", 10)
    found = solve_at(local_of(few), unit(few.configuration.size, 9), beta=0.1)
    assert torch.equal(found.tangent, solve(local_of(few).apply, unit(few.configuration.size, 9), beta=0.1).tangent)


def test_either_solver_makes_the_same_path():
    toy = convolutional_toy(3)
    metric = PullbackMetric(toy.module, toy.configuration, toy.inputs)
    end = toy.point + 0.5 * random_vector(toy.configuration.size, 10)
    paths = [
        flow(metric, toy.point, end, beta=0.1, tolerance=tolerances.KKT_RESIDUAL, solver=solver)
        for solver in (Solver.DUAL, Solver.LANCZOS)
    ]
    assert paths[0].status is paths[1].status
    assert paths[0].unsolved == paths[1].unsolved == 0
    far = (torch.stack(paths[0].points) - torch.stack(paths[1].points)).norm(dim=1)
    assert float(far.max()) <= tolerances.TANGENT * float((end - toy.point).norm()) * len(far)


def test_cost_counts_every_backward_pass():
    toy, cost = linear_toy(probes=4), CostMeter()
    local = PullbackMetric(toy.module, toy.configuration, toy.inputs, cost=cost).at(toy.point)
    before = cost.forward_passes
    SampleSpace(local)
    assert cost.forward_passes - before == 4 + 2 * 4 * 2  # a forward pass a probe, a backward pass an output


def test_works_with_activations_written_in_place():
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2))
    module = module.double().requires_grad_(False)
    configuration = Configuration.of(module.state_dict(), ("0.weight", "4.weight"))
    inputs = random_vector(5 * 9, 11).view(5, 1, 3, 3)
    local = PullbackMetric(module, configuration, inputs).at(configuration.flatten(module.state_dict()))
    direction = unit(configuration.size, 12)
    found = SampleSpace(local).solve(direction, beta=0.1, tolerance=tolerances.KKT_RESIDUAL)
    expected = solve(local.apply, direction, beta=0.1, tolerance=tolerances.KKT_RESIDUAL)
    assert float((found.tangent - expected.tangent).norm()) <= tolerances.TANGENT * PAPER_RADIUS


def test_misuse_raises():
    space = SampleSpace(local_of(curved_toy()))
    with pytest.raises(TangentError, match="radius is 0"):
        space.solve(unit(6, 1), beta=1.0, radius=0.0)
    with pytest.raises(ShapeMismatch, match="expected a floating-point vector"):
        space.solve(unit(6, 1)[None], beta=1.0)
    with pytest.raises(ShapeMismatch, match=r"shape \[5\]"):
        space.solve(unit(5, 1), beta=1.0)
