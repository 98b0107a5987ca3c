"""A switch disturbed at every instant of its walk."""

import threading
import time

import pytest

from runtime.errors import Busy, Closed, IllegalEvent
from runtime.plan import bundle as bundles
from runtime.walking import controller
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.table import Phase
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.instants import Instants, cancel
from tests.runtime.nets import opened, stands_at
from tests.runtime.threads import until

POLICIES = ("in-place", "shadow")
CLOSED_ON_THE_WAY = "the network was closed during the walk"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("controller") / "plan"))


@pytest.mark.parametrize("policy", POLICIES)
def test_cancelling_at_any_instant_ends_on_one_of_the_two_modes(bundle, policy):
    outcomes = []
    for net, operation in Instants(lambda: opened(bundle, policy), cancel):
        result = operation.wait(30)
        outcomes.append(result.outcome)
        assert result.mode == net.mode == {Outcome.CANCELLED: "C1", Outcome.COMMITTED: "C2"}[result.outcome]
        assert (net.phase, result.reason) == (Phase.IDLE, "")
        assert stands_at(net, net.mode)
    assert set(outcomes) == {Outcome.CANCELLED, Outcome.COMMITTED}


def test_pausing_at_any_instant_holds_the_walk_until_it_is_resumed(bundle):
    paused = []

    def pause(net):
        try:
            if net._controller._current is not None:
                net._controller._current.pause()
                paused.append(net)
        except IllegalEvent:
            assert net.phase is Phase.VERIFYING

    for net, operation in Instants(lambda: opened(bundle), pause):
        until(lambda net=net, operation=operation: net in paused or operation.result)
        if net in paused:
            assert net.phase is Phase.PAUSED
            assert operation.result is None
            operation.resume()
        assert operation.wait(30).outcome is Outcome.COMMITTED
        assert stands_at(net, "C2")
    assert len(paused) > 20


@pytest.mark.parametrize("policy", POLICIES)
def test_closing_at_any_instant_gives_a_result_and_leaves_no_thread(bundle, policy):
    closers = []

    def close(net):
        closers.append(threading.Thread(target=net.close))
        closers[-1].start()
        until(lambda: net._controller._closed)

    outcomes = []
    for net, operation in Instants(lambda: opened(bundle, policy), close):
        result = operation.wait(30)
        net.close()
        outcomes.append(result.outcome)
        assert result.outcome is Outcome.COMMITTED or result.reason == CLOSED_ON_THE_WAY
        assert not net._controller._thread.is_alive()
        with pytest.raises(Closed):
            net.infer(bundle.evaluation.inputs[:1])
        for closer in closers:
            closer.join()
    assert set(outcomes) == {Outcome.FAILED, Outcome.COMMITTED}


def test_a_next_switch_at_any_instant_is_refused_or_its_own(bundle, monkeypatch):
    """The thread of a walk that has ended must not take the next one's turning back for its own."""
    nexts = {}
    run, let = controller.Controller._run, threading.Event()

    def run_when_let(self, walk):
        if walk.operation.target == "C1":
            let.wait()
        run(self, walk)

    def begin_the_next(net):
        try:
            nexts[net] = net.switch("C1")
        except Busy:
            return
        nexts[net].cancel()

    monkeypatch.setattr(controller.Controller, "_run", run_when_let)
    each = Instants(lambda: opened(bundle), begin_the_next)
    for net, operation in each:
        assert operation.wait(30).outcome is Outcome.COMMITTED
        each.walk.join()
        let.set()
        if net in nexts:
            assert nexts[net].wait(30).outcome is Outcome.CANCELLED
        let.clear()
        assert (net.mode, net.phase) == ("C2", Phase.IDLE)
        assert stands_at(net, "C2")
    assert nexts


def cancelled_in_its_first_increment(net):
    """Moments and bytes of all increments of a switch that is."""
    bank = net._controller._live.bank
    write, begun, sizes = bank.write, [], []

    def cancel_first(increment):
        begun.append(time.monotonic())
        sizes.append(sum(values.nbytes for _, _, values in increment.writes))
        if len(begun) == 1:
            operation.cancel()
        return write(increment)

    bank.write = cancel_first
    with net._engine._turnstile.turn():
        operation = net.switch("C2")
    assert operation.wait(30).outcome is Outcome.CANCELLED
    return begun, sizes


def test_a_turn_waits_until_the_memory_has_taken_what_it_was_given(bundle):
    rate = {"value": 400.0, "provenance": "assumed", "source": "test"}
    with opened(bundle, writes__bytes_per_increment=148, writes__bytes_per_second=rate) as net:
        begun, sizes = cancelled_in_its_first_increment(net)
    assert len(begun) == 2
    assert begun[1] - begun[0] >= sizes[0] / rate["value"] > 0


def test_a_turn_writes_no_more_at_once_than_the_walk_did_after_a_stall(bundle):
    narrow = profile(writes__bytes_per_increment=592, writes__stall_budget_ms=1e-9, bank__snap=False)
    with Net(bundle, narrow, "in-place") as net:
        _, sizes = cancelled_in_its_first_increment(net)
    assert sum(sizes[1:]) == sizes[0]
    assert max(sizes[1:]) <= sizes[0] / 2


def test_of_many_switches_at_once_one_is_made(bundle):
    with opened(bundle) as net:
        start = threading.Barrier(8)
        made, refused = [], []

        def switch():
            start.wait()
            try:
                made.append(net.switch("C2"))
                made[-1].pause()
            except Busy as error:
                refused.append(error)

        callers = [threading.Thread(target=switch) for _ in range(8)]
        # The first increment comes only when all have asked.
        with net._engine._turnstile.turn():
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
        assert (len(made), len(refused)) == (1, 7)
        made[0].resume()
        assert made[0].wait(30).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("policy", POLICIES)
def test_closing_while_a_mode_is_verified_lets_it_be_reached(bundle, policy):
    with opened(bundle, policy) as net:
        canary, closing = net._plan.canary, []

        def close_meanwhile(runner):
            closing.append(threading.Thread(target=net.close))
            closing[0].start()
            until(lambda: net._controller._closed)
            with pytest.raises(IllegalEvent, match="cancel: the controller is verifying"):
                operation.cancel()
            return canary(runner)

        net._plan.canary = close_meanwhile
        operation = net.switch("C2")
        assert operation.wait(30).outcome is Outcome.COMMITTED
        closing[0].join()
        assert net.mode == "C2"
