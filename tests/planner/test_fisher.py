from __future__ import annotations

import pytest
import torch

from planner.fisher import root_probabilities
from planner.geodesic import functional_length
from planner.metric import PullbackMetric
from tests import tolerances
from tests.oracles import Toy, convolutional_toy, dense_fisher, linear_toy, random_vector


def fisher_of(toy: Toy, batch_size: int = 256) -> PullbackMetric:
    return PullbackMetric(
        toy.module, toy.configuration, toy.inputs, batch_size=batch_size, reading=root_probabilities
    )  # fmt: skip


@pytest.mark.parametrize("toy", [convolutional_toy(), linear_toy()])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_equals_the_dense_fisher_metric(toy, batch_size):
    """diag p − p pᵀ between dense Jacobians of the logits: no 2√p in it."""
    dense = dense_fisher(toy.function, toy.point)
    tangent = random_vector(len(dense), 1)
    found = fisher_of(toy, batch_size).apply(toy.point, tangent)
    assert float((found - dense @ tangent).abs().max()) <= tolerances.FLOAT64 * max(1.0, float(found.abs().max()))


def test_is_blind_to_what_leaves_the_answer_alone():
    """A bias common to all logits shifts them; probabilities stay."""
    toy = linear_toy()
    shift = torch.zeros(8, dtype=torch.float64)
    shift[toy.configuration.slices["bias"]] = 1.0
    assert float(fisher_of(toy).length(toy.point, shift)) <= tolerances.FLOAT64
    plain = PullbackMetric(toy.module, toy.configuration, toy.inputs)
    assert float(plain.length(toy.point, shift)) == pytest.approx(2**0.5)


def test_twice_the_divergence_of_a_small_step():
    toy, step = convolutional_toy(), 1e-4
    tangent = random_vector(toy.configuration.size, 2)
    before, after = (torch.log_softmax(toy.function(toy.point + s * tangent), 1) for s in (0.0, step))
    divergence = float((before.exp() * (before - after)).sum(1).mean())
    square = float(fisher_of(toy).inner(toy.point, tangent, tangent))
    assert 2 * divergence / step**2 == pytest.approx(square, rel=1e-2)


def test_length_is_bounded_by_half_a_great_circle():
    """Two answers are never farther apart than a quarter of a circle of radius 2, and chords are shorter."""
    sure = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    assert functional_length([root_probabilities(one) for one in sure]) == pytest.approx(8**0.5)


def test_its_derivative_is_finite_where_a_probability_vanishes():
    logits = torch.tensor([[0.0, -1e4, 3.0]], requires_grad=True)
    root_probabilities(logits).sum().backward()
    assert bool(torch.isfinite(logits.grad).all())
