from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from planner.configuration import Configuration, ConfigurationError, ShapeMismatch

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=5)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


@given(SHAPES, st.integers(0, 2**31))
def test_flatten_and_unflatten_are_inverse(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    state = {f"t{place}": torch.randn(shape, generator=generator) for place, shape in enumerate(shapes)}
    configuration = Configuration.of(state, tuple(state))
    vector = configuration.flatten(state)
    again = configuration.unflatten(vector)
    assert configuration.size == len(vector) == sum(tensor.numel() for tensor in state.values())
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert torch.equal(configuration.flatten(again), vector)
    assert all(torch.equal(vector[entries], state[name].flatten()) for name, entries in configuration.slices.items())


def test_only_the_named_tensors_in_their_order():
    state = network().state_dict()
    configuration = Configuration.of(state, ("3.bias", "0.weight"))
    vector = configuration.flatten(state)
    assert torch.equal(vector, torch.cat([state["3.bias"], state["0.weight"].flatten()]))
    assert set(configuration.unflatten(vector)) == {"3.bias", "0.weight"}


def test_a_point_shares_nothing_with_the_network():
    module = network()
    configuration = Configuration.of(module.state_dict(), ("3.bias",))
    before = module.state_dict()["3.bias"].clone()
    configuration.flatten(module.state_dict()).zero_()
    assert torch.equal(module.state_dict()["3.bias"], before)


def test_any_floating_type():
    module = network().double()
    configuration = Configuration.of(network().state_dict(), ("0.weight", "3.weight"))
    vector = configuration.flatten(module.state_dict())
    assert vector.dtype == torch.float64
    assert configuration.unflatten(vector)["0.weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "no tensors are named"),
        (("3.bais",), r"'3.bais' is not in the state dict; expected one of: 0.weight"),
        (("0.weight", "0.weight"), "'0.weight' and '0.weight' are one tensor"),
        (("1.num_batches_tracked",), "element type torch.int64"),
    ],
)
def test_names_that_span_no_space(names, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        Configuration.of(network().state_dict(), names)


def test_tied_tensors_are_one_coordinate():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    with pytest.raises(ConfigurationError, match=r"'0.weight' and '1.weight' are one tensor"):
        Configuration.of(module.state_dict(), ("0.weight", "1.weight"))


def test_refuses_what_does_not_fit():
    state = network().state_dict()
    configuration = Configuration.of(state, ("0.weight", "3.bias"))
    with pytest.raises(ShapeMismatch, match=r"'3\.bias' is missing"):
        configuration.flatten({"0.weight": state["0.weight"]})
    with pytest.raises(ShapeMismatch, match=r"'3.bias' has shape \[3\]: expected \[2\]"):
        configuration.flatten({**state, "3.bias": torch.zeros(3)})
    with pytest.raises(ShapeMismatch, match=r"torch.float32 on cpu, torch.float64 on cpu: expected one"):
        configuration.flatten({**state, "3.bias": torch.zeros(2, dtype=torch.float64)})
    with pytest.raises(ShapeMismatch, match=r"shape \[13\].*expected \[14\]"):
        configuration.unflatten(torch.zeros(13))
    with pytest.raises(ShapeMismatch, match="int64"):
        configuration.unflatten(torch.zeros(14, dtype=torch.int64))
