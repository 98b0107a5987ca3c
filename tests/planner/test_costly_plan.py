"""A whole plan of the digits network for a device that wears: odd modes by target, and costs as they then come."""

import json
from dataclasses import replace as with_fields

import msgspec
import pytest

from device_profiles import loader
from planner.allocation import compact_macs
from planner.candidates import UnknownCost
from planner.network import trace
from planner.plan import make_plan
from runtime.plan import costs
from runtime.plan.bundle import read
from runtime.plan.candidates import front
from runtime.reporting.inspection import cost_words, mode_words, origins, summary
from tests.planner.conftest import OPTIONS
from tests.runtime.walking import PROFILES, walked, wearing

pytestmark = pytest.mark.xdist_group("costly plan")  # what they share takes long: made once, in one process

FEW = with_fields(OPTIONS, certified=0, landscape=0, fit=300, refine=0)
MODES = ("C1", "0", "eco.v2", "Night_shift-3", "x" * 64, "7-of-9", "C1.again")


def figure(value, provenance="paper"):
    return {"value": value, "provenance": provenance, "source": "a test"}


def one_filter():
    return [{"layer": {"role": "convolution", "position": 1}, "count": 1}]


@pytest.fixture(scope="module")
def network(trained):
    import torch

    return trace(trained, torch.zeros(2, 1, 8, 8))


@pytest.fixture(scope="module")
def device(network):
    """Modes by watts, milliseconds, multiply-accumulates and counts, under names that nobody would choose."""
    dense = compact_macs(network, {})
    data = loader.as_builtins(loader.load("generic-x86"))
    data |= {"name": "wearing", "trade_off": "energy", "channel_block": 1}
    data["guard"]["max_drop_points"] = 30.0
    data["energy"] = {
        "idle_w": figure(1.0), "joules_per_mac": figure(1 / dense, "assumed"), "inferences_per_second": 1.0,
        "joules_per_byte_written": figure(3e-9, "assumed"),
    }  # fmt: skip
    data["target"] = {"macs_per_second": figure(dense * 100, "measured"), "overhead_ms": figure(2.0)}
    data["writes"] |= {
        "bytes_per_increment": 4096, "granularity_bytes": 64, "endurance_writes": figure(1e6),
        "bytes_per_second": figure(1e6), "verify": {"mean_writes": figure(2.0), "most_writes": 5},
    }  # fmt: skip
    changes = (
        {},
        {"from": "C1", "remove": one_filter()},
        {"from": "C1", "remove": one_filter(), "watts": 1.7},
        {"from": "C1", "remove": one_filter(), "latency_ms": 8.0},
        {"from": "C1", "macs": 0.8},
        {"from": "eco.v2", "remove": one_filter()},
        {"from": "7-of-9", "restore": one_filter()},
    )
    data["modes"] = dict(zip(MODES, changes, strict=True))
    data["transitions"] = [["C1", name] for name in MODES[1:]]
    data.pop("default_mode", None)
    return loader.from_builtins(data, "test profile")


@pytest.fixture(scope="module")
def bundle(digits, trained, device, tmp_path_factory):
    path = tmp_path_factory.mktemp("costly") / "plan"
    make_plan(trained, "digits-cnn", digits, device, path, options=FEW)
    return read(path)


def test_modes_by_target_keep_to_it_whatever_they_are_called(bundle, device):
    assert tuple(bundle.states) == MODES
    macs = {mode.name: mode.macs for mode in bundle.manifest.modes}
    assert 1.6 < costs.power_w(macs["eco.v2"], device) <= 1.7
    assert 7.4 < costs.latency_ms(macs["Night_shift-3"], device) <= 8.0
    assert macs["x" * 64] <= 0.8 * macs["C1"]
    shown = {mode["name"]: (mode["power_w"], mode["latency_ms"]) for mode in summary(bundle)["modes"]}
    assert shown["C1"] == (pytest.approx(2.0), pytest.approx(12.0))
    assert shown["eco.v2"] == (costs.power_w(macs["eco.v2"], device), costs.latency_ms(macs["eco.v2"], device))
    assert mode_words(macs["C1"], device) == ("2 W*", "12 ms")


def test_every_candidate_and_transition_has_its_cost_and_the_choice_keeps_to_the_trade_off(bundle):
    for move in bundle.transitions:
        entry = move.entry
        assert entry.cost == costs.predict(bundle.table, move.chunks, bundle.profile)
        assert entry.cost_back == costs.predict(bundle.table, move.chunks.reversed(), bundle.profile)
        assert entry.cost.bytes == entry.cost_back.bytes > entry.bytes_written
        feasible = [one for one in entry.candidates if one.feasible]
        chosen = next(one for one in feasible if one.chosen)
        assert chosen.cost == entry.cost
        assert all(one.cost is not None for one in entry.candidates)
        cheaper = [one for one in feasible if one.cost.joules < chosen.cost.joules]
        assert all(one.worst_accuracy < chosen.worst_accuracy_bound for one in cheaper)


def test_what_is_shown_names_the_trade_off_the_front_and_where_figures_come_from(bundle):
    data = json.loads(json.dumps(summary(bundle)))
    assert data["trade_off"] == "energy"
    assert data["provenance"]["joules"]["energy.joules_per_byte_written"]["provenance"] == "assumed"
    for move, shown in zip(bundle.transitions, data["transitions"], strict=True):
        assert shown["cost"] == json.loads(msgspec.json.encode(move.entry.cost))
        assert tuple(one["front"] for one in shown["candidates"]) == front(move.entry.candidates, "energy")
        assert {*shown["cost"]["assumed"]} == {"increments", "seconds", "joules", "retries"}
    words = cost_words(bundle.transitions[0].entry.cost)
    assert [word.endswith("*") for word in words] == [False, True, True, True, False, False, True]
    (energy,) = (line for line in origins(bundle.profile) if line.startswith("energy*: "))
    assert "energy.joules_per_byte_written assumed: a test" in energy


@pytest.mark.parametrize("name", PROFILES)
def test_a_walk_of_the_plan_costs_what_was_predicted(bundle, name):
    """Every transition, both ways, through the engine."""
    device = wearing(bundle.profile, PROFILES[name])

    def check(move, back, result, counters):
        said = costs.predict(bundle.table, move.chunks.reversed() if back else move.chunks, device)
        stored = move.entry.cost_back if back else move.entry.cost
        assert (result.bytes_written, counters.increments) == (said.bytes, said.increments)
        assert result.bytes_retried == 0
        assert name != "words of 64" or said.bytes == stored.bytes

    walked(bundle, device, check)


def test_a_trade_off_without_figures_is_refused_before_anything_is_spent(digits, trained, device, tmp_path):
    lacking = msgspec.structs.replace(
        device, trade_off="wear", writes=msgspec.structs.replace(device.writes, endurance_writes=None)
    )
    with pytest.raises(UnknownCost, match=r"writes\.endurance_writes"):
        make_plan(trained, "digits-cnn", digits, lacking, tmp_path / "plan", options=FEW)
    assert not (tmp_path / "plan").exists()
