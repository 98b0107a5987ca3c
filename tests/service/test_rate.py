"""Buckets: never more than burst plus what time brought back, for a bounded number of keys."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.service.rate import Buckets, neighbourhood
from tests.service.clocks import Clock


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5))
def test_no_more_than_burst_and_what_time_brought_back(pauses, burst):
    clock = Clock()
    buckets = Buckets(0.5, burst, clock=clock)
    begun = clock.now
    taken = 0
    for pause in pauses:
        clock.wait(pause)
        taken += buckets.take("x") == 0
        assert taken <= burst + 0.5 * (clock.now - begun) + 1e-6


def test_who_waits_as_told_is_let_in():
    clock = Clock()
    buckets = Buckets(0.1, 1, clock=clock)
    assert buckets.take("x") == 0
    wait = buckets.take("x")
    assert wait > 9
    assert buckets.take("y") == 0
    clock.wait(wait + 1e-6)
    assert buckets.take("x") == 0


def test_strangers_cannot_fill_the_memory():
    buckets = Buckets(1, 1, limit=10, clock=Clock())
    for stranger in range(1000):
        buckets.take(stranger)
    assert len(buckets) == 10


def test_one_host_is_one_neighbourhood():
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:2")
    assert neighbourhood("2001:db8:0:1::1") != neighbourhood("2001:db8::1")
    assert neighbourhood("10.0.0.1") != neighbourhood("10.0.0.2")
    assert neighbourhood("::ffff:10.0.0.1") == "10.0.0.1"
    assert neighbourhood("fe80::1%eth0") == neighbourhood("fe80::2%eth1")
    assert neighbourhood("local") == "local"
