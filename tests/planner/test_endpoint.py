"""End points: pure functions of the units they lack, nested, better than plain removal; and their row versions."""

import numpy as np
import pytest
import torch

from device_profiles import loader
from planner.cost import CostMeter
from planner.endpoint import plain
from planner.endpoint_search import EndPointSearch
from planner.evidence import pick_canary
from planner.geodesic_path import geodesic_paths
from planner.modes import ModeTarget, resolve
from planner.network import trace
from planner.path_search import LEGS
from planner.refine import Settings, refine
from planner.row_pool import RowPool
from runtime.plan.evaluation import Answers
from runtime.plan.samples import Samples
from runtime.walking.rows import BASE, POOL, ZERO


@pytest.fixture(scope="module")
def search(trained, digits):
    network = trace(trained, torch.from_numpy(digits.train_x[:2]))
    fit, selection = torch.from_numpy(digits.train_x[:600]), torch.from_numpy(digits.train_x[600:900])
    return EndPointSearch(network, fit, selection, CostMeter()), network


def accuracy(module, tensors, digits):
    with torch.no_grad():
        outputs = torch.func.functional_call(module, dict(tensors), (torch.from_numpy(digits.train_x[900:]),))
    return float((outputs.argmax(1).numpy() == digits.train_y[900:]).mean())


def test_a_configuration_does_not_depend_on_the_way_it_was_reached(search):
    """C3 by way of C2 is C3 planned at once from the same units, bit for bit; a restored one is its direct plan."""
    finder, network = search
    ends = finder.find(resolve(loader.load("generic-x86"), network), lambda name: None)
    for mode in ("C2", "C3", "C4"):
        direct = finder.build(mode, dict(reversed(ends[mode].removed.items())))
        assert all(torch.equal(ends[mode].tensors[name], direct.tensors[name]) for name in direct.tensors)
    fresh = EndPointSearch(network, finder._fit, finder._selection, CostMeter()).build("C4", ends["C4"].removed)
    assert all(torch.equal(ends["C4"].tensors[name], fresh.tensors[name]) for name in fresh.tensors)


def test_removing_fewer_units_chooses_a_subset(search):
    finder, _ = search
    targets = {"C1": ModeTarget("C1", None, {}), "C2": ModeTarget("C2", "C1", {"conv1": 6})}
    six = finder.find(targets, lambda name: None)["C2"].removed["conv1"]
    targets["C2"] = ModeTarget("C2", "C1", {"conv1": 3})
    three = finder.find(targets, lambda name: None)["C2"].removed["conv1"]
    assert len(set(six)) == 6
    assert six[:3] == three


def test_removed_units_are_zero_and_nothing_reads_them(search):
    finder, network = search
    end = finder.build("C2", {"conv1": (3, 7), "fc1": (0,)})
    for name, gone, reader in (("conv1", [3, 7], "conv2"), ("fc1", [0], "fc2")):
        layer = network.layer(name)
        assert not end.tensors[layer.weight][gone].any()
        assert not end.tensors[layer.bias][gone].any()
        columns = end.tensors[f"{reader}.weight"][:, gone]
        assert not columns.any()
    assert torch.equal(end.tensors["fc1.weight"][1:], network.module.state_dict()["fc1.weight"][1:])


def test_nothing_removed_is_the_dense_network(search):
    finder, network = search
    end = finder.build("C1", {})
    assert all(torch.equal(tensor, network.module.state_dict()[name]) for name, tensor in end.tensors.items())
    assert not end.refits


def test_compensation_keeps_what_plain_removal_loses(search, trained, digits):
    finder, network = search
    end = finder.find({"C1": ModeTarget("C1", None, {}), "C2": ModeTarget("C2", "C1", {"conv1": 8, "fc1": 40})},
                      lambda name: None)["C2"]  # fmt: skip
    dense = accuracy(trained, trained.state_dict(), digits)
    compensated = accuracy(trained, end.tensors, digits)
    assert compensated >= dense - 0.03
    assert compensated > accuracy(trained, plain(network, end.removed), digits) + 0.01


def test_the_dense_network_is_not_changed(search, trained, digits):
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    search[0].build("C2", {"conv1": (1, 2)})
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())


def test_rows_are_versions_and_equal_rows_are_stored_once(search, digits):
    finder, network = search
    from planner.deploy import row_table

    ends = {
        "C1": finder.build("C1", {}),
        "C2": finder.build("C2", {"conv1": (3,)}),
        "C3": finder.build("C3", {"conv1": (3,), "fc1": (5,)}),
    }
    table, states = row_table(network, ends)
    assert (states["C1"]["conv1"] == BASE).all()
    assert states["C2"]["conv1"][3] == ZERO
    assert (states["C2"]["conv2"] >= POOL).all()
    assert (states["C3"]["conv2"] == states["C2"]["conv2"]).all()
    assert len(table.pool["conv2"]) == 32
    assert len(table.pool["conv1"]) == 0
    for name, end in ends.items():
        for key, tensor in table.tensors(states[name]).items():
            assert tensor.tobytes() == end.tensors[key].numpy().tobytes()


def test_a_row_pool_takes_layers_without_a_bias():
    from runtime.walking.rows import MovedLayer

    layer = MovedLayer("a", "a.weight", None, (3, 2), None, 1)
    base = {"a.weight": np.arange(1, 7, dtype=np.float32).reshape(3, 2)}
    pool = RowPool((layer,), base)
    state = pool.add({"a.weight": np.array([[1, 2], [0, 0], [9, 9]], np.float32)}, {"a": (1,)})
    assert state["a"].tolist() == [BASE, ZERO, POOL]
    assert pool.table().pool["a"].tolist() == [[9, 9]]


def test_a_unit_that_was_dead_from_the_start_is_removed_like_any_other(digits, trained, tmp_path):
    import copy

    from planner.options import Options
    from planner.plan import make_plan
    from runtime.plan.bundle import read

    module = copy.deepcopy(trained)
    with torch.no_grad():
        module.conv1.weight[5] = 0
        module.conv1.bias[5] = 0
    make_plan(module, "dead", digits, loader.load("generic-x86"), tmp_path / "plan", options=Options(torn=2))
    bundle = read(tmp_path / "plan")
    assert bundle.states["C1"]["conv1"][5] == BASE
    assert bundle.states["C2"]["conv1"][5] == ZERO
    assert 5 not in bundle.mode("C2").kept["conv1"]


def test_geodesics_move_only_what_differs_and_keep_the_ends_out(search, digits):
    finder, network = search
    from planner.deploy import row_table

    ends = {"C1": finder.build("C1", {}), "C2": finder.build("C2", {"fc1": tuple(range(16))})}
    table, _ = row_table(network, ends)
    cost = CostMeter()
    found = geodesic_paths(network, table.layers, ends["C1"], ends["C2"], torch.from_numpy(digits.train_x[:32]), cost)
    assert {"flow", "relaxed-flow", "relaxed-line"} <= set(found)
    for path in found.values():
        assert len(path.points) == LEGS - 1 + path.record.inserted
        assert all(set(point) == {"fc1", "fc2"} for point in path.points)
        assert all(np.isfinite(rows).all() for point in path.points for rows in point.values())
    assert all(0 < path.record.forward_passes < cost.forward_passes for path in found.values())
    assert geodesic_paths(network, table.layers, ends["C2"], ends["C2"], torch.zeros(1, 1, 8, 8), cost) == {}


def test_the_canary_is_right_in_every_mode_and_neither_easiest_nor_hardest():
    labels = np.repeat([0, 1], 50)
    margins = np.tile(np.arange(-5.0, 45.0, dtype=np.float32), 2)
    outputs = np.zeros((100, 2), np.float32)
    outputs[np.arange(100), labels] = margins
    worse = outputs.copy()
    worse[:, :] = np.where(outputs > 0, outputs - 10, outputs)
    modes = [Answers(one, np.argmax(one, axis=1) == labels) for one in (outputs, worse)]
    inputs = np.arange(100, dtype=np.float32)[:, None]
    picked = pick_canary(Samples(inputs, labels), modes, per_class=3)
    assert np.bincount(picked.labels).tolist() == [3, 3]
    chosen = picked.inputs[:, 0].astype(int)
    assert all(mode.right[chosen].all() for mode in modes)
    assert (margins[chosen] > 20).all()
    assert (margins[chosen] < 35).all()


def test_polished_rows_depend_on_nothing_but_the_units_that_are_gone_before(digits, trained):
    """C3 planned by way of C2 keeps C2's polished rows bit for bit, and what is polished comes nearer to the dense."""
    inputs = torch.from_numpy(digits.train_x)
    network = trace(trained, inputs[:2])
    fit, stop = inputs[:300], inputs[300:500]
    asked: list[list[str]] = []

    def polish(end, layers):
        asked.append(list(layers))
        settings = Settings(passes=4, rate=1e-3, checks=2)
        return refine(network, end, fit, stop, settings, layers=layers).end

    search = EndPointSearch(network, fit, stop, CostMeter(), polish=polish)
    plain = EndPointSearch(network, fit, stop, CostMeter())
    removed = {"conv1": tuple(range(8)), "fc1": tuple(range(20))}
    c2, c3 = search.build("C2", {"conv1": removed["conv1"]}), search.build("C3", removed)
    # Few filters are polished with their readers, and C2's rows were taken for C3 as they are. The refit of the output
    # layer is left: nothing comes nearer to the dense outputs than the least squares of these outputs.
    assert asked == [["conv1", "conv2"]]
    # The filters that are left sit where those that were removed first were read, and there alone.
    assert c2.lacking == {"conv1": removed["conv1"]}
    assert sorted(c2.removed["conv1"]) == list(range(8, 16))
    assert not c2.tensors["conv1.weight"][8:].any()
    assert c2.tensors["conv1.weight"][:8].flatten(1).any(1).all()
    assert torch.equal(c2.tensors["conv1.weight"], c3.tensors["conv1.weight"])
    assert torch.equal(c2.tensors["conv2.weight"], c3.tensors["conv2.weight"])
    assert (c3.tensors["fc1.weight"][:20] == 0).all()
    assert (c3.tensors["fc2.weight"][:, :20] == 0).all()

    def distance(end):
        with torch.no_grad():
            outputs = torch.func.functional_call(network.module, dict(end.tensors), (stop,))
            return float((outputs - network.module(stop)).norm())

    assert distance(c2) < distance(plain.build("C2", {"conv1": removed["conv1"]}))
    assert distance(c3) < distance(plain.build("C3", removed))
