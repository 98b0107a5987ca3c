"""Taking turns: order, bounds, interruptions."""

import signal
import sys
import threading
from functools import partial

import pytest

from runtime.errors import QueueFull
from runtime.walking.turnstile import Turn, Turnstile
from tests.runtime.threads import LINES, ctrl_c_at, in_line, until


def is_free(turnstile):
    return turnstile._holder is None and not turnstile._line


class Line:
    """Callers on threads of their own, each joining only once the one before it stands in line."""

    def __init__(self, turnstile):
        self.turnstile = turnstile
        self.served = []
        self.threads = []

    def join(self, name, again=0, **how):
        before = in_line(self.turnstile)

        def call():
            for _ in range(again + 1):
                with self.turnstile.turn(**how):
                    self.served.append(name)

        self.threads.append(threading.Thread(target=call))
        self.threads[-1].start()
        until(lambda: in_line(self.turnstile) == before + 1)

    def served_all(self):
        for thread in self.threads:
            thread.join()
        return self.served


def test_turns_are_given_in_the_order_of_arrival():
    turnstile = Turnstile(limit=20)
    line = Line(turnstile)
    with turnstile.turn():
        for name in range(20):
            line.join(name)
    assert line.served_all() == list(range(20))
    assert is_free(turnstile)


def test_a_walk_gets_its_turn_among_callers_that_come_again_at_once():
    turnstile = Turnstile(limit=4)
    line = Line(turnstile)
    with turnstile.turn():
        for name in "abcd":
            line.join(name, again=500)
        line.join("walk", bounded=False)
    served = line.served_all()
    assert served[:5] == [*"abcd", "walk"]
    assert len(served) == 4 * 501 + 1


def test_a_full_line_turns_callers_away_but_never_a_walk():
    turnstile = Turnstile(limit=2)
    line = Line(turnstile)
    with turnstile.turn():
        line.join("a")
        line.join("b")
        with pytest.raises(QueueFull) as caught, turnstile.turn():
            pytest.fail("it was let in")
        line.join("walk", bounded=False)
        with pytest.raises(QueueFull, match="3 callers wait already, expected fewer than 2"), turnstile.turn():
            pytest.fail("it was let in")
    assert str(caught.value) == (
        "infer: 2 callers wait already, expected fewer than 2; "
        "call again later, or raise queue_limit in the device profile"
    )
    assert line.served_all() == ["a", "b", "walk"]
    assert is_free(turnstile)


def test_an_error_passes_the_turn_on():
    turnstile = Turnstile(limit=2)
    line = Line(turnstile)

    def fail():
        with turnstile.turn():
            line.join("next")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert line.served_all() == ["next"]
    assert is_free(turnstile)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_ctrl_c_in_the_line_gives_the_place_up(request):
    # What a shell starts in the background ignores the signal, tests included.
    request.addfinalizer(
        partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
    )
    turnstile = Turnstile(limit=4)
    line = Line(turnstile)
    waiting, leave = threading.Event(), threading.Event()

    def hold():
        with turnstile.turn():
            waiting.set()
            leave.wait()

    def interrupt():
        until(lambda: in_line(turnstile) == 1)
        line.join("behind")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    holder, other = threading.Thread(target=hold), threading.Thread(target=interrupt)
    holder.start()
    waiting.wait()
    other.start()
    with pytest.raises(KeyboardInterrupt), turnstile.turn():
        pytest.fail("its turn came")
    other.join()
    assert in_line(turnstile) == 1
    leave.set()
    holder.join()
    assert line.served_all() == ["behind"]
    assert is_free(turnstile)


def test_ctrl_c_just_as_the_turn_is_handed_over_passes_it_on():
    turnstile = Turnstile(limit=4)
    line = Line(turnstile)
    holder, mine = turnstile.turn(), turnstile.turn()
    holder.__enter__()

    class Interrupted:
        def acquire(self):
            line.join("behind")
            holder.__exit__(None, None, None)
            assert turnstile._holder is mine
            raise KeyboardInterrupt

        def release(self):
            pass

    mine.come = Interrupted()
    with pytest.raises(KeyboardInterrupt), mine:
        pytest.fail("its turn came")
    assert line.served_all() == ["behind"]
    assert is_free(turnstile)


ENTERING = (Turn.__enter__, Turnstile.enter)


@pytest.mark.parametrize("line", LINES)
def test_ctrl_c_on_the_way_in_leaves_no_turn_taken(line):
    turnstile = Turnstile(limit=1)
    interrupted = False
    try:
        with ctrl_c_at(line, *ENTERING), turnstile.turn():
            sys.settrace(None)
    except KeyboardInterrupt:
        interrupted = True
    assert is_free(turnstile)
    assert interrupted or line > 4
