"""The way between two modes has the fewest legs, then the fewest bytes: compared with all ways there are."""

from itertools import pairwise, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import UnknownMode
from runtime.plan.bundle import Transition
from runtime.walking.chunks import ChunkList
from runtime.walking.route import route
from tests.runtime.plans import LAYERS, table

TABLE = table()
NAMES = tuple(layer.name for layer in LAYERS)
MODES = "ABCDE"


def transition(begin, end, layers):
    """A move that writes one row of each of these layers, by number."""
    column = np.array(layers, np.int32)
    chunks = ChunkList(NAMES, column, *(np.full(len(column), value, np.int32) for value in (0, 0, 2)))
    return Transition(SimpleNamespace(from_=begin, to=end), chunks)


def plans():
    ends = st.tuples(*[st.sampled_from(MODES)] * 2)
    one = st.builds(lambda ends, layers: transition(*ends, layers), ends, st.lists(st.integers(0, 2), max_size=6))
    return st.lists(one, max_size=9)


def best_way(transitions, begin, end):
    """Legs and bytes of the best of all ways without a mode twice, or None if there is none."""
    steps = {}
    for one in transitions:
        cost = one.chunks.total_bytes(TABLE)
        for pair in (one.ends, one.ends[::-1]):
            steps[pair] = min(cost, steps.get(pair, cost))
    between = [mode for mode in MODES if mode not in (begin, end)]
    ways = (pairwise((begin, *way, end)) for size in range(len(between) + 1) for way in permutations(between, size))
    costs = [[steps.get(step) for step in way] for way in ways]
    return min(((len(cost), sum(cost)) for cost in costs if None not in cost), default=None)


@given(plans(), st.sampled_from(MODES), st.sampled_from(MODES))
def test_no_way_is_better(transitions, begin, end):
    if begin == end:
        assert route(transitions, TABLE, begin, end) == ()
        return
    best = best_way(transitions, begin, end)
    if best is None:
        with pytest.raises(UnknownMode, match=f"route: found no path from {begin} to {end}, expected transitions that"):
            route(transitions, TABLE, begin, end)
        return
    legs = route(transitions, TABLE, begin, end)
    assert [leg.begin for leg in legs] + [end] == [begin] + [leg.end for leg in legs]
    assert (len(legs), sum(leg.chunks.total_bytes(TABLE) for leg in legs)) == best
    for leg in legs:
        there = [one.chunks for one in transitions if one.ends == (leg.begin, leg.end)]
        back = [one.chunks.reversed() for one in transitions if one.ends == (leg.end, leg.begin)]
        assert any(same(leg.chunks, one) for one in there + back)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("layer", "row", "old", "new"))


def test_of_equal_ways_the_first_of_the_plan_is_taken():
    ways = [transition("A", "B", [0]), transition("B", "D", [0]), transition("A", "C", [0]), transition("C", "D", [0])]
    for transitions, middle in ((ways, "B"), (ways[2:] + ways[:2], "C")):
        assert [leg.end for leg in route(transitions, TABLE, "A", "D")] == [middle, "D"]


def test_the_way_back_is_walked_from_the_last_chunk_to_the_first():
    (leg,) = route([transition("A", "B", [0, 1, 2])], TABLE, "B", "A")
    assert (leg.begin, leg.end) == ("B", "A")
    assert leg.chunks.layer.tolist() == [2, 1, 0]
    assert (leg.chunks.old.tolist(), leg.chunks.new.tolist()) == ([2, 2, 2], [0, 0, 0])


def test_the_path_that_was_measured_between_two_modes_goes_before_a_cheaper_detour():
    direct, detour = transition("A", "C", [0, 0]), [transition("A", "B", [1]), transition("C", "B", [2])]
    assert [leg.end for leg in route([direct, *detour], TABLE, "A", "C")] == ["C"]


def test_bytes_count_over_all_legs():
    dear = [transition("A", "B", [0, 0, 0]), transition("B", "D", [1])]
    cheap = [transition("A", "C", [0]), transition("C", "D", [2])]
    assert [leg.end for leg in route(dear + cheap, TABLE, "A", "D")] == ["C", "D"]


def test_of_two_paths_between_the_same_modes_the_cheaper_one_is_walked():
    (leg,) = route([transition("A", "B", [0, 0]), transition("B", "A", [1])], TABLE, "A", "B")
    assert leg.chunks.layer.tolist() == [1]
