from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.configuration import ShapeMismatch
from planner.metric import PullbackMetric
from planner.tangent import PAPER_RADIUS, SolveStatus, TangentError, TangentSolution, solve
from tests import tolerances
from tests.oracles import (
    DenseTangent,
    convolutional_toy,
    curved_toy,
    dense_jacobian,
    dense_metric,
    dense_tangent,
    random_vector,
)


def metric_with(values: list[float], seed: int) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues in a random basis."""
    size = len(values)
    basis, _ = torch.linalg.qr(random_vector(size * size, seed).view(size, size))
    dense = basis * torch.tensor(values, dtype=torch.float64) @ basis.T
    return (dense + dense.T) / 2


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def solve_dense(metric: torch.Tensor, direction: torch.Tensor, **settings: float) -> TangentSolution:
    return solve(lambda tangent: metric @ tangent, direction, tolerance=tolerances.KKT_RESIDUAL, **settings)


def assert_solves(
    found: TangentSolution, expected: DenseTangent, metric: torch.Tensor, direction: torch.Tensor, beta: float,
    radius: float,
) -> None:  # fmt: skip
    assert found.status is SolveStatus.CONVERGED
    assert float((found.tangent - expected.tangent).norm()) <= tolerances.TANGENT * radius
    # The optimality conditions, all of them, without the oracle.
    size, pull = float(found.tangent.norm()), beta / 2 * direction
    residual = metric @ found.tangent + found.multiplier * found.tangent - pull
    assert float(residual.norm() / pull.norm()) <= tolerances.KKT_RESIDUAL
    assert found.kkt_residual == pytest.approx(float(residual.norm() / pull.norm()), abs=tolerances.FLOAT64)
    assert found.multiplier >= 0
    assert size <= radius * (1 + tolerances.RADIUS)
    assert found.active == (found.multiplier > 0)
    if found.active:
        assert size == pytest.approx(radius, rel=tolerances.RADIUS)


@given(
    st.lists(st.floats(-3, 1).map(lambda power: 10.0**power), min_size=1, max_size=10),
    st.integers(0, 4),
    st.floats(-4, 3),
    st.floats(-2, 1),
    st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_dense_solution(values, nullity, log_beta, log_radius, seed):
    metric = metric_with([*values, *[0.0] * nullity], seed)
    direction = unit(random_vector(len(metric), seed + 1))
    beta, radius = 10.0**log_beta, 10.0**log_radius
    found = solve_dense(metric, direction, beta=beta, radius=radius)
    expected = dense_tangent(metric, direction, beta, radius)
    # The residual's tolerance is relative to |(β/2) v|; a small λ lets it weigh more in the tangent than asked here.
    if expected.multiplier == 0 or expected.multiplier > 1e-2 * beta / radius:
        assert_solves(found, expected, metric, direction, beta, radius)
    assert found.status is SolveStatus.CONVERGED
    assert found.multiplier == pytest.approx(expected.multiplier, rel=1e-4, abs=1e-12 * beta)


@pytest.mark.parametrize("probes", [1, 2, 30])
@pytest.mark.parametrize("beta", [1e-3, 0.1, 10.0, 1e4])
def test_of_a_network(probes, beta):
    """1 and 2 probes: fewer outputs than weights, so that g is singular and the constraint always active."""
    toy = convolutional_toy(probes)
    dense = dense_metric(toy.function, toy.point)
    direction = unit(random_vector(len(dense), 3))
    local = PullbackMetric(toy.module, toy.configuration, toy.inputs).at(toy.point)
    found = solve(local.apply, direction, beta=beta, tolerance=tolerances.KKT_RESIDUAL)
    assert_solves(found, dense_tangent(dense, direction, beta, PAPER_RADIUS), dense, direction, beta, PAPER_RADIUS)
    assert found.active
    assert found.iterations <= toy.function(toy.point).numel() + 1  # the rank, and what of v no probe sees


def test_interior():
    metric = metric_with([1.0, 2.0, 5.0], 0)
    direction = unit(random_vector(3, 1))
    found = solve_dense(metric, direction, beta=0.01)
    assert not found.active
    assert found.multiplier == 0.0
    assert found.tangent.numpy() == pytest.approx(torch.linalg.solve(metric, 0.005 * direction).numpy(), abs=1e-12)


def test_interior_of_a_singular_metric():
    """v in the range of g: the null space does not pull, and the solution is the pseudo-inverse's."""
    metric = metric_with([1.0, 2.0, 5.0, 0.0, 0.0], 0)
    direction = unit(metric @ random_vector(5, 1))
    found = solve_dense(metric, direction, beta=0.01)
    assert not found.active
    expected = torch.linalg.pinv(metric, rtol=1e-10) @ (0.005 * direction)
    assert found.tangent.numpy() == pytest.approx(expected.numpy(), abs=1e-10)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_eigenvector_takes_one_iteration(value):
    direction = unit(random_vector(6, 4))
    found = solve(lambda tangent: value * tangent, direction, beta=2.0)
    assert found.iterations == 1
    assert found.status is SolveStatus.CONVERGED
    assert found.tangent.numpy() == pytest.approx((PAPER_RADIUS * direction).numpy(), abs=1e-15)
    assert found.multiplier == pytest.approx(1 / PAPER_RADIUS - value)


def test_zero_is_the_answer_to_no_pull():
    for beta, direction in ((0.0, unit(random_vector(4, 5))), (1.0, torch.zeros(4))):
        found = solve(lambda tangent: tangent, direction, beta=beta)
        assert torch.equal(found.tangent, torch.zeros_like(direction))
        assert found.status is SolveStatus.CONVERGED
        assert not found.active


def test_dual():
    """θ = (β/2λ) [v − Jᵀ(NλI + JJᵀ)⁻¹Jv], the same vector found in the space of outputs."""
    toy, beta = curved_toy(3, probes=4), 0.5
    direction = unit(random_vector(9, 6))
    local = PullbackMetric(toy.module, toy.configuration, toy.inputs).at(toy.point)
    found = solve(local.apply, direction, beta=beta, tolerance=tolerances.KKT_RESIDUAL)
    rows = dense_jacobian(toy.function, toy.point).flatten(0, 1)
    kernel = 4 * found.multiplier * torch.eye(4, dtype=torch.float64) + rows @ rows.T
    dual = beta / 2 / found.multiplier * (direction - rows.T @ torch.linalg.solve(kernel, rows @ direction))
    assert float((found.tangent - dual).norm()) <= tolerances.TANGENT * PAPER_RADIUS


def test_damping_and_beta_are_one_parameter_on_the_boundary():
    metric = metric_with([0.0, 0.1, 1.0, 10.0], 1)
    direction = unit(random_vector(4, 7))
    plain = solve_dense(metric, direction, beta=1.0)
    assert plain.active
    # Damping below the multiplier is taken off it, and the tangent stays.
    damped = solve_dense(metric, direction, beta=1.0, damping=0.6 * plain.multiplier)
    assert damped.multiplier == pytest.approx(0.4 * plain.multiplier, rel=tolerances.TANGENT)
    assert float((damped.tangent - plain.tangent).norm()) <= tolerances.TANGENT * PAPER_RADIUS
    # Damping above it takes the tangent inside: the direction is that of a larger β on the boundary.
    inside = solve_dense(metric, direction, beta=1.0, damping=3 * plain.multiplier)
    assert not inside.active
    shifted = metric + 3 * plain.multiplier * torch.eye(4, dtype=torch.float64)
    larger = PAPER_RADIUS / float(inside.tangent.norm())
    boundary = solve_dense(metric, direction, beta=larger)
    assert boundary.active
    assert float((unit(boundary.tangent) - unit(inside.tangent)).norm()) <= tolerances.TANGENT
    assert float((shifted @ inside.tangent - direction / 2).norm()) <= tolerances.KKT_RESIDUAL


@given(st.floats(-2, 2), st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_scaling_laws(log_metric, log_radius):
    """(cg, cβ) has the tangent of (g, β), and (sβ, sΔ) has s times it."""
    metric, direction = metric_with([0.0, 0.3, 1.0, 4.0], 2), unit(random_vector(4, 8))
    c, s = 10.0**log_metric, 10.0**log_radius
    plain = solve_dense(metric, direction, beta=0.7).tangent
    assert float((solve_dense(c * metric, direction, beta=0.7 * c).tangent - plain).norm()) <= tolerances.TANGENT * 0.1
    scaled = solve_dense(metric, direction, beta=0.7 * s, radius=0.1 * s).tangent
    assert float((scaled - s * plain).norm()) <= tolerances.TANGENT * 0.1 * s


def test_more_iterations_lower_the_objective():
    metric, direction = metric_with([10.0**-place for place in range(10)], 3), unit(random_vector(10, 9))
    objectives = []
    for most in range(1, 11):
        found = solve_dense(metric, direction, beta=0.1, max_iterations=most)
        objectives.append(float(found.tangent @ metric @ found.tangent - 0.1 * found.tangent @ direction))
        assert found.iterations <= most
        assert float(found.tangent.norm()) <= PAPER_RADIUS * (1 + tolerances.RADIUS)
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] < objectives[0]


def test_says_what_to_do_when_iterations_run_out():
    metric, direction = metric_with([10.0**-place for place in range(10)], 3), unit(random_vector(10, 9))
    found = solve_dense(metric, direction, beta=1e-3, max_iterations=3)
    assert found.status is SolveStatus.MAX_ITERATIONS
    assert found.kkt_residual > tolerances.KKT_RESIDUAL
    assert "allow more" in found.status.value


def test_says_what_to_do_when_precision_runs_out():
    metric = metric_with([10.0**-place for place in range(10)], 3).float()
    found = solve_dense(metric, unit(random_vector(10, 9)).float(), beta=1e-3)
    assert found.status is SolveStatus.BREAKDOWN
    assert "float64" in found.status.value


def test_single_precision_to_its_default_tolerance():
    metric = metric_with([100 * 0.7**place for place in range(40)], 4)
    direction = unit(random_vector(40, 10))
    found = solve(lambda tangent: metric.float() @ tangent, direction.float(), beta=1.0)
    assert found.status is SolveStatus.CONVERGED
    assert found.tangent.dtype == torch.float32
    expected = dense_tangent(metric, direction, 1.0, PAPER_RADIUS).tangent
    assert float((found.tangent.double() - expected).norm()) <= 1e-2 * PAPER_RADIUS


def test_same_bits_and_untouched_arguments():
    metric, direction = metric_with([0.0, 0.5, 1.0, 2.0, 8.0], 5), unit(random_vector(5, 11))
    before = direction.clone()
    first, second = (solve_dense(metric, direction, beta=0.3) for _ in range(2))
    assert torch.equal(first.tangent, second.tangent)
    assert first.multiplier == second.multiplier
    assert torch.equal(direction, before)


def test_misuse_raises():
    direction = unit(random_vector(3, 12))
    with pytest.raises(TangentError, match="negative eigenvalue"):
        solve(lambda tangent: -tangent, direction, beta=1.0)
    with pytest.raises(TangentError, match="not finite"):
        solve(lambda tangent: tangent * math.nan, direction, beta=1.0)
    with pytest.raises(ShapeMismatch, match=r"shape \[2\].*expected torch.float64 of shape \[3\]"):
        solve(lambda tangent: tangent[:2], direction, beta=1.0)
    with pytest.raises(ShapeMismatch, match="expected a floating-point vector"):
        solve(lambda tangent: tangent, direction[None], beta=1.0)
    with pytest.raises(TangentError, match="entries that are not finite"):
        solve(lambda tangent: tangent, direction * math.inf, beta=1.0)
    for name, value in (("beta", -1.0), ("radius", 0.0), ("damping", math.nan), ("tolerance", 0.0)):
        with pytest.raises(TangentError, match=f"{name} is {value}"):
            solve(lambda tangent: tangent, direction, **{"beta": 1.0, name: value})
    with pytest.raises(TangentError, match="max_iterations is 0"):
        solve(lambda tangent: tangent, direction, beta=1.0, max_iterations=0)
