"""From a target for multiply-accumulates to units: nested, reached, cheapest first; and the narrow network."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from planner.allocation import AllocationError, Curve, allocate, compact_macs, compact_weights, curves
from planner.cost import CostMeter
from planner.endpoint_search import EndPointSearch
from planner.modes import ModeError, ModeTarget, resolve
from planner.narrow import narrow, widen
from planner.network import removable, trace
from tests.planner.coupled import build, images
from tests.planner.test_modes import profile
from tests.tolerances import FLOAT32

SHARES = (0.7, 0.5, 0.3)


@pytest.fixture(scope="module")
def network(trained, digits):
    return trace(trained, torch.from_numpy(digits.train_x[:2]))


@pytest.fixture(scope="module")
def found(network, digits):
    return curves(network, torch.from_numpy(digits.train_x[:400]))


@pytest.fixture(scope="module")
def search(network, digits, found):
    fit, selection = torch.from_numpy(digits.train_x[:400]), torch.from_numpy(digits.train_x[400:600])
    orders = {name: curve.order for name, curve in found.items()}
    return EndPointSearch(network, fit, selection, CostMeter(), orders)


def macs_by_hooks(module, sample):
    """Multiply-accumulates as PyTorch runs them: an independent count."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        module(sample)
    for hook in hooks:
        hook.remove()
    return total


def test_the_target_is_reached_and_not_overshot_by_more_than_a_block(network, found):
    dense = compact_macs(network, {})
    assert dense == sum(layer.macs for layer in network.layers)
    for share in SHARES:
        macs = compact_macs(network, allocate(network, found, share, {}))
        assert share - 0.05 < macs / dense <= share


def test_a_deeper_mode_lacks_what_a_shallower_one_lacks(network, found):
    counts = [allocate(network, found, share, {}) for share in SHARES]
    for shallow, deep in pairwise(counts):
        assert all(deep.get(name, 0) >= count for name, count in shallow.items())
    onward = allocate(network, found, SHARES[1], counts[0])
    assert onward == counts[1]


def test_units_that_are_gone_stay_gone(network, found):
    gone = {"conv1": 12}
    assert allocate(network, found, 0.9, gone)["conv1"] >= 12
    assert allocate(network, found, 0.2, {"fc1": 63})["fc1"] == 63, "beyond the end of its curve"


def test_cuts_go_where_they_cost_least(network):
    """Of two layers with the same curve but for its height, the one that costs less loses its units."""
    layers = removable(network)
    flat = {layer.name: Curve(tuple(range(layer.units - 1)), (1.0,) * layer.units) for layer in layers}
    rising = {name: Curve(c.order, tuple(float(k) for k in range(len(c.errors)))) for name, c in flat.items()}
    for cheap in ("conv1", "conv2"):
        counts = allocate(network, {**rising, cheap: flat[cheap]}, 0.6, {})
        assert set(counts) == {cheap}


def test_too_little_is_refused(network, found):
    with pytest.raises(AllocationError, match=r"0\.0001 .*found at least 0\.\d+ .*ask for less saving"):
        allocate(network, found, 1e-4, {})


def test_errors_of_a_curve_are_what_a_refit_leaves(network, found, digits):
    for name, curve in found.items():
        assert len(curve.order) == network.layer(name).units * 15 // 16
        assert curve.errors[0] < 1e-9
        assert all(after >= before - 1e-9 for before, after in pairwise(curve.errors))


def test_a_mode_with_a_target(network, found):
    asked = profile(
        deep={"from": "C1", "macs": 0.5},
        back={"from": "deep", "restore": [{"layer": {"name": "conv2"}, "fraction": 0.5}]},
        both={"from": "C1", "remove": [{"layer": {"name": "fc1"}, "count": 40}], "macs": 0.5},
    )
    targets = resolve(asked, network, partial(allocate, network, found))
    counts = allocate(network, found, 0.5, {})
    assert targets["deep"] == ModeTarget("deep", "C1", counts)
    assert targets["back"].removed["conv2"] < counts["conv2"]
    assert targets["both"].removed["fc1"] >= 40
    assert compact_macs(network, targets["both"].removed) <= 0.5 * compact_macs(network, {})
    with pytest.raises(ModeError, match=r"mode 'deep': found a target of 0\.5"):
        resolve(asked, network)


def test_the_search_takes_units_in_the_order_of_the_curves(network, found, search):
    counts = allocate(network, found, 0.5, {})
    targets = {"C1": ModeTarget("C1", None, {}), "deep": ModeTarget("deep", "C1", counts)}
    removed = search.find(targets, lambda name: None)["deep"].removed
    assert removed == {name: found[name].order[:count] for name, count in counts.items()}


def test_the_narrow_network_is_the_masked_one(network, found, search, digits):
    """Equal outputs, the multiply-accumulates counted, and back again without a loss."""
    counts = allocate(network, found, 0.5, {})
    end = search.build("deep", {name: found[name].order[:count] for name, count in counts.items()})
    x = torch.from_numpy(digits.train_x[600:700])
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    module = narrow(network, end)
    assert macs_by_hooks(module, x[:1]) == compact_macs(network, counts)
    assert sum(one.numel() for one in module.parameters()) == compact_weights(network, counts)
    with torch.no_grad():
        masked = torch.func.functional_call(network.module, dict(end.tensors), (x,))
        torch.testing.assert_close(module(x), masked, rtol=FLOAT32, atol=FLOAT32)
        for parameter in module.parameters():
            parameter.add_(1.0)
    wide = widen(network, end, module)
    for layer in network.layers:
        rows, columns = torch.tensor(end.kept(layer)), torch.tensor(end.kept_columns(layer))
        there = torch.zeros(layer.units, layer.columns, dtype=torch.bool)
        there[rows[:, None], columns] = True
        expected = torch.where(there, end.tensors[layer.weight].flatten(1) + 1, 0.0)
        assert torch.equal(wide[layer.weight].flatten(1), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())


@pytest.mark.parametrize("name", ["residual", "inception", "mobile"])
def test_coupled_layers(name):
    """Tied and joined units count in every layer that has or reads them, as PyTorch counts; outputs stay equal."""
    x = images(40)
    network = trace(build(name), x[:2])
    found = curves(network, x)
    assert set(found) == {layer.name for layer in removable(network)}
    counts = allocate(network, found, 0.6, {})
    assert compact_macs(network, counts) <= 0.6 * compact_macs(network, {})
    orders = {group: curve.order for group, curve in found.items()}
    search = EndPointSearch(network, x, x[:10], CostMeter(), orders)
    end = search.build("deep", {group: orders[group][:count] for group, count in counts.items()})
    module = narrow(network, end)
    assert macs_by_hooks(module, x[:1]) == compact_macs(network, counts)
    assert sum(one.numel() for one in module.parameters()) == compact_weights(network, counts)
    with torch.no_grad():
        masked = torch.func.functional_call(network.module, dict(end.tensors), (x,))
        torch.testing.assert_close(module(x), masked, rtol=FLOAT32, atol=FLOAT32)
    wide = widen(network, end, module)
    assert all(torch.equal(wide[key], tensor) for key, tensor in end.tensors.items())


@pytest.mark.parametrize("block", [4, 8])
def test_convolutions_keep_whole_blocks_of_filters(network, found, block):
    for share in SHARES:
        counts = allocate(network, found, share, {}, block=block)
        assert compact_macs(network, counts) <= share * compact_macs(network, {})
        for layer in removable(network):
            if layer.role == "convolution":
                assert (layer.units - counts.get(layer.name, 0)) % block == 0
        for name in counts:
            if network.layer(name).role == "convolution":  # nothing is left to give back
                back = {**counts, name: counts[name] - block}
                assert counts[name] < block or compact_macs(network, back) > share * compact_macs(network, {})


def test_what_is_gone_is_brought_to_whole_blocks_where_more_goes(network, found):
    assert allocate(network, found, 0.5, {"conv1": 3}, block=4)["conv1"] == 3, "the user's own removal, and enough"
    assert allocate(network, found, 0.2, {"conv1": 3}, block=4)["conv1"] in (4, 8, 12)
    with pytest.raises(AllocationError, match="convolutions keep whole blocks of 8 filters"):
        allocate(network, found, 0.01, {}, block=8)
