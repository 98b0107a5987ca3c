"""While weights are written, every answer comes from one legal state: compared bit for bit, under both policies."""

import os
import threading
from collections import Counter

import numpy as np
import pytest

from device_profiles.schema import Writes
from runtime.memory.state_directory import StateDirectory
from runtime.plan.bundle import read
from runtime.plan.evaluation import Evaluator
from runtime.plan.graphs import live_session
from runtime.plan.samples import Samples
from runtime.walking.bank import InPlaceBank, ShadowBank, increments
from runtime.walking.chunks import ChunkList
from runtime.walking.controller import Controller
from runtime.walking.engine import Engine, LiveRunner
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.route import Leg
from runtime.walking.rows import POOL, RowTable
from runtime.walking.session import Session
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.disks import BROKEN, Disk
from tests.runtime.nets import stands_at
from tests.runtime.restarts import DEVICE
from tests.runtime.synthetic import TORN, code_rows, revealed_versions, revealing_layer, state_revealing_model
from tests.runtime.threads import in_line, until

ANSWERS = 10_000
CALLERS = 4
ROWS, COLUMNS = 48, 512
ROWS_AT_ONCE = 5


class RevealingPlan:
    """A plan of one layer whose answers show the version of every row; C1 and C2 differ in all of them."""

    def __init__(self, policy):
        self.model = state_revealing_model(ROWS, COLUMNS)
        layer = revealing_layer(ROWS, COLUMNS)
        self.table = RowTable((layer,), self.model.base, {"layer": code_rows(1, COLUMNS, POOL)})
        start = self.table.dense()
        writes = [("layer", row, POOL) for row in np.random.default_rng(0).permutation(ROWS)]
        self.chunks = ChunkList.build(("layer",), start, writes)
        self.states = {"C1": start, "C2": self.chunks.state_at(start, ROWS)}
        self.policy = policy
        budget = ROWS_AT_ONCE * layer.row_bytes
        self.writes = Writes(bytes_per_increment=budget, increments_per_second=1e6, stall_budget_ms=1e9)
        ends = {0, ROWS}
        for way in (self.chunks, self.chunks.reversed()):
            for begin, end, _ in increments(way, self.table, lambda: budget):
                ends |= {begin, end} if way is self.chunks else {ROWS - begin, ROWS - end}
        self.legal = {self.chunks.state_at(start, position)["layer"].tobytes() for position in ends}

    def route(self, begin, end):
        return (Leg(begin, end, self.chunks if end == "C2" else self.chunks.reversed()),)

    def live(self, mode):
        session = Session(self.model.model, {})
        return LiveRunner(session, self.policy(self.table, self.states[mode], session.bind))

    def rest(self, mode, live):
        return live

    def canary(self, runner):
        return ""


def ask_while(work, engine, x, answers, different=1):
    """Let four callers ask until ``answers`` are in and ``work``, repeated until then, has ended; their answers.

    They ask on for more than ``different`` ones, at most twenty times as often: on a busy machine few come in between.
    """
    given = Counter()
    lock = threading.Lock()
    enough = threading.Event()
    failures = []

    def ask():
        own = Counter()
        try:
            while not enough.is_set():
                own[engine.infer(x).tobytes()] += 1
                if sum(own.values()) % 50 == 0:
                    with lock:
                        given.update(own)
                    own.clear()
                    if given.total() >= answers and (len(given) > different or given.total() >= 20 * answers):
                        enough.set()
        except Exception as error:  # noqa: BLE001  # reported by the test's own thread
            failures.append(error)
            enough.set()
        with lock:
            given.update(own)

    callers = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    while not enough.is_set():
        work()
    for caller in callers:
        caller.join()
    assert not failures, failures
    return given


def illegal(plan, given):
    """Answers that are of no legal state, as (count, versions)."""
    found = []
    for raw, count in given.items():
        versions = revealed_versions(np.frombuffer(raw, np.float32).reshape(4, ROWS))
        if versions.tobytes() not in plan.legal:
            found.append((count, versions))
    return found


@pytest.mark.parametrize("policy", [InPlaceBank, ShadowBank])
def test_no_answer_mixes_two_states(policy):
    plan = RevealingPlan(policy)
    live = plan.live("C1")
    engine = Engine(live, exclusive=live.bank.exclusive, queue_limit=CALLERS)
    controller = Controller(plan, engine, "C1", plan.writes, live)

    def there_and_back():
        for mode in ("C2", "C1"):
            assert controller.switch(mode).wait(60).outcome is Outcome.COMMITTED

    given = ask_while(there_and_back, engine, plan.model.sample, ANSWERS, different=2)
    assert given.total() >= ANSWERS
    assert not illegal(plan, given)
    assert len(given) > 2, "the walk was never seen on its way"


class InterruptedWrite(InPlaceBank):
    """Writes an increment in two halves and lets every caller in between, if the engine lets it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.between = lambda: None

    def write(self, increment):
        table, tensors = self._table, self._tensors
        for name, rows, values in increment.writes:
            half = len(rows) // 2
            table.write(tensors, name, rows[:half], values[:half])
            torn = values[half : half + 1].copy()
            torn[0, COLUMNS // 2 :] = table.rows(name, rows[half : half + 1], np.zeros(1, np.int32))[0, COLUMNS // 2 :]
            table.write(tensors, name, rows[half : half + 1], torn)
            self.between()
            table.write(tensors, name, rows[half:], values[half:])
        return ()


def test_the_same_check_catches_a_bank_that_nobody_synchronises():
    plan = RevealingPlan(InterruptedWrite)
    live = plan.live("C1")
    engine = Engine(live, exclusive=False, queue_limit=2 * CALLERS)
    asked = Counter()
    live.bank.between = lambda: asked.update([engine.infer(plan.model.sample).tobytes()])
    controller = Controller(plan, engine, "C1", plan.writes, live)
    assert controller.switch("C2").wait(60).outcome is Outcome.COMMITTED
    found = illegal(plan, asked)
    assert len(found) == len(asked) == -(-ROWS // ROWS_AT_ONCE)
    assert all((versions == TORN).any() for _, versions in found)


def test_an_exclusive_engine_lets_nobody_into_the_same_write():
    plan = RevealingPlan(InterruptedWrite)
    live = plan.live("C1")
    engine = Engine(live, exclusive=True, queue_limit=CALLERS)
    given = Counter()
    callers = []

    def knock():
        """A caller that comes in the middle of a write; it is answered only after it."""
        caller = threading.Thread(target=lambda: given.update([engine.infer(plan.model.sample).tobytes()]))
        caller.start()
        caller.join(0.01)
        assert caller.is_alive(), "a caller was answered in the middle of a write"
        callers.append(caller)

    live.bank.between = knock
    controller = Controller(plan, engine, "C1", plan.writes, live)
    assert controller.switch("C2").wait(60).outcome is Outcome.COMMITTED
    for caller in callers:
        caller.join()
    assert given.total() == len(callers) > 0
    assert not illegal(plan, given)


@pytest.mark.parametrize("policy", ["in-place", "shadow"])
def test_a_convolutional_network_answers_from_legal_states_only_compact_graphs_included(tmp_path, policy):
    device = profile(queue_limit=CALLERS)
    bundle = read(write_bundle(tmp_path / "plan", device))
    x = bundle.evaluation.inputs[:1]
    session = live_session(bundle, device.threads, device)
    evaluator = Evaluator(session, Samples(x, bundle.evaluation.labels[:1]))
    legal = set()
    for move in bundle.transitions:
        start = bundle.states[move.ends[0]]
        for position in range(len(move.chunks) + 1):
            legal.add(evaluator.at(bundle.table, move.chunks.state_at(start, position)).outputs.tobytes())
    with Net(bundle, device, policy) as net:
        resting = {mode: net._plan.compact(mode).run(x).tobytes() for mode in bundle.states}

        def tour():
            for mode in ("C2", "C3", "C1"):
                assert net.switch(mode).wait(60).outcome is Outcome.COMMITTED

        given = ask_while(tour, net, x, ANSWERS, different=len(resting))
    assert given.total() >= ANSWERS
    assert set(given) <= legal | set(resting.values())
    assert len(given) > len(resting), "the walk was never seen on its way"


class KnockedAt(Disk):
    """A disk on which two flushes in a row fail, so that a walk goes neither on nor back.

    ``knock`` is called after each row, or bias, that is written from then on.
    """

    def __init__(self, after, knock):
        super().__init__()
        self.failing = range(after, after + 2)
        self.flushed = 0
        self.knock = knock

    def flush(self, memory, begin, end):
        self.flushed += 1
        if self.flushed in self.failing:
            raise OSError(BROKEN, os.strerror(BROKEN))
        super().flush(memory, begin, end)

    def store(self, cells, values):
        super().store(cells, values)
        if self.flushed >= self.failing.stop:
            self.knock()


def test_nobody_is_answered_while_persistent_weights_are_rewritten_to_a_mode(tmp_path):
    bundle = read(write_bundle(tmp_path / "plan", DEVICE))
    x = bundle.evaluation.inputs[:3]
    truth = live_session(bundle, 1, aliased=True)
    legal = {truth.run(x, truth.bind(bundle.table.tensors(bundle.states["C1"]))).tobytes()}
    answers, callers = [], []

    def knock():
        """One caller at a time: the next one only when it was answered."""
        if len(answers) == len(callers):
            callers.append(threading.Thread(target=lambda: answers.append(net.infer(x).tobytes())))
            callers[-1].start()
            until(lambda: len(answers) == len(callers) or in_line(net._engine._turnstile) == 1)

    disk = KnockedAt(10, knock)
    with Net(bundle, DEVICE, "persistent", home=StateDirectory(tmp_path / "state", disk)) as net:
        result = net.switch("C3").wait(30)
        assert (result.outcome, result.reason.count("Input/output error")) == (Outcome.ROLLED_BACK, 2)
        assert stands_at(net, "C1")
        for caller in callers:
            caller.join()
    assert callers, "nothing was rewritten"
    assert set(answers) <= legal
