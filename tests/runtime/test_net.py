"""A bundle at work: modes, switches, routes, cancellation, refusals."""

import dataclasses
import subprocess
import sys
import threading

import msgspec
import numpy as np
import pytest

import geoshift
from runtime.errors import BundleError, Busy, Closed, IllegalEvent, UnknownMode
from runtime.plan import bundle as bundles
from runtime.plan.fit import peak_bytes
from runtime.plan.samples import Samples
from runtime.plan.verification import verify
from runtime.walking import net as walking_net
from runtime.walking.bank import Increment
from runtime.walking.engine import CompactRunner
from runtime.walking.net import Net
from runtime.walking.operation import Outcome
from runtime.walking.session import InputError
from runtime.walking.table import Phase
from tests.runtime.bundles import TOUR, profile, write_bundle
from tests.runtime.nets import hurry
from tests.runtime.synthetic import forward


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "plan")


@pytest.fixture(params=["in-place", "shadow"])
def net(path, request):
    with geoshift.open(path, policy=request.param) as opened:
        yield opened


def expected(net, mode, x):
    tensors = {**net.bundle.tensors, **net.bundle.table.tensors(net.bundle.states[mode])}
    return forward(tensors, x)


def test_every_mode_answers_as_its_weights_say(net):
    x = net.bundle.evaluation.inputs[:50]
    for mode in TOUR[1:]:
        result = net.switch(mode).wait(30)
        assert (result.outcome, result.mode, net.mode) == (Outcome.COMMITTED, mode, mode)
        np.testing.assert_allclose(net.infer(x), expected(net, mode, x), atol=1e-4)


def test_a_switch_reports_its_bytes_and_ends_at_full_progress(net):
    operation = net.switch("C2")
    result = operation.wait(30)
    assert result.bytes_written == net.bundle.transitions[0].entry.bytes_written
    assert operation.progress == 1.0
    assert result.reason == ""


def test_switching_to_the_present_mode_is_done_at_once(net):
    result = net.switch("C1").wait(0)
    assert (result.outcome, result.bytes_written) == (Outcome.COMMITTED, 0)


def test_a_mode_with_a_direct_path_is_reached_by_it(net):
    net.switch("C2").wait(30)
    net.switch("C1").wait(30)  # the way back of C1 → C2
    assert net.mode == "C1"
    back = net.bundle.transitions[2].entry.bytes_written  # C3 → C1, walked backwards
    assert net.switch("C3").wait(30).bytes_written == back


def slow(path, policy="in-place", **changes):
    """A network whose next increment is due in an hour: the walk stands after its first one."""
    device = profile(writes__increments_per_second=1 / 3600, **changes)
    return Net(bundles.read(path), device, policy)


def until_first_increment(operation):
    while operation.progress == 0.0:
        threading.Event().wait(0.001)


def test_a_second_switch_is_refused_and_changes_nothing(path):
    with slow(path) as net:
        first = net.switch("C2")
        with pytest.raises(Busy, match="C1 → C2 under way"):
            net.switch("C3")
        until_first_increment(first)
        assert (net.mode, net.phase) == ("C1", Phase.WALKING)
        assert first.result is None


@pytest.mark.parametrize("policy", ["in-place", "shadow"])
def test_cancelling_walks_back_to_the_same_bits(path, policy):
    with slow(path, policy, bank__snap=False) as net:
        x = net.bundle.evaluation.inputs[:20]
        before = net.infer(x)
        operation = net.switch("C3")
        until_first_increment(operation)
        hurry(net)
        operation.cancel()
        result = operation.wait(30)
        assert (result.outcome, result.mode, net.phase) == (Outcome.CANCELLED, "C1", Phase.IDLE)
        assert net.infer(x).tobytes() == before.tobytes()
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED


def test_a_paused_walk_stands_still_and_answers(path):
    with slow(path) as net:
        operation = net.switch("C2")
        until_first_increment(operation)
        operation.pause()
        assert net.phase is Phase.PAUSED
        at = operation.progress
        net.infer(net.bundle.evaluation.inputs[:3])
        with pytest.raises(IllegalEvent, match="paused"):
            operation.pause()
        with pytest.raises(TimeoutError, match="still under way"):
            operation.wait(0.2)
        assert operation.progress == at
        operation.resume()
        assert net.phase is Phase.WALKING
        hurry(net)
        operation.cancel()
        assert operation.wait(30).outcome is Outcome.CANCELLED


def test_a_finished_switch_cannot_be_cancelled(net):
    operation = net.switch("C2")
    operation.wait(30)
    with pytest.raises(IllegalEvent, match="is over"):
        operation.cancel()
    assert net.mode == "C2"


def test_an_unknown_mode_is_named_with_those_there_are(net):
    with pytest.raises(UnknownMode, match="'C9', expected one of C1, C2, C3"):
        net.switch("C9")
    assert net.phase is Phase.IDLE


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (np.zeros((1, 1, 4, 5), np.float32), r"\[1, 1, 4, 5\]"),
        (np.zeros((1, 1, 4, 4), np.float64), "float64"),
        (np.zeros((0, 1, 4, 4), np.float32), r"\[0, 1, 4, 4\]"),
        ([[1.0]], "list"),
    ],
)
def test_a_wrong_input_is_refused_and_the_next_one_answered(net, x, found):
    with pytest.raises(InputError, match=found):
        net.infer(x)
    assert net.infer(np.zeros((2, 1, 4, 4), np.float32)).shape == (2, 3)


def test_a_closed_network_says_so(path):
    net = geoshift.open(path)
    net.close()
    net.close()
    with pytest.raises(Closed, match="open it again"):
        net.infer(np.zeros((1, 1, 4, 4), np.float32))
    with pytest.raises(Closed, match="open it again"):
        net.switch("C2")


def test_closing_during_a_walk_ends_it_with_a_result(path):
    net = slow(path)
    operation = net.switch("C2")
    until_first_increment(operation)
    net.close()
    result = operation.wait(30)
    assert (result.outcome, result.reason) == (Outcome.FAILED, "the network was closed during the walk")


def test_the_canary_sends_a_bad_arrival_back(path, monkeypatch):
    with geoshift.open(path, policy="in-place") as net:
        before = net.infer(net.bundle.evaluation.inputs[:20])
        monkeypatch.setattr(net._plan, "canary", lambda runner: "canary: found 3 right answers, expected 16")
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.mode) == (Outcome.ROLLED_BACK, "C1")
        assert result.reason == "C2: canary: found 3 right answers, expected 16"
        assert net.infer(net.bundle.evaluation.inputs[:20]).tobytes() == before.tobytes()
        monkeypatch.undo()
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("policy", ["in-place", "shadow"])
@pytest.mark.parametrize("failing", [0, 2])
def test_a_write_that_fails_half_way_leaves_the_mode_it_left(path, monkeypatch, policy, failing):
    device = profile(bank__snap=False)
    with Net(bundles.read(path), device, policy) as net:
        before = net.infer(net.bundle.evaluation.inputs[:20])
        sound, calls = net.bundle.table.write, []

        def write(tensors, name, rows, values):
            calls.append(name)
            if len(calls) == failing + 1:
                sound(tensors, name, rows[:1], values[:1])
                raise OSError("weight memory: bus error")
            sound(tensors, name, rows, values)

        monkeypatch.setattr(net.bundle.table, "write", write)
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.mode, net.phase) == (Outcome.ROLLED_BACK, "C1", Phase.IDLE)
        assert "bus error" in result.reason
        assert net.infer(net.bundle.evaluation.inputs[:20]).tobytes() == before.tobytes()


def test_a_network_that_cannot_be_restored_stops_answering(path, monkeypatch):
    with geoshift.open(path, policy="in-place") as net:
        live = net._plan.live

        def broken(mode):
            runner = live(mode)
            monkeypatch.setattr(runner.bank, "write", lambda increment: (_ for _ in ()).throw(OSError("bus error")))
            monkeypatch.setattr(net._plan, "live", lambda mode: (_ for _ in ()).throw(MemoryError("no memory")))
            return runner

        monkeypatch.setattr(net._plan, "live", broken)
        result = net.switch("C2").wait(30)
        assert result.outcome is Outcome.FAILED
        assert "no memory" in result.reason
        assert net.phase is Phase.FAILED
        with pytest.raises(Closed):
            net.infer(np.zeros((1, 1, 4, 4), np.float32))
        with pytest.raises(Closed, match="failed"):
            net.switch("C2")


def test_a_plan_that_does_not_fit_the_device_is_refused_with_the_need(path):
    bundle = bundles.read(path)
    with pytest.raises(BundleError, match=r"bytes_per_increment: found 100, expected at least 148, one row of conv2"):
        Net(bundle, profile(writes__bytes_per_increment=100))
    one, two = (peak_bytes(bundle, copies, snap=True) for copies in (1, 2))
    assert one < two
    with pytest.raises(BundleError, match=rf"weights_bytes: found {one}, expected at least {two}; use policy in-place"):
        Net(bundle, profile(memory__weights_bytes=one), "shadow")
    with pytest.raises(BundleError, match=rf"weights_bytes: found {one - 1}, expected at least {one}; plan a smaller"):
        Net(bundle, profile(memory__weights_bytes=one - 1))
    with Net(bundle, profile(memory__weights_bytes=one)) as net:
        assert net.policy == "in-place"
    with Net(bundle, profile(memory__weights_bytes=two)) as net:
        assert net.policy == "shadow"


def test_snapping_releases_the_live_weights(path):
    with Net(bundles.read(path), profile(), "shadow") as net:
        small = net.weight_bytes
        operation = net.switch("C3")
        operation.wait(30)
        assert net.weight_bytes < small
    with Net(bundles.read(path), profile(bank__snap=False), "shadow") as net:
        assert net.weight_bytes > small


@pytest.mark.parametrize("room", [True, False])
def test_a_small_network_makes_each_of_its_sessions_once_where_there_is_room(path, monkeypatch, room):
    made = []

    def counted(make):
        def session(*args, **options):
            made.append(make.__name__)
            return make(*args, **options)

        return session

    for make in (walking_net.live_session, walking_net.compact_session):
        monkeypatch.setattr(walking_net, make.__name__, counted(make))
    device = profile()
    if not room:
        bundle = bundles.read(path)
        memory = msgspec.structs.replace(device.memory, weights_bytes=peak_bytes(bundle, 4, device.bank.snap))
        device = msgspec.structs.replace(device, memory=memory)
    counts = []
    with Net(bundles.read(path), device) as net:
        for mode in (*TOUR, *TOUR[1:]):
            assert net.switch(mode).wait(60).outcome is Outcome.COMMITTED
            counts.append(len(made))
    once = len(set(TOUR)) + 1
    if room:
        assert counts[-1] == counts[len(TOUR) - 1] == len(made) == once
    else:
        assert counts[-1] > 2 * once


def test_the_bundle_verifies_and_one_with_another_mode_does_not(path):
    bundle = bundles.read(path)
    assert all(check.ok for check in verify(bundle, bundle.profile))
    bundle.states["C2"]["conv2"][0] = 0
    failed = {check.name for check in verify(bundle, bundle.profile) if not check.ok}
    assert "C1 → C2: weights" in failed


def test_a_stall_beyond_the_budget_makes_increments_smaller(path, monkeypatch):
    device = profile(writes__bytes_per_increment=1024, writes__stall_budget_ms=1e-9, bank__snap=False)
    with Net(bundles.read(path), device, "in-place") as net:
        sizes = []
        gather = Increment.gather

        def spy(table, chunks, begin, end):
            sizes.append(int(chunks.chunk_bytes(table)[begin:end].sum()))
            return gather(table, chunks, begin, end)

        monkeypatch.setattr(Increment, "gather", spy)
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED
    assert sizes[0] > 512
    assert all(size <= max(148, 1024 >> number) for number, size in enumerate(sizes))


def test_a_pace_of_almost_never_is_waited_for_without_an_error(path):
    device = profile(writes__increments_per_second=5e-324)
    net = Net(bundles.read(path), device, "in-place")
    operation = net.switch("C2")
    until_first_increment(operation)
    operation.cancel()
    net.close()
    assert operation.wait(30).reason == "the network was closed during the walk"


def test_the_canary_is_asked_of_what_will_answer_too(path, monkeypatch):
    with geoshift.open(path, policy="in-place") as net:
        before = net.infer(net.bundle.evaluation.inputs[:20])
        sound = net._plan.canary
        monkeypatch.setattr(
            net._plan, "canary", lambda one: sound(one) or ("bad" if isinstance(one, CompactRunner) else "")
        )
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.reason) == (Outcome.ROLLED_BACK, "C2: bad")
        assert net.infer(net.bundle.evaluation.inputs[:20]).tobytes() == before.tobytes()


def test_a_network_that_fails_its_canary_is_not_opened(path):
    bundle = bundles.read(path)
    wrong = dataclasses.replace(bundle, canary=Samples(bundle.canary.inputs, (bundle.canary.labels + 1) % 3))
    with pytest.raises(
        BundleError, match=r"mode C1: canary: found 0 right answers, expected 16; run `geoshift verify`"
    ):
        Net(wrong, profile())


def test_the_first_walk_imports_no_module(path):
    """Callers would wait for it, once a process: that of ``numpy.ma``, which ``np.unique`` begins with, takes 30 ms."""
    code = (
        "import sys; from runtime.plan import bundle; from tests.runtime.nets import opened\n"
        "with opened(bundle.read(sys.argv[1])) as net:\n"
        "    before = set(sys.modules)\n"
        "    net.switch('C2').wait(30)\n"
        "    print(net.mode, sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "C2 []\n"), done.stderr
