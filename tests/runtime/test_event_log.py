"""Laws of the event log: ids without a gap, the newest kept, waiters wake."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from runtime.device.event_log import EventLog


def filled(count, kept):
    log = EventLog(lambda: 1.5, kept)
    for number in range(count):
        log.add("fault", {"number": number})
    return log


@given(st.integers(0, 30), st.integers(1, 10), st.integers(-3, 40))
def test_since_gives_what_came_after_and_is_still_kept(count, kept, after):
    found = [event.id for event in filled(count, kept).since(after)]
    oldest = max(1, count - kept + 1)
    if after > count:
        assert found == list(range(oldest, count + 1))  # a client from before a restart
    else:
        assert found == list(range(max(oldest, after + 1), count + 1))


def test_a_waiter_wakes_with_what_came():
    log, found = EventLog(lambda: 0.0), []
    waiter = threading.Thread(target=lambda: found.extend(log.wait(0, 60)))
    waiter.start()
    log.add("fault", {})
    waiter.join(60)
    assert [event.id for event in found] == [1]


def test_a_waiter_that_waits_in_vain_gets_nothing():
    assert EventLog(lambda: 0.0).wait(0, 0.0) == []


def test_closing_wakes_all():
    log = EventLog(lambda: 0.0)
    waiters = [threading.Thread(target=log.wait, args=(0, 600)) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    log.close()
    for waiter in waiters:
        waiter.join(60)
        assert not waiter.is_alive()
    assert log.closed
