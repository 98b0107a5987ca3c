"""Refinement lowers the divergence it is stopped by, keeps what it must not touch, and never makes things worse."""

from __future__ import annotations

import pytest
import torch

from planner.cost import CostMeter
from planner.endpoint_search import EndPointSearch
from planner.narrow import narrow
from planner.network import trace
from planner.refine import RefineError, Settings, refine


@pytest.fixture(scope="module")
def network(trained, digits):
    return trace(trained, torch.from_numpy(digits.train_x[:2]))


@pytest.fixture(scope="module")
def data(digits):
    return torch.from_numpy(digits.train_x[:800]), torch.from_numpy(digits.train_x[800:1100])


@pytest.fixture(scope="module")
def end(network, data):
    search = EndPointSearch(network, data[0][:200], data[1][:100], CostMeter())
    return search.build("deep", {"conv1": tuple(range(8)), "conv2": tuple(range(16)), "fc1": tuple(range(30))})


def divergence(network, tensors, inputs):
    with torch.no_grad():
        outputs = torch.func.functional_call(network.module, dict(tensors), (inputs,))
        return float((outputs - network.module(inputs)).double().square().sum(1).mean().sqrt())


def test_it_lowers_the_divergence(network, end, data, digits):
    cost = CostMeter()
    settings = Settings(passes=6, rate=1e-3)
    found = refine(network, end, *data, settings, cost=cost)
    assert found.kept > 0
    assert found.divergence[found.kept] == min(found.divergence)
    assert found.divergence[found.kept] < 0.9 * found.divergence[0]
    assert divergence(network, found.end.tensors, data[1]) == pytest.approx(found.divergence[found.kept], rel=1e-4)
    unseen = torch.from_numpy(digits.train_x[1100:])
    assert divergence(network, found.end.tensors, unseen) < 0.9 * divergence(network, end.tensors, unseen)
    trained, checks = found.samples[-1], len(found.divergence)
    assert cost.forward_passes == 4 * trained + (checks + 1) * len(data[1])


def test_units_that_are_gone_stay_gone_and_nothing_else_moves(network, end, data):
    found = refine(network, end, *data, Settings(passes=6, rate=1e-3))
    assert found.kept > 0
    assert found.end.removed == end.removed
    for layer in network.layers:
        gone, weight = list(end.removed.get(layer.name, ())), found.end.tensors[layer.weight]
        assert not weight[gone].any()
        assert not found.end.tensors[layer.bias][gone].any()
        absent = sorted(set(range(layer.columns)) - set(end.kept_columns(layer)))
        assert not weight.flatten(1)[:, absent].any()
    only = EndPointSearch(network, data[0][:200], data[1][:100], CostMeter()).build("fc", {"fc1": tuple(range(30))})
    refined = refine(network, only, *data, Settings(passes=6, rate=1e-3))
    assert refined.kept > 0
    for name in ("conv1", "conv2"):
        assert torch.equal(refined.end.tensors[f"{name}.weight"], network.module.state_dict()[f"{name}.weight"])


def test_the_same_settings_give_the_same_bits(network, end, data):
    one, other = (refine(network, end, *data, Settings(passes=0.5, rate=1e-3, shift=1, seed=3)) for _ in range(2))
    assert one.divergence == other.divergence
    assert all(torch.equal(one.end.tensors[name], other.end.tensors[name]) for name in one.end.tensors)
    another = refine(network, end, *data, Settings(passes=0.5, rate=1e-3, shift=1, seed=4))
    assert another.divergence[1:] != one.divergence[1:]


def test_a_refinement_that_harms_is_dropped(network, end, data):
    """Each check is worse than the start: it stops early and returns the very end point it was given."""
    found = refine(network, end, *data, Settings(passes=4, rate=0.5, checks=16, patience=2))
    assert found.end is end
    assert found.kept == 0
    assert len(found.divergence) == 3


def test_labels_count_where_they_are_asked_to(network, end, data, digits):
    labels = torch.from_numpy(digits.train_y[:800])
    settings = Settings(passes=6, rate=1e-3)
    alone, unused, used = (
        refine(network, end, *data, settings if not weight else Settings(passes=6, rate=1e-3, label_weight=weight),
               labels=labels if weight is not None else None)
        for weight in (None, 0.0, 5.0)
    )  # fmt: skip
    assert all(torch.equal(alone.end.tensors[name], unused.end.tensors[name]) for name in end.tensors)

    def loss(found):
        with torch.no_grad():
            outputs = torch.func.functional_call(network.module, dict(found.end.tensors), (data[0],))
        return float(torch.nn.functional.cross_entropy(outputs, labels))

    assert loss(used) < 0.95 * loss(alone)
    for wrong in (None, labels[:-1]):
        with pytest.raises(RefineError, match="expected one for each of 800 inputs"):
            refine(network, end, *data, Settings(label_weight=1.0), labels=wrong)


def test_nothing_to_refine_is_refused(network, data):
    dense = EndPointSearch(network, data[0][:200], data[1][:100], CostMeter()).build("C1", {})
    with pytest.raises(RefineError, match=r"mode 'C1': found no layer that differs"):
        refine(network, dense, *data)


def test_the_narrow_network_shares_no_memory_with_the_dense_one(network, end):
    theirs = {tensor.data_ptr() for tensor in network.module.state_dict().values()}
    assert theirs.isdisjoint(tensor.data_ptr() for tensor in narrow(network, end).state_dict().values())
