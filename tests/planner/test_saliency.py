"""The estimate of the metric's diagonal against the diagonal itself."""

import pytest
import torch
from torch.func import functional_call, jacrev

from planner.configuration import ConfigurationError
from planner.cost import CostMeter
from planner.network import trace
from planner.saliency import diagonal
from tests.planner.exported import Net

PROBES = 600
SIX_SIGMA = 6 * (2 / PROBES) ** 0.5
"""A squared normal covector has variance 2; the mean over the probes of one and the same input is this good."""


def network():
    torch.manual_seed(0)
    return trace(Net().eval(), torch.zeros(1, 1, 8, 8))


def exact(traced, names, sample):
    """|∂f/∂w|² summed over the outputs, by the dense Jacobian."""
    state = traced.module.state_dict()
    jacobian = jacrev(lambda moved: functional_call(traced.module, {**state, **moved}, (sample[None],))[0])
    return {key: rows.square().sum(0) for key, rows in jacobian({key: state[key] for key in names}).items()}


def test_the_estimate_is_the_diagonal_of_the_dense_metric():
    traced = network()
    names = ["conv3.weight", "fc1.weight", "fc2.weight"]
    sample = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = diagonal(traced, traced.module.state_dict(), names, sample.expand(PROBES, 1, 8, 8))
    for key, wanted in exact(traced, names, sample).items():
        # Each entry is |J_i|² times the mean of squared normal numbers.
        assert (found[key] - wanted).abs().le(SIX_SIGMA * wanted + 1e-7).all(), key


def test_it_is_the_mean_over_the_probes():
    traced = network()
    state = traced.module.state_dict()
    inputs = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    both = diagonal(traced, state, ["fc2.weight"], inputs.repeat(20, 1, 1, 1))["fc2.weight"]
    each = torch.stack([exact(traced, ["fc2.weight"], one)["fc2.weight"] for one in inputs]).mean(0)
    assert (both - each).abs().sum() <= 0.1 * each.sum()


def test_cost_and_seed():
    traced, cost = network(), CostMeter()
    state, inputs = traced.module.state_dict(), torch.ones(10, 1, 8, 8)
    one, same, other = (diagonal(traced, state, ["fc1.weight"], inputs, seed=s, cost=cost) for s in (1, 1, 2))
    assert cost.forward_passes == 3 * 3 * len(inputs)
    assert torch.equal(one["fc1.weight"], same["fc1.weight"])
    assert not torch.equal(one["fc1.weight"], other["fc1.weight"])


def test_no_probes():
    traced = network()
    with pytest.raises(ConfigurationError, match="no probe inputs"):
        diagonal(traced, traced.module.state_dict(), ["fc1.weight"], torch.empty(0, 1, 8, 8))
