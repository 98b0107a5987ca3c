"""The line serves as a queue does that is written down request by request, however the requests are cut."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.simulation.line import Line

GAPS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), min_size=1, max_size=60)


def written_down(arrivals, service_s, limit, jobs):
    """Start and end of each request by simulating a server that takes who came first; None for a refused one."""
    events = [(at, 1, service_s, number) for number, at in enumerate(arrivals)]
    events = sorted(events + [(at, 0, length, None) for at, length in jobs])
    free, starts, found = 0.0, [], [None] * len(arrivals)
    for at, _, length, number in events:
        waiting = sum(start > at for start in starts)
        if number is not None and free > at and waiting >= limit:
            continue
        start = max(at, free)
        free = start + length
        starts.append(start)
        if number is not None:
            found[number] = free - at
    return found


@given(GAPS, st.integers(1, 5), st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0.5, 2.0])), max_size=4))
def test_requests_and_writing_take_turns_in_order_and_the_line_is_bounded(gaps, limit, raw):
    arrivals = np.cumsum(gaps)
    jobs = sorted((at + 0.125, length) for at, length in raw)
    line, served, seconds = Line(limit), 0, []
    for at, length in jobs:
        high = int(np.searchsorted(arrivals, at))
        seconds += line.serve(arrivals[served:high], 0.5).tolist() if high > served else []
        served = high
        line.job(at, length)
    seconds += line.serve(arrivals[served:], 0.5).tolist() if served < len(arrivals) else []
    expected = written_down(arrivals.tolist(), 0.5, limit, jobs)
    assert [None if math.isnan(one) else round(one, 9) for one in seconds] == [
        None if one is None else round(one, 9) for one in expected
    ]


def test_a_crowd_is_served_by_the_closed_form_as_one_by_one():
    arrivals = np.sort(np.random.default_rng(0).random(500) * 10)
    whole, single = Line(10_000), Line(10_000)
    one_by_one = [single.serve(arrivals[i : i + 1], 0.015)[0] for i in range(len(arrivals))]
    np.testing.assert_allclose(whole.serve(arrivals, 0.015), one_by_one, rtol=1e-9)
    assert math.isclose(whole.free_s, single.free_s)
