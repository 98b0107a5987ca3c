"""Failures on the way must not cost more than they have to, and each is said in full."""

import gc
import threading
import weakref

import pytest

from runtime.errors import Closed, NoThread
from runtime.plan import bundle as bundles
from runtime.walking.bank import Increment
from runtime.walking.operation import Outcome
from runtime.walking.session import Session
from runtime.walking.table import Phase
from tests.runtime.bundles import write_bundle
from tests.runtime.nets import opened, stands_at

POLICIES = ("in-place", "shadow")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("failures") / "plan"))


def failing(error):
    def fail(*_):
        raise error

    return fail


def test_without_a_thread_to_spare_nothing_changes(bundle, monkeypatch):
    with opened(bundle) as net:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", failing(RuntimeError("can't start new thread")))
            with pytest.raises(NoThread, match="switch to C2: can't start new thread; nothing was changed, call again"):
                net.switch("C2")
        assert (net.mode, net.phase) == ("C1", Phase.IDLE)
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED


def test_without_memory_for_the_live_network_the_compact_one_answers_on(bundle, monkeypatch):
    with opened(bundle, snap=True) as net:
        before = net.infer(bundle.evaluation.inputs[:5])
        with monkeypatch.context() as patch:
            patch.setattr(net._plan, "live", failing(MemoryError("no memory")))
            result = net.switch("C2").wait(30)
        assert (result.outcome, result.mode, result.bytes_written) == (Outcome.ROLLED_BACK, "C1", 0)
        assert result.reason == "MemoryError: no memory"
        assert net.infer(bundle.evaluation.inputs[:5]).tobytes() == before.tobytes()
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED


def test_without_memory_for_the_compact_network_the_live_one_walks_back_and_answers_on(bundle, monkeypatch):
    with opened(bundle, snap=True) as net:
        live, built = net._plan.live, []
        with monkeypatch.context() as patch:
            patch.setattr(net._plan, "rest", failing(MemoryError("no memory")))
            patch.setattr(net._plan, "live", lambda mode: built.append(mode) or live(mode))
            result = net.switch("C2").wait(30)
        assert (result.outcome, result.mode) == (Outcome.ROLLED_BACK, "C1")
        assert result.reason == "MemoryError: no memory; then MemoryError: no memory"
        assert result.bytes_written == 2 * bundle.transitions[0].entry.bytes_written
        assert built == ["C1"], "nothing was built anew: what was there could walk back"
        assert stands_at(net, "C1")
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("policy", POLICIES)
def test_after_a_failed_write_the_mode_is_rebuilt_once(bundle, policy):
    with opened(bundle, policy) as net:
        live, built = net._plan.live, []
        net._plan.live = lambda mode: built.append(mode) or live(mode)
        net._controller._live.bank.write = failing(OSError("bus error"))
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.reason) == (Outcome.ROLLED_BACK, "OSError: bus error")
        assert built == ["C1"]
        assert stands_at(net, "C1")


@pytest.mark.parametrize("policy", POLICIES)
def test_after_a_failed_write_on_the_way_back_the_mode_is_rebuilt_once(bundle, policy):
    with opened(bundle, policy) as net:
        live, built = net._plan.live, []
        net._plan.live = lambda mode: built.append(mode) or live(mode)

        def reject(runner):
            net._controller._live.bank.write = failing(OSError("bus error"))
            return "canary: found 0 right answers, expected 16"

        net._plan.canary = reject
        result = net.switch("C2").wait(30)
        assert (result.outcome, net.phase) == (Outcome.ROLLED_BACK, Phase.IDLE)
        assert result.reason == "C2: canary: found 0 right answers, expected 16; then OSError: bus error"
        assert built == ["C1"]
        assert stands_at(net, "C1")


def test_a_network_that_cannot_be_rebuilt_says_all_that_went_wrong_and_answers_no_more(bundle):
    with opened(bundle) as net:
        net._plan.live = failing(MemoryError("no memory"))
        net._controller._live.bank.write = failing(OSError("bus error"))
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.mode) == (Outcome.FAILED, "C1")
        assert result.reason == "OSError: bus error; then MemoryError: no memory"
        assert net.phase is Phase.FAILED
        with pytest.raises(Closed, match="infer: the network is closed; open it again"):
            net.infer(bundle.evaluation.inputs[:1])
        with pytest.raises(Closed, match="switch: the network is failed; open it again"):
            net.switch("C1")


@pytest.mark.parametrize("failures", [(2,), (2, 3)])
def test_an_increment_that_cannot_be_gathered_turns_the_walk_or_rebuilds_the_mode(bundle, monkeypatch, failures):
    with opened(bundle) as net:
        gather, calls = Increment.gather, []

        def scarce(*arguments):
            calls.append(arguments)
            if len(calls) - 1 in failures:
                raise MemoryError("no memory")
            return gather(*arguments)

        monkeypatch.setattr(Increment, "gather", scarce)
        result = net.switch("C2").wait(30)
        assert result.outcome is Outcome.ROLLED_BACK
        assert result.reason == "; then ".join(["MemoryError: no memory"] * len(failures))
        assert stands_at(net, "C1")


def test_a_canary_that_fails_to_answer_is_no_canary_that_answers_wrong(bundle):
    with opened(bundle) as net:
        net._plan.canary = failing(ZeroDivisionError("canary"))
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.reason) == (Outcome.ROLLED_BACK, "ZeroDivisionError: canary")
        assert stands_at(net, "C1")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_walks_leave_nothing_behind(bundle, monkeypatch, policy, snap, kept):
    """Of a network whose sessions are not kept, the one that answers is left; else one for each graph at most."""
    if not kept:
        monkeypatch.setattr("runtime.walking.net.KEPT_BYTES", 0)
    sessions = weakref.WeakSet()
    made = Session.__init__

    def count(self, *arguments, **options):
        made(self, *arguments, **options)
        sessions.add(self)

    monkeypatch.setattr(Session, "__init__", count)
    before = threading.active_count()
    gc.collect()
    gc.disable()  # nothing may wait for a collection: on a small board it would come too late
    try:
        with opened(bundle, policy, snap) as net:
            for mode in ("C2", "C3", "C1") * 3:
                net.switch(mode).wait(30)
                net._controller._thread.join()
                assert len(sessions) == 1 or (kept and len(sessions) <= 1 + len(bundle.states))
        del net
        assert not sessions
    finally:
        gc.enable()
    assert threading.active_count() == before
