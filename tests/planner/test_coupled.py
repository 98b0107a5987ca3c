"""Coupled layers: which units are tied, who reads them, and smaller graphs that answer as the masked network does."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torchvision

from device_profiles.errors import GeoshiftError
from planner.export import export_compact, export_live
from planner.network import Network, removable, trace
from runtime.walking.session import Session
from tests.planner import coupled
from tests.planner.exported import LOGITS, cut, masked, torch_answer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # at import, of its own doing
    import torch_pruning


def traced(name: str) -> Network:
    return trace(coupled.build(name), coupled.images())


def kept_units(network: Network, *names: str) -> dict[str, list[int]]:
    """All but two units, of every member of the groups."""
    layers = [member for name in names for member in network.members(name)]
    return {layer.name: [unit for unit in range(layer.units) if unit not in (1, layer.units - 1)] for layer in layers}


@pytest.mark.parametrize("name", coupled.NETWORKS)
def test_groups_are_those_of_the_drawing(name: str) -> None:
    network = traced(name)
    assert [{one.name for one in network.members(layer.name)} for layer in removable(network)] == coupled.GROUPS[name]
    for layer in network.layers:
        assert {one.group for one in network.members(layer.name)} == {layer.group}
        assert len({one.why_fixed is None for one in network.members(layer.name)}) == 1


@pytest.mark.parametrize("name", coupled.NETWORKS)
def test_units_that_nobody_reads_can_be_zeroed_and_no_output_changes(name: str) -> None:
    """What `sources` and `group` promise, for every group; and a column too few makes a difference."""
    network, x = traced(name), coupled.images()
    state = network.module.state_dict()
    for layer in removable(network):
        gone = [0, layer.units - 1]
        unread = {key: tensor.clone() for key, tensor in state.items()}
        for reader in map(network.layer, layer.readers):
            unread[reader.weight].view(reader.units, -1)[:, reader.columns_of(layer.name, gone)] = 0
        zeroed = masked(network, {one.name: range(1, one.units - 1) for one in network.members(layer.name)})
        # Depthwise rows and gates turn a zero into other values; nobody reads those either.
        np.testing.assert_array_equal(
            torch_answer(network.module, unread, x), torch_answer(network.module, zeroed, x), err_msg=layer.name
        )
        for reader in map(network.layer, layer.readers):
            assert {source.group for source in reader.sources} >= {layer.name}
            one_read = {key: tensor.clone() for key, tensor in unread.items()}
            one_read[reader.weight] = state[reader.weight]
            assert (torch_answer(network.module, one_read, x) != torch_answer(network.module, zeroed, x)).any()


LARGER = {
    "resnet18": (torchvision.models.resnet18, 32),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, 32),
}


def torch_prunings(network: Network, x: torch.Tensor) -> torch_pruning.DependencyGraph:
    """The oracle's graph of a network."""
    return torch_pruning.DependencyGraph().build_dependency(copy.deepcopy(network.module), x)


@pytest.mark.parametrize("name", ["residual", "growth", "mobile", "pre-activation", *LARGER])
def test_torch_pruning_finds_the_same_rows_and_columns(name: str) -> None:
    """On the networks that it is sound on: see docs/decisions/0007-coupled-layers.md for two that it is not."""
    if name in LARGER:
        build, size = LARGER[name]
        x = torch.zeros(2, 3, size, size)
        network = trace(build(num_classes=3).eval(), x)
    else:
        network, x = traced(name), coupled.images()
    oracle = torch_prunings(network, x)
    modules = dict(oracle.model.named_modules())
    names = {module: key for key, module in modules.items()}
    for layer in removable(network):
        units = [0, 2, layer.units - 1]
        prune = (
            torch_pruning.prune_conv_out_channels
            if layer.role == "convolution"
            else torch_pruning.prune_linear_out_channels
        )
        rows: dict[str, set[int]] = {}
        columns: dict[str, set[int]] = {}
        for item in oracle.get_pruning_group(modules[layer.name], prune, units):
            target = names.get(item.dep.target.module)
            if target is not None:
                side = rows if oracle.is_out_channel_pruning_fn(item.dep.handler) else columns
                side.setdefault(target, set()).update(item.idxs)
        assert rows == {one.name: set(units) for one in network.members(layer.name)}
        assert columns == {
            reader.name: {
                column // (reader.columns // reader.channels) for column in reader.columns_of(layer.name, units)
            }
            for reader in map(network.layer, layer.readers)
        }


@pytest.fixture(scope="module", params=coupled.NETWORKS)
def exported(request) -> tuple[Network, bytes]:
    network = traced(request.param)
    moved = [key for layer in network.layers for key in (layer.weight, layer.bias) if key is not None]
    return network, export_live(network.module, coupled.images(), moved)


def test_compact_graphs_answer_as_the_masked_network_does(exported) -> None:
    """Each group alone, and all together."""
    network, live = exported
    x = coupled.images()
    names = [layer.name for layer in removable(network)]
    session = Session(live, {}, threads=1)
    for chosen in [*([name] for name in names), names]:
        kept = kept_units(network, *chosen)
        state = masked(network, kept)
        expected = torch_answer(network.module, state, x)
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        np.testing.assert_allclose(session.run(x.numpy(), session.bind(arrays)), expected, atol=LOGITS)
        compact = Session(export_compact(live, kept, network.layers), cut(network, kept, state), threads=1)
        answer = compact.run(x.numpy(), compact.bind({}))
        np.testing.assert_allclose(answer, expected, atol=LOGITS)
        assert (answer != torch_answer(network.module, network.module.state_dict(), x)).any()


def test_members_of_a_group_shrink_together_or_not_at_all() -> None:
    network = traced("residual")
    live = export_live(network.module, coupled.images(), ["stem.weight"])
    for kept in ({"stem": [0, 1]}, {"stem": [0, 1], "block1.conv2": [0, 2], "block2.conv2": [0, 1]}):
        with pytest.raises(GeoshiftError, match=r"'block1\.conv2'.*expected those of 'stem'"):
            export_compact(live, kept, network.layers)
