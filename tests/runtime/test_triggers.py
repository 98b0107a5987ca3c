"""Laws of triggers: hysteresis, dwell, edges; whatever the readings are."""

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import Trigger
from runtime.deciding.triggers import TriggerState, advance, lost
from runtime.errors import SourceError

LOW = Trigger(name="low", mode="C3", source="battery", enter_below=30, leave_above=40, dwell_s=10)
HOT = Trigger(name="hot", mode="C3", source="temperature", enter_above=80, leave_below=70)
AWAY = Trigger(name="away", mode="C2", source="charger", equals="unplugged")

readings = st.floats(0, 100)
times = st.lists(st.tuples(st.floats(0.1, 30), readings), max_size=40)


def played(rule, steps, state=None):
    """States after each reading; ``steps`` are seconds since the one before, and the reading."""
    state, now_s, seen = state or TriggerState(), 0.0, []
    for seconds, reading in steps:
        now_s += seconds
        state = advance(rule, state, reading, now_s)
        seen.append((now_s, reading, state))
    return seen


def test_a_battery_that_falls_and_rises():
    steps = [(1, 50), (1, 29), (9, 29), (1, 29), (1, 35), (1, 41), (10, 45)]
    assert [state.active for *_, state in played(LOW, steps)] == [False, False, False, True, True, True, False]


def test_without_dwell_it_changes_at_once():
    assert [state.active for *_, state in played(HOT, [(1, 79), (1, 81), (1, 75), (1, 69)])] == [
        False, True, True, False,
    ]  # fmt: skip


def test_a_text_is_compared_as_it_is():
    assert [state.active for *_, state in played(AWAY, [(1, "plugged"), (1, "unplugged"), (1, "plugged")])] == [
        False, True, False,
    ]  # fmt: skip


def test_the_thresholds_themselves_change_nothing():
    assert not played(HOT, [(1, 80.0)])[-1][2].active
    assert played(HOT, [(1, 81.0), (1, 70.0)])[-1][2].active


@given(times)
def test_a_reading_between_the_thresholds_changes_nothing(steps):
    before = False
    for _, reading, state in played(LOW, steps):
        if 30 <= reading <= 40:
            assert state.active is before
        before = state.active


@given(times)
def test_it_changes_only_by_a_reading_beyond_the_threshold(steps):
    before = False
    for _, reading, state in played(HOT, steps):
        if state.active and not before:
            assert reading > 80
        if before and not state.active:
            assert reading < 70
        before = state.active


@given(times)
def test_two_changes_are_at_least_the_dwell_time_apart(steps):
    changes, before = [0.0], False
    for now_s, _, state in played(LOW, steps):
        if state.active is not before:
            changes.append(now_s)
            assert state.changed_s == now_s
        before = state.active
    assert all(later - earlier >= LOW.dwell_s - 1e-9 for earlier, later in pairwise(changes))


@given(times, st.integers(0, 40))
def test_a_reading_that_is_lost_keeps_the_state_and_begins_the_dwell_anew(steps, place):
    state = played(LOW, steps[:place])[-1][2] if steps[:place] else TriggerState()
    gone = lost(state, "no battery")
    assert (gone.active, gone.changed_s) == (state.active, state.changed_s)
    assert (gone.crossed_s, gone.reading, gone.error) == (None, None, "no battery")


@given(readings, st.floats(0, 1e6))
def test_a_constant_reading_settles_and_stays(reading, now_s):
    state = advance(HOT, TriggerState(), reading, now_s)
    again = advance(HOT, state, reading, now_s + 1)
    assert again.active is state.active
    assert again.changed_s == state.changed_s


def test_a_state_is_not_changed_in_place():
    state = TriggerState()
    advance(HOT, state, 99.0, 1.0)
    assert state == TriggerState()
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.active = True


@pytest.mark.parametrize("text", ["", "warm", "nan", "inf", "-inf", "1e999", "12 %", "\x00"])
def test_a_text_where_a_number_is_needed_is_an_error_that_names_the_trigger(text):
    with pytest.raises(SourceError, match=r"trigger hot: found .*expected a number"):
        advance(HOT, TriggerState(), text, 0.0)


def test_a_file_with_a_number_is_a_number():
    rule = Trigger(name="level", mode="C2", source="file", path="/run/level", enter_above=5, leave_below=5)
    assert advance(rule, TriggerState(), "6", 0.0).active
