"""The engine that answers and writes by turns: bounds, failed writes, interruptions, closing."""

import sys
import threading
from contextlib import nullcontext

import numpy as np
import pytest

from runtime.errors import Closed, QueueFull
from runtime.walking.bank import ShadowBank
from runtime.walking.engine import Engine
from tests.runtime.plans import table
from tests.runtime.threads import LINES, ctrl_c_at, in_line, until

X = np.zeros((1, 1), np.float32)


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


@pytest.mark.parametrize("fails", [False, True])
def test_a_runner_is_made_before_anybody_else_gets_a_turn(fails):
    engine = Engine(Stub(1.0), exclusive=True, queue_limit=4)
    answers = []

    def ask():
        try:
            answers.append(float(engine.infer(X)[0, 0]))
        except Closed:
            answers.append(None)

    caller = threading.Thread(target=ask)

    def make():
        caller.start()
        until(lambda: in_line(engine._turnstile) == 1)
        if fails:
            raise MemoryError("no memory")
        return Stub(2.0)

    with pytest.raises(MemoryError) if fails else nullcontext():
        engine.replace(make)
    caller.join()
    assert answers == [None if fails else 2.0]
    assert engine.closed == fails


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
