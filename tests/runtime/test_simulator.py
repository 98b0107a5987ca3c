"""What a simulation says a strategy costs is what it writes and holds."""

from dataclasses import replace

import msgspec
import pytest

from runtime.errors import BundleError
from runtime.plan import bundle as bundles
from runtime.reporting.findings import Findings
from runtime.simulation.simulator import PLANNED, STRATEGIES, simulate, strategies_of
from tests.runtime.bundles import TOUR, profile, write_bundle
from tests.runtime.nets import PACE


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("simulator") / "plan", profile(**PACE)))


@pytest.fixture(scope="module")
def played(plan):
    return simulate(plan, plan.profile, states=5, torn=3)


def test_every_strategy_is_played_or_left_out_with_a_reason(played):
    assert [*played.strategies, *played.left_out] == [name for name in STRATEGIES if name != "geodesic"] + ["geodesic"]
    assert "plan with --every-candidate" in played.left_out["geodesic"]
    assert played.tour == TOUR


def test_bytes_are_counted_up_to_each_state_and_all_of_them_at_the_end(played):
    for name, result in played.strategies.items():
        whole = [state for state in result.states if not state.torn]
        assert [state.bytes for state in whole] == sorted(state.bytes for state in whole), name
        assert (whole[0].bytes, whole[-1].bytes) == (0, result.bytes_written), name
        for number in range(len(TOUR) - 2):
            end = max(state.bytes for state in whole if state.transition == number)
            assert end == min(state.bytes for state in whole if state.transition == number + 1), name


def test_what_is_replaced_at_once_costs_what_it_replaces(plan, played):
    tensors = {layer.name: layer.row_bytes * layer.units for layer in plan.table.layers}
    # C1 → C2 changes conv1 and conv2, C2 → C3 conv2 and fc1, C3 → C1 all of them.
    assert played.strategies["flip"].bytes_written == 2 * (tensors["conv1"] + tensors["fc1"]) + 3 * tensors["conv2"]
    assert played.strategies["reload"].bytes_written == sum(plan.mode(mode).weight_bytes for mode in TOUR[1:])
    assert played.strategies["flip"].peak_weight_bytes > played.strategies["ordered"].peak_weight_bytes


def test_the_plan_s_own_path_is_the_one_that_is_walked(plan, played):
    ordered = played.strategies["ordered"]
    assert ordered.bytes_written == sum(move.entry.bytes_written for move in plan.transitions)
    measured = {(state.transition, state.position): state.accuracy for state in ordered.states if not state.torn}
    for number, move in enumerate(plan.transitions):
        for waypoint in move.entry.waypoints:
            if (number, waypoint.position) in measured:
                assert measured[number, waypoint.position] == pytest.approx(waypoint.accuracy)


def test_a_plan_without_a_transition_cannot_be_simulated(plan):
    alone = type(plan)(**{**vars(plan), "transitions": ()})
    with pytest.raises(BundleError, match="found no transition, expected at least one to simulate"):
        simulate(alone, plan.profile)


def test_a_path_that_is_none_of_the_strategies_is_played_as_it_is_stored(plan, played):
    """Such as one by way of free seats."""
    first, *others = plan.transitions
    seated = replace(first, entry=msgspec.structs.replace(first.entry, strategy="seated"))
    named = replace(plan, transitions=(seated, *others))
    assert strategies_of(plan) == STRATEGIES
    assert strategies_of(named) == (PLANNED, *STRATEGIES)
    again = simulate(named, plan.profile, names=(PLANNED, "naive"), states=5, torn=3)
    assert again.strategies[PLANNED].states == played.strategies["ordered"].states
    found = Findings(again, [move.entry for move in named.transitions])
    assert found.planned == again.strategies[PLANNED].min_accuracy
    assert found.verdict(PLANNED) == "The plan uses it everywhere."
