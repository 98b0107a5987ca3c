"""Units in other seats: the same function, and a way there on which nobody reads what he does not expect."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from planner.cost import CostMeter
from planner.deploy import deploy, row_table
from planner.endpoint import EndPoint
from planner.endpoint_search import EndPointSearch
from planner.narrow import narrow, widen
from planner.network import trace
from planner.progress import Silent
from planner.seats import best_seats, reseat, taken_seats
from planner.study import SEATED, Job
from runtime.walking.chunks import ChunkList
from runtime.walking.strategies import ordered


@pytest.fixture(scope="module")
def network(trained, digits):
    return trace(trained, torch.from_numpy(digits.train_x[:2]))


@pytest.fixture(scope="module")
def inputs(digits):
    return torch.from_numpy(digits.train_x)


def shake(network, amount=0.05):
    """Stands for training: other rows for every layer named, the same for the same configuration."""

    def polish(end, layers):
        module = narrow(network, end)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name in layers:
                weight = module.get_submodule(name).weight
                weight.add_(amount * torch.randn(weight.shape, generator=generator))
        return replace(end, tensors=widen(network, end, module))

    return polish


@pytest.fixture(scope="module")
def search(network, inputs):
    return EndPointSearch(network, inputs[:300], inputs[300:450], CostMeter(), polish=shake(network))


@pytest.fixture(scope="module")
def ends(network, search):
    dense = EndPoint("C1", {}, network.module.state_dict(), {})
    return {"C1": dense, "C2": search.build("C2", {"conv1": tuple(range(10))})}


def outputs(network, tensors, inputs):
    with torch.no_grad():
        return torch.func.functional_call(network.module, dict(tensors), (inputs,))


def test_a_network_in_other_seats_is_the_same_network(network, search, inputs):
    layer = network.layer("conv1")
    end = search._build("own seats", {"conv1": tuple(range(10))}, None)
    assert best_seats(end, layer) == tuple(range(6))
    moved = reseat(network, end, layer, best_seats(end, layer))
    torch.testing.assert_close(
        outputs(network, moved.tensors, inputs[:50]), outputs(network, end.tensors, inputs[:50]), rtol=1e-5, atol=1e-5
    )
    assert moved.kept(layer) == list(range(6))
    assert moved.lacking == end.removed
    assert torch.equal(narrow(network, moved).conv1.weight, narrow(network, end).conv1.weight)
    again = replace(moved, removed={"conv1": moved.removed["conv1"]})
    assert not again.tensors["conv2.weight"][:, 6:].any()


def test_more_units_than_free_seats_stay_where_they_are(network, search):
    end = search._build("", {"conv1": (0, 1, 2)}, None)
    assert best_seats(end, network.layer("conv1")) is None
    assert search.build("", {"conv1": (0, 1, 2)}).lacks is None


def test_nothing_is_read_by_rows_that_expect_another(network, search, ends):
    """In every state of the way, a filter that some row reads is the one that the row was made for."""
    stop = search.between(ends["C1"], ends["C2"])
    assert taken_seats(network, ends["C1"], ends["C2"]) == {"conv1": tuple(range(6))}
    assert sorted(stop.removed["conv1"]) == list(range(6))
    table, states = row_table(network, {**ends, "stop": stop})
    chunks = ChunkList.join([ordered(table, states[a], states[b]).chunks for a, b in (("C1", "stop"), ("stop", "C2"))])
    for way, begin in ((chunks, states["C1"]), (chunks.reversed(), states["C2"])):
        for position in range(len(way) + 1):
            state = way.state_at(begin, position)
            for row, version in enumerate(state["conv2"].tolist()):
                columns = table.rows("conv2", *(torch.tensor([one]).int().numpy() for one in (row, version)))
                read = columns[0, :-1].reshape(16, -1).any(axis=1)
                made_for = states["C2"] if version == states["C2"]["conv2"][row] else states["C1"]
                assert (state["conv1"][read] == made_for["conv1"][read]).all()


def test_ways_that_need_no_stop_have_none(network, search, ends):
    assert search.between(ends["C2"], ends["C2"]) is None
    more = search.build("C4", {"conv1": tuple(range(7))})
    assert more.lacks is None
    assert search.between(ends["C2"], more) is None  # its seats are among those that are free there
    assert search.between(ends["C1"], more) is None


def test_a_study_walks_by_way_of_the_stop(study, network, search, ends, inputs):
    stop = search.between(ends["C1"], ends["C2"])
    table, states = row_table(network, {**ends, "stop": stop})
    modes = {name: states[name] for name in ends}
    deployed = deploy(network, ends, table, modes, inputs[:2], Silent())
    own = replace(
        study, points=ends, table=table, states=modes, ways={("C1", "C2"): states["stop"]}, live=deployed.live,
        constants=deployed.constants,
    )  # fmt: skip
    (found,) = own.do(Job(("C1", "C2"), SEATED, race=False)).candidates
    assert found.strategy == SEATED
    assert found.complete
    end = found.path.chunks.state_at(states["C1"], len(found.path.chunks))
    assert all((end[name] == states["C2"][name]).all() for name in table.names)
    assert own.digest != replace(own, ways={}).digest
