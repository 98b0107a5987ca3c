"""Taking turns: order, bounds, interruptions; and the engine that answers and writes by turns."""

import inspect
import signal
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from runtime.bank import ShadowBank
from runtime.engine import Engine
from runtime.errors import Closed, QueueFull
from runtime.turnstile import Turn, Turnstile
from tests.runtime.plans import table

X = np.zeros((1, 1), np.float32)


def until(condition):
    while not condition():
        threading.Event().wait(0.001)


def in_line(turnstile):
    return len(turnstile._line)


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
def test_ctrl_c_in_the_line_gives_the_place_up():
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


@contextmanager
def ctrl_c_at(line, *functions):
    """Ctrl-C before the ``line``-th line that these functions run, as the main thread may get it.

    A line that is visited a second time is the end of a ``with``, which Python does not interrupt before it has left.
    """
    codes = {inspect.unwrap(function).__code__ for function in functions}
    seen = []

    def each(frame, event, _):
        place = frame.f_code, frame.f_lineno
        if event == "line" and place not in seen:
            seen.append(place)
            if len(seen) == line + 1:
                raise KeyboardInterrupt
        return each

    outside = sys.gettrace()
    sys.settrace(lambda frame, *_: each if frame.f_code in codes else None)
    try:
        yield
    finally:
        sys.settrace(outside)


ENTERING = (Turn.__enter__, Turnstile.enter)
LINES = range(8)
"""More lines than any of the functions runs before its context is open."""


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


class Stub:
    """A runner that says who answered, and stays in its answer while ``hold`` is clear."""

    weight_bytes = 0

    def __init__(self, answer=0.0):
        self.answer = np.full((1, 1), answer, np.float32)
        self.hold = threading.Event()
        self.hold.set()
        self.inside = 0
        self._count = threading.Lock()

    def run(self, x):
        with self._count:
            self.inside += 1
        self.hold.wait()
        with self._count:
            self.inside -= 1
        return self.answer


@pytest.mark.parametrize("line", LINES)
def test_ctrl_c_leaves_no_caller_counted(line):
    engine = Engine(Stub(), exclusive=False, queue_limit=1)
    try:
        with ctrl_c_at(line, Engine._counted), engine._counted():
            sys.settrace(None)
    except KeyboardInterrupt:
        pass
    assert not engine._running


@pytest.mark.parametrize("line", LINES)
def test_ctrl_c_leaves_no_reader_that_a_walk_would_wait_for(line):
    rows = table()
    bank = ShadowBank(rows, rows.dense(), lambda tensors: tensors)
    try:
        with ctrl_c_at(line, ShadowBank.read), bank.read():
            sys.settrace(None)
    except KeyboardInterrupt:
        pass
    assert not any(bank._readers)


@pytest.mark.parametrize(
    ("exclusive", "limit", "expected"),
    [
        (True, 2, "infer: 2 callers wait already, expected fewer than 2"),
        (False, 3, "infer: 3 callers run already, expected fewer than 3"),
    ],
)
def test_too_many_callers_are_turned_away_and_the_others_answered(exclusive, limit, expected):
    runner = Stub(7.0)
    engine = Engine(runner, exclusive=exclusive, queue_limit=limit)
    runner.hold.clear()
    answers = []
    callers = [threading.Thread(target=lambda: answers.append(engine.infer(X))) for _ in range(3)]
    for caller in callers:
        caller.start()
    until(lambda: in_line(engine._turnstile) == 2 if exclusive else runner.inside == 3)
    for _ in range(3):
        with pytest.raises(QueueFull) as caught:
            engine.infer(X)
        assert str(caught.value).startswith(expected)
    runner.hold.set()
    for caller in callers:
        caller.join()
    assert [float(answer[0, 0]) for answer in answers] == [7.0] * 3
    assert float(engine.infer(X)[0, 0]) == 7.0


@pytest.mark.parametrize("exclusive", [True, False])
def test_nobody_is_answered_from_what_a_failed_write_left(exclusive):
    engine = Engine(Stub(1.0), exclusive=exclusive, queue_limit=4)
    answers = []
    caller = threading.Thread(target=lambda: answers.append(float(engine.infer(X)[0, 0])))

    def write():
        caller.start()
        until(lambda: in_line(engine._turnstile) == 1 if exclusive else answers)
        raise OSError("bus error")

    def rescue():
        if not exclusive:  # the front copy is whole: nobody is kept waiting, and nobody turned away
            answers.append(float(engine.infer(X)[0, 0]))
        return Stub(2.0)

    with pytest.raises(OSError, match="bus error"):
        engine.between_jobs(write, rescue)
    caller.join()
    assert answers == ([2.0] if exclusive else [1.0, 1.0])
    assert not engine.closed
    assert float(engine.infer(X)[0, 0]) == 2.0


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("rescue", [None, lambda: (_ for _ in ()).throw(MemoryError("no memory"))])
def test_an_engine_that_cannot_be_rescued_closes(exclusive, rescue):
    engine = Engine(Stub(), exclusive=exclusive, queue_limit=4)
    with pytest.raises((OSError, MemoryError)):
        engine.between_jobs(lambda: (_ for _ in ()).throw(OSError("bus error")), rescue)
    assert engine.closed
    with pytest.raises(Closed, match="infer: the network is closed; open it again"):
        engine.infer(X)


def test_closing_answers_those_in_line_first():
    runner = Stub(3.0)
    engine = Engine(runner, exclusive=True, queue_limit=4)
    runner.hold.clear()
    answers = []
    callers = [threading.Thread(target=lambda: answers.append(engine.infer(X))) for _ in range(3)]
    for caller in callers:
        caller.start()
    until(lambda: in_line(engine._turnstile) == 2)
    closing = threading.Thread(target=engine.close)
    closing.start()
    until(lambda: in_line(engine._turnstile) == 3)
    runner.hold.set()
    for thread in (*callers, closing):
        thread.join()
    assert len(answers) == 3
    with pytest.raises(Closed):
        engine.infer(X)
