"""curvlinops, a library of matrix-free curvature by other people, computes the same metrics."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from planner.fisher import root_probabilities
from planner.metric import PullbackMetric
from tests import tolerances
from tests.oracles import Toy, convolutional_toy, linear_toy, random_vector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies, while it is imported
    import curvlinops

# Its einsum library still compiles with what PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")


def their_product(toy: Toy, loss: nn.Module, targets: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """Their generalised Gauss-Newton matrix, applied."""
    module = copy.deepcopy(toy.module).requires_grad_(True)
    names, parameters = zip(*module.named_parameters(), strict=True)
    assert names == toy.configuration.names  # in our order, so that flat vectors agree
    batches = list(zip(toy.inputs.split(2), targets.split(2), strict=True))
    theirs = curvlinops.GGNLinearOperator(module, loss, list(parameters), batches, check_deterministic=False)
    return (theirs @ tangent).detach()


@pytest.mark.parametrize("toy", [convolutional_toy(6), linear_toy(6)])
def test_the_pullback_metric_is_half_the_gauss_newton_matrix_of_the_squared_error(toy):
    tangent = random_vector(toy.configuration.size, 1)
    targets = toy.function(toy.point)
    theirs = their_product(toy, nn.MSELoss(reduction="sum"), targets, tangent)
    ours = PullbackMetric(toy.module, toy.configuration, toy.inputs).apply(toy.point, tangent)
    assert (theirs / (2 * len(toy.inputs))).numpy() == pytest.approx(ours.numpy(), rel=1e-9, abs=tolerances.FLOAT64)


@pytest.mark.parametrize("toy", [convolutional_toy(6), linear_toy(6)])
def test_the_fisher_metric_is_the_gauss_newton_matrix_of_the_cross_entropy(toy):
    tangent = random_vector(toy.configuration.size, 2)
    targets = torch.zeros(len(toy.inputs), dtype=torch.long)  # the labels do not enter
    theirs = their_product(toy, nn.CrossEntropyLoss(reduction="mean"), targets, tangent)
    ours = PullbackMetric(toy.module, toy.configuration, toy.inputs, reading=root_probabilities)
    found = ours.apply(toy.point, tangent)
    assert theirs.numpy() == pytest.approx(found.numpy(), rel=1e-9, abs=tolerances.FLOAT64)
