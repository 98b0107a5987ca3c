"""What the service keeps in memory is bounded and ends: sessions, idempotency keys, log lines."""

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading

import pytest

from runtime.service import idempotency, sessions
from runtime.service.idempotency import Once
from runtime.service.logs import KEPT, Bridge, ServiceLog
from runtime.service.outlet import LINES
from runtime.service.problems import Refused
from runtime.service.rate import Buckets
from runtime.service.sessions import Sessions
from runtime.service.tokens import Principal, Scope
from tests.runtime.threads import PATIENCE_S
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


def test_sessions_of_a_token_are_a_bounded_number_and_its_one_unused_for_longest_ends():
    kept = Sessions(lambda _: True, Clock())
    first, _ = kept.begin(WHO)
    others = [kept.begin(WHO)[0] for _ in range(sessions.LIMIT_OF_ONE - 1)]
    assert kept.find(first)
    kept.begin(WHO)
    assert kept.find(others[0]) is None
    assert kept.find(first)
    kept.end(first)
    kept.end("nobody's")
    assert kept.find(first) is None


def another(number):
    return Principal(f"{number:012d}", "y", Scope.READ)


def test_one_reader_s_sessions_end_nobody_else_s():
    kept = Sessions(lambda _: True, Clock())
    other, _ = kept.begin(another(1))
    for _ in range(10 * sessions.LIMIT):
        kept.begin(WHO)
    assert kept.find(other)


def test_with_too_many_in_all_newcomers_are_refused_until_some_are_over():
    clock, valid = Clock(), set(range(sessions.LIMIT + 1))
    kept = Sessions(lambda who: int(who.id) in valid, clock)
    cookies = [kept.begin(another(number))[0] for number in range(sessions.LIMIT)]
    newcomer = another(sessions.LIMIT)
    with pytest.raises(Refused, match="sessions of other tokens") as refused:
        kept.begin(newcomer)
    assert refused.value.status == 429
    assert all(kept.find(cookie) for cookie in cookies)
    valid.remove(7)  # its token is revoked
    assert kept.find(kept.begin(newcomer)[0])
    assert kept.find(cookies[7]) is None
    assert kept.find(cookies[8])
    clock.wait(sessions.IDLE_S)
    assert kept.find(kept.begin(another(3))[0])
    assert kept.find(cookies[8]) is None


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
    assert log.drain()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "a\nb\x1b[31m"
    for number in range(KEPT + 5):
        log.write("info", str(number))
    assert len(log.kept()) == KEPT
    log.close()
    stream.close()
    log.write("info", "nobody reads")
    assert log.kept()[-1].event == "nobody reads"


def test_a_reader_that_is_gone_harms_nobody():
    stream = io.StringIO()
    stream.close()
    log = ServiceLog("info", stream)
    log.write("info", "nobody reads")
    assert log.drain()


def test_a_reader_that_is_stuck_is_not_waited_for_and_learns_how_much_it_missed():
    sticks, reads = threading.Event(), threading.Event()

    class Stuck(io.StringIO):
        def write(self, text):
            sticks.set()
            reads.wait()
            return super().write(text)

    stream = Stuck()
    log = ServiceLog("info", stream)
    log.write("info", "0")
    # The line that the reader is stuck with takes no other's place.
    assert sticks.wait(PATIENCE_S)
    for number in range(1, 1 + LINES + 100):
        log.write("info", str(number))
    assert not log.drain(0)
    reads.set()
    assert log.drain(PATIENCE_S)
    *written, last = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in written] == [str(number) for number in range(1 + LINES)]
    assert (last["event"], last["count"]) == ("lines dropped", 100)


def test_the_real_standard_error_is_not_waited_for_and_a_process_with_a_stuck_one_ends():
    code = (
        "from runtime.service.logs import ServiceLog\n"
        "log = ServiceLog()\n"
        "for _ in range(3000): log.write('info', 'x' * 100)\n"
        "print(log.drain(0), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.wait(PATIENCE_S) == 0
        assert child.stdout.read() == b"False\n"
        assert json.loads(child.stderr.readline())["event"] == "x" * 100


def test_a_library_that_repeats_itself_without_end_does_not_fill_the_log():
    log, clock = ServiceLog("info", io.StringIO()), Clock()
    bridge = Bridge(log, Buckets(1, 3, clock=clock))
    libraries = [logging.Logger(name) for name in ("loud", "quiet")]
    for one in libraries:
        one.addHandler(bridge)
    loud, quiet = libraries
    for _ in range(1000):
        loud.error("socket.accept() out of system resource")
    quiet.warning("once")
    clock.wait(1)
    loud.error("again")
    lines = log.kept()
    assert [line.event for line in lines] == ["loud"] * 3 + ["quiet", "loud"]
    assert lines[-1].fields == {"text": "again", "left_out": 997}


def test_a_fault_is_logged_with_its_places():
    log = ServiceLog("info", io.StringIO())
    try:
        raise ValueError("odd")
    except ValueError as error:
        log.fault("fault", error, request="r")
    (line,) = log.kept()
    assert line.fields["error"] == "ValueError: odd"
    assert any(__file__ in place for place in line.fields["places"])
