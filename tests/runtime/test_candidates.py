"""The Pareto front of a transition's candidates."""

import msgspec

from runtime.plan.candidates import front, front_of_all, lengths
from runtime.plan.manifest import CostEntry, SearchEntry
from tests.runtime.simulations import candidate


def test_the_front_has_what_nothing_beats():
    found = [
        candidate("ordered", 100, 0.95, chosen=True),
        candidate("naive", 100, 0.93),  # as many bytes, worse
        candidate("ramp 4", 300, 0.97),
        candidate("linear 4", 400, 0.97),  # no better than ramp 4, and more bytes
        candidate("geodesic flow", 900, 0.98),
        candidate("zero-first", 50, 0.99, feasible=False),  # best of all, if it were feasible
    ]
    assert front(found) == (True, False, True, False, True, False)


def test_equals_are_on_it_together():
    found = [candidate("ordered", 100, 0.95), candidate("zero-first", 100, 0.95), candidate("ramp 4", 300, 0.95)]
    assert front(found) == (True, True, False)


def test_without_feasible_ones_it_is_empty():
    assert front([]) == ()
    assert front([candidate("naive", 100, 0.5, feasible=False)]) == (False,)


def test_relaxed_length_is_known_for_what_was_relaxed():
    def searched(energy):
        return SearchEntry(
            status="X", unsolved=0, steps=1, inserted=0, energy_before=energy, energy_after=energy, forward_passes=1,
            fisher_length=0.25,
        )  # fmt: skip

    one = candidate("geodesic relaxed-line", 100, 0.9)
    assert lengths(one) == (None, None)
    assert lengths(msgspec.structs.replace(one, fisher_length=0.5, search=searched(1.0))) == (0.5, 0.25)
    assert lengths(msgspec.structs.replace(one, fisher_length=0.5, search=searched(None))) == (0.5, None)


def test_the_front_is_of_the_cost_that_the_profile_names():
    def costing(one, seconds):
        cost = CostEntry(
            bytes=one.bytes_written, increments=1, seconds=seconds, joules=None, cell_writes=1, wear=None,
            transitions_left=None,
        )  # fmt: skip
        return msgspec.structs.replace(one, cost=cost)

    found = [costing(candidate("ordered", 100, 0.95), 9.0), costing(candidate("ramp 4", 300, 0.95), 1.0)]
    assert front(found) == front(found, "accuracy") == (True, False)
    assert front(found, "seconds") == (False, True)
    # A plan of before costs were predicted knows bytes.
    assert front([candidate("ordered", 100, 0.95), candidate("ramp 4", 300, 0.95)], "seconds") == (True, False)


def costing(name, bytes_, worst, *, seconds=1.0, joules=None, wear=None, **more):
    cost = CostEntry(
        bytes=bytes_, increments=1, seconds=seconds, joules=joules, cell_writes=1, wear=wear, transitions_left=None
    )
    return msgspec.structs.replace(candidate(name, bytes_, worst, **more), cost=cost)


def test_on_the_front_of_all_costs_is_what_is_best_in_anything_and_beaten_in_no_way_at_once():
    found = [
        costing("ordered", 100, 0.95, seconds=9.0, joules=4.0, wear=2.0, chosen=True),
        costing("swift", 200, 0.95, seconds=1.0, joules=4.0, wear=2.0),  # more bytes, less time
        costing("slow", 200, 0.95, seconds=2.0, joules=4.0, wear=2.0),  # as swift, but slower
        costing("frugal", 300, 0.94, seconds=9.0, joules=1.0, wear=2.0),
        costing("gentle", 300, 0.94, seconds=9.0, joules=4.0, wear=1.0),
        costing("sure", 900, 0.99, seconds=9.0, joules=9.0, wear=9.0),
        costing("best of all, were it feasible", 1, 1.0, seconds=0.0, joules=0.0, wear=0.0, feasible=False),
    ]
    assert front_of_all(found) == (True, True, False, True, True, True, False)
    assert front(found) == (True, False, False, False, False, True, False)


def test_a_cost_without_a_figure_says_nothing():
    found = [costing("ordered", 100, 0.95, joules=4.0), costing("frugal", 300, 0.95, joules=None)]
    assert front_of_all(found) == (True, False)
    # A plan of before costs were predicted knows bytes alone.
    assert front_of_all([candidate("ordered", 100, 0.95), costing("swift", 300, 0.95, seconds=0.1)]) == (True, False)
    assert front_of_all([]) == ()


def test_equals_in_everything_are_on_it_together():
    assert front_of_all([costing("ordered", 100, 0.95), costing("zero-first", 100, 0.95)]) == (True, True)
