"""What the service keeps in memory is bounded and ends: sessions, idempotency keys, log lines."""

import asyncio
import io
import json

import pytest

from runtime.service import idempotency, sessions
from runtime.service.idempotency import Once
from runtime.service.logs import KEPT, ServiceLog
from runtime.service.problems import Refused
from runtime.service.sessions import Sessions
from runtime.service.tokens import Principal, Scope
from tests.service.clocks import Clock

WHO = Principal("000000000000", "x", Scope.READ)


def test_a_session_ends_when_it_is_idle_and_not_before():
    clock = Clock()
    kept = Sessions(lambda _: True, clock)
    cookie, csrf = kept.begin(WHO)
    for _ in range(5):
        clock.wait(sessions.IDLE_S - 1)
        assert kept.find(cookie) == (WHO, csrf)
    clock.wait(sessions.IDLE_S)
    assert kept.find(cookie) is None


def test_sessions_are_a_bounded_number_and_the_one_unused_for_longest_ends():
    kept = Sessions(lambda _: True, Clock())
    first, _ = kept.begin(WHO)
    others = [kept.begin(WHO)[0] for _ in range(sessions.LIMIT - 1)]
    assert kept.find(first)
    kept.begin(WHO)
    assert kept.find(others[0]) is None
    assert kept.find(first)
    kept.end(first)
    kept.end("nobody's")
    assert kept.find(first) is None


@pytest.mark.parametrize("cookie", ["", "x", "ü" * 10, "\udcff"])
def test_no_text_is_a_session(cookie):
    kept = Sessions(lambda _: True, Clock())
    kept.begin(WHO)
    assert kept.find(cookie) is None


def test_the_same_key_acts_once_even_at_once_and_for_a_day():
    clock = Clock()
    acts = []

    async def act():
        acts.append(1)
        await asyncio.sleep(0)
        return len(acts)

    async def go():
        once = Once(clock)
        assert await asyncio.gather(*(once.run("a", "k", b"x", act) for _ in range(10))) == [1] * 10
        assert await once.run("b", "k", b"x", act) == 2
        assert await once.run("a", None, b"x", act) == 3
        with pytest.raises(Refused, match="another request"):
            await once.run("a", "k", b"y", act)
        clock.wait(idempotency.LIFETIME_S)
        assert await once.run("a", "k", b"y", act) == 4
        for number in range(idempotency.LIMIT + 10):
            await once.run("a", f"k{number}", b"x", act)
        assert len(once._known) == idempotency.LIMIT

    asyncio.run(go())


def test_a_failure_is_not_remembered():
    async def fail():
        raise KeyError

    async def well():
        return "well"

    async def go():
        once = Once()
        with pytest.raises(KeyError):
            await once.run("a", "k", b"x", fail)
        assert await once.run("a", "k", b"x", well) == "well"

    asyncio.run(go())


def test_the_log_is_json_a_line_bounded_in_memory_and_outlives_its_reader():
    stream = io.StringIO()
    log = ServiceLog("info", stream)
    log.write("debug", "not written")
    log.write("info", "a\nb\x1b[31m", text="c\nd")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "a\nb\x1b[31m"
    for number in range(KEPT + 5):
        log.write("info", str(number))
    assert len(log.kept()) == KEPT
    stream.close()
    log.write("info", "nobody reads")
    assert log.kept()[-1].event == "nobody reads"


def test_a_fault_is_logged_with_its_places():
    log = ServiceLog("info", io.StringIO())
    try:
        raise ValueError("odd")
    except ValueError as error:
        log.fault("fault", error, request="r")
    (line,) = log.kept()
    assert line.fields["error"] == "ValueError: odd"
    assert any(__file__ in place for place in line.fields["places"])
