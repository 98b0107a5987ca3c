"""What distinguishes the strategies: the order of the writes, never the ends."""

import numpy as np
import pytest
from hypothesis import given

from runtime.walking import strategies
from runtime.walking.rows import BASE, ZERO, same_state
from tests.runtime.plans import LAYERS, states, table

NAMES = tuple(layer.name for layer in LAYERS)


def start_and_end():
    """Remove units of a, restore one, and let b (reads a) and c make up for it."""
    start, end = table().dense(), table().dense()
    start["a"][4] = ZERO
    end["a"][:] = [ZERO, BASE, ZERO, BASE, BASE]
    end["b"][:] = [2, 3, 4, 5]
    end["c"][:] = [2, BASE, 3]
    return start, end


def compiled(name, start, end):
    if name in ("linear", "ramp"):
        return getattr(strategies, name)(table(), start, end, 4)
    if name == "waypoints":
        points = strategies._line(table(), start, end, 3)
        return strategies.waypoints(table(), start, end, points)
    return getattr(strategies, name)(table(), start, end)


ALL = ["naive", "zero_first", "ordered", "linear", "ramp", "waypoints"]


@pytest.mark.parametrize("name", ALL)
@given(start=states(), end=states())
def test_every_strategy_ends_on_the_same_state(name, start, end):
    path = compiled(name, start, end)
    path.chunks.check(path.table(table()), start, end, name)
    assert same_state(path.chunks.state_at(start, len(path.chunks)), end)


@pytest.mark.parametrize("name", ["naive", "zero_first", "ordered"])
@given(start=states(), end=states())
def test_one_pass_strategies_write_each_changed_row_once(name, start, end):
    path = compiled(name, start, end)
    changed = sum(int((start[layer] != end[layer]).sum()) for layer in NAMES)
    assert len(path.chunks) == changed
    assert not path.rows


def sequence(path):
    return [(NAMES[path.chunks.layer[k]], int(path.chunks.row[k])) for k in range(len(path.chunks))]


def test_ordered_restores_first_then_readers_output_first_then_removes():
    start, end = start_and_end()
    assert sequence(compiled("ordered", start, end)) == [
        ("a", 4), ("c", 0), ("c", 2), ("b", 0), ("b", 1), ("b", 2), ("b", 3), ("a", 0), ("a", 2),
    ]  # fmt: skip


def test_zero_first_removes_first_and_restores_last():
    start, end = start_and_end()
    order = sequence(compiled("zero_first", start, end))
    assert order[:2] == [("a", 0), ("a", 2)]
    assert order[-1] == ("a", 4)


def test_naive_follows_storage():
    order = sequence(compiled("naive", *start_and_end()))
    assert order == sorted(order)


def test_linear_points_lie_on_the_line():
    start, end = start_and_end()
    path = compiled("linear", start, end)
    rows = table()
    per_point = len(path.chunks) // 4
    at = path.table(rows).tensors(path.chunks.state_at(start, 2 * per_point))
    first, last = rows.tensors(start), rows.tensors(end)
    for name in at:
        np.testing.assert_allclose(at[name], (first[name] + last[name]) / 2, atol=1e-6)


def test_ramp_moves_readers_in_steps_and_units_once():
    start, end = start_and_end()
    order = sequence(compiled("ramp", start, end))
    assert order[0] == ("a", 4)
    assert order[-2:] == [("a", 0), ("a", 2)]
    assert order.count(("b", 0)) == 4
    assert [name for name, _ in order[1:-2]][:2] == ["c", "c"]


def test_waypoints_write_rows_that_only_move_in_between():
    start, end = start_and_end()
    point = {
        layer.name: table().rows(layer.name, np.arange(layer.units, dtype=np.int32), start[layer.name])
        for layer in LAYERS
    }
    point["a"] = point["a"].copy()
    point["a"][1] += 1  # row 1 of a is the same at both ends
    path = strategies.waypoints(table(), start, end, [point])
    assert sequence(path).count(("a", 1)) == 2
    assert same_state(path.chunks.state_at(start, len(path.chunks)), end)
