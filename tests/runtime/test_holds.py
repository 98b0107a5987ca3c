"""Laws of holds: placed, released, expired; nothing of the others is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.deciding.holds import LIMIT, Hold, expire, place, release
from runtime.errors import Conflict, UnknownHold

ends = st.none() | st.floats(0, 100)
some = st.lists(ends, max_size=8).map(
    lambda until: tuple(Hold(f"hold-{n}", "C2", "ann", "a flight", 0.0, end) for n, end in enumerate(until))
)


@given(some, ends)
def test_what_is_placed_can_be_released_again(holds, end):
    more = place(holds, Hold("new", "C3", "bob", "", 1.0, end))
    assert more[:-1] == holds
    assert release(more, "new") == holds


@given(some)
def test_an_unknown_hold_is_refused_and_the_others_are_named(holds):
    with pytest.raises(UnknownHold, match="release 'other': found no such hold, expected one of") as caught:
        release(holds, "other")
    assert all(hold.id in str(caught.value) for hold in holds)


@given(some, st.floats(0, 100))
def test_time_divides_them_into_those_that_last_and_those_that_are_over(holds, now_s):
    lasting, over = expire(holds, now_s)
    assert sorted((*lasting, *over), key=holds.index) == list(holds)
    assert all(hold.until_s is None or hold.until_s > now_s for hold in lasting)
    assert all(hold.until_s is not None and hold.until_s <= now_s for hold in over)
    assert expire(lasting, now_s) == (lasting, ())


def test_there_is_a_limit():
    holds = ()
    for number in range(LIMIT):
        holds = place(holds, Hold(str(number), "C2", "ann", "", 0.0, None))
    with pytest.raises(Conflict, match=f"found {LIMIT} holds"):
        place(holds, Hold("more", "C2", "ann", "", 0.0, None))


def test_a_hold_says_who_and_why():
    assert Hold("h", "C2", "ann", "a flight", 0.0, 5.0).wish.reason == "ann: a flight"
    assert Hold("h", "C2", "ann", "", 0.0, 5.0).wish.reason == "ann"
