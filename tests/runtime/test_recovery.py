"""Started again, a device stands where its journal says, and goes on from there."""

import dataclasses
import shutil
import threading
from collections import Counter
from contextlib import suppress

import msgspec
import pytest

import geoshift
from runtime.errors import BundleError, Closed, JournalError, StateError
from runtime.memory.files import Files
from runtime.memory.journal import NAME, Journal, Standing, WalkEntry, load
from runtime.memory.recovery import find, onward
from runtime.memory.state_directory import StateDirectory
from runtime.plan import bundle as bundles
from runtime.plan.manifest import Manifest
from runtime.plan.samples import Samples
from runtime.walking.net import DeployedPlan, Net
from runtime.walking.operation import Outcome
from runtime.walking.rows import same_state
from runtime.walking.table import Phase
from tests.runtime.bundles import content, profile, write_bundle
from tests.runtime.disks import BROKEN, FULL, Crowded, Disk
from tests.runtime.nets import PACE, pace, stands_at
from tests.runtime.restarts import DEVICE, key, restart, told
from tests.runtime.threads import until

POLICIES = ("in-place", "shadow", "persistent")
SLOW = profile(writes__increments_per_second=1 / 3600, bank__snap=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("recovery") / "plan", DEVICE))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same plan, released again."""
    path = tmp_path_factory.mktemp("other") / "plan"
    manifest, files = content(DEVICE)
    assert isinstance(manifest, Manifest)
    return bundles.read(bundles.write(path, msgspec.structs.replace(manifest, release=5), files, replace=False))


def opened(bundle, state, policy="in-place", device=DEVICE, **options):
    return Net(bundle, device, policy, home=StateDirectory(state), **options)


def stopped_on_the_way(bundle, state, policy, to="C3"):
    """Closed after the first increment of a walk; bytes that were written."""
    with opened(bundle, state, policy, SLOW) as net:
        operation = net.switch(to)
        until(lambda: operation.progress > 0)
    assert operation.result.outcome is Outcome.FAILED
    return operation.result.bytes_written


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("snap", [False, True])
def test_at_rest_it_stands_at_the_mode_it_had_reached(bundle, tmp_path, policy, snap):
    device = profile(**PACE, bank__snap=snap)
    with opened(bundle, tmp_path, policy, device) as net:
        for mode in ("C2", "C3"):
            assert net.switch(mode).wait(30).outcome is Outcome.COMMITTED
        before, counted = net.infer(bundle.evaluation.inputs[:5]), net.standing.counters
    with opened(bundle, tmp_path, policy, device) as net:
        assert (net.mode, net.phase, net.recovery) == ("C3", Phase.IDLE, None)
        assert net.infer(bundle.evaluation.inputs[:5]).tobytes() == before.tobytes()
        assert net.standing.counters == counted
        assert net.standing.counters.transitions == 2


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("resume", ["back", "forward"])
def test_on_the_way_it_goes_where_it_is_told(bundle, tmp_path, policy, resume):
    behind = stopped_on_the_way(bundle, tmp_path, policy)
    whole = bundle.transitions[2].entry.bytes_written
    with opened(bundle, tmp_path, policy, resume=resume) as net:
        result = net.recovery.wait(30)
        assert result.outcome is Outcome.COMMITTED
        assert net.mode == result.mode == ("C1" if resume == "back" else "C3")
        assert result.bytes_written == (behind if resume == "back" else whole - behind)
        assert stands_at(net, net.mode)
    with opened(bundle, tmp_path, policy) as net:
        assert net.recovery is None


@pytest.mark.parametrize("policy", POLICIES)
def test_on_the_way_it_answers_at_once_from_the_state_that_was_recorded(bundle, tmp_path, monkeypatch, policy):
    with opened(bundle, tmp_path, policy, SLOW) as net:
        operation = net.switch("C3")
        until(lambda: operation.progress > 0)
        answer = net.infer(bundle.evaluation.inputs[:9]).tobytes()
    state = told(bundle, load(tmp_path, Files()))
    assert not any(same_state(state, mode) for mode in bundle.states.values())
    live_at, first = DeployedPlan.live_at, []

    def watched(plan, mode, at):
        runner = live_at(plan, mode, at)
        first.append((mode, key(at), runner.run(bundle.evaluation.inputs[:9]).tobytes()))
        return runner

    monkeypatch.setattr(DeployedPlan, "live_at", watched)
    with opened(bundle, tmp_path, policy, SLOW):
        assert first == [("C1", key(state), answer)]


def test_without_being_told_it_goes_to_the_nearer_end(bundle):
    plan = DeployedPlan(bundle, DEVICE, "in-place")
    length = len(bundle.transitions[0].chunks)
    sizes = bundle.transitions[0].chunks.chunk_bytes(bundle.table)
    seen = set()
    for phase in ("walking", "paused", "verifying"):
        for position in range(length + 1):
            walk = WalkEntry(
                target="C2", at="C1", legs=(("C1", "C2"),), start=0, position=position, intended=position, phase=phase
            )
            standing = Standing(bundle=bundle.id, release=1, mode="C1", walk=walk)
            place = find(standing, bundle.table, bundle.states, plan.route, NAME)
            target, _ = onward(place, None, plan.route, bundle.table)
            assert target == ("C1" if sizes[:position].sum() <= sizes[position:].sum() else "C2")
            seen.add(target)
    assert seen == {"C1", "C2"}


def test_a_walk_that_was_going_back_goes_on_back_whatever_is_asked(bundle, tmp_path):
    with opened(bundle, tmp_path, device=SLOW) as net:
        operation = net.switch("C3")
        until(lambda: operation.progress > 0)
        with net._engine._turnstile.turn():
            operation.cancel()
            until(lambda: load(tmp_path, Files()).walk.phase == "rolling-back")
            closing = threading.Thread(target=net.close)
            closing.start()
            until(lambda: net._controller._closed)
        closing.join()
    if load(tmp_path, Files()).walk is not None:
        with opened(bundle, tmp_path, resume="forward") as net:
            assert net.recovery.target == "C1"
            assert net.recovery.wait(30).outcome is Outcome.COMMITTED
            assert stands_at(net, "C1")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_recovery_that_cannot_be_recorded_stands_at_a_mode_all_the_same(bundle, tmp_path, policy):
    """It begins on the way: there is something to take back although it has written nothing."""
    behind = tmp_path / "behind"
    stopped_on_the_way(bundle, behind, policy)
    shutil.copytree(behind, tmp_path / "whole")
    whole = Disk()
    with Net(bundle, DEVICE, policy, home=StateDirectory(tmp_path / "whole", whole)) as net:
        net.recovery.wait(30)
    ended = Counter()
    for number in range(1, whole.count + 1):
        path = tmp_path / str(number)
        shutil.copytree(behind, path)
        with suppress(StateError), Net(bundle, DEVICE, policy, home=StateDirectory(path, Disk(number, BROKEN))) as net:
            ended[net.recovery.wait(30).outcome] += 1
            assert stands_at(net, net.mode)
    assert ended[Outcome.ROLLED_BACK]


def test_recovery_may_be_turned_like_any_switch(bundle, tmp_path):
    stopped_on_the_way(bundle, tmp_path, "persistent")
    with opened(bundle, tmp_path, "persistent", SLOW, resume="forward") as net:
        pace(net, DEVICE.writes)
        turned = net.recovery.retarget("C2")
        assert turned.wait(30).outcome is Outcome.COMMITTED
        assert net.recovery.wait(30).outcome is Outcome.RETARGETED
        assert stands_at(net, "C2")
    assert restart(bundle, tmp_path, "persistent").mode == "C2"


@pytest.mark.parametrize("before", POLICIES)
@pytest.mark.parametrize("after", POLICIES)
def test_another_policy_goes_on_from_the_same_state(bundle, tmp_path, before, after):
    stopped_on_the_way(bundle, tmp_path, before)
    standing = load(tmp_path, Files())
    assert standing.persistent == (before == "persistent")
    with opened(bundle, tmp_path, after, resume="forward") as net:
        assert net.recovery.wait(30).outcome is Outcome.COMMITTED
        assert stands_at(net, "C3")
    assert load(tmp_path, Files()).persistent == (after == "persistent")
    assert bool(list(tmp_path.glob("weights-*"))) == (after == "persistent")


def test_a_weight_memory_that_the_journal_does_not_speak_of_is_not_believed(bundle, tmp_path):
    with opened(bundle, tmp_path, "persistent") as net:
        path = net.home.weights(bundle.id)
        old = path.read_bytes()
        net.switch("C2").wait(30)
    with opened(bundle, tmp_path, "in-place") as net:
        net.switch("C3").wait(30)
    path.write_bytes(old)
    with opened(bundle, tmp_path, "persistent") as net:
        assert net.mode == "C3"
        assert stands_at(net, "C3")


def test_a_row_that_something_else_wrote_is_refused_until_the_file_is_removed(bundle, tmp_path):
    with opened(bundle, tmp_path, "persistent") as net:
        net.switch("C2").wait(30)
        path = net.home.weights(bundle.id)
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    for _ in range(2):
        with pytest.raises(StateError, match=r"layer \w+: found row \d+ in no version that the journal allows"):
            opened(bundle, tmp_path, "persistent")
    assert path.read_bytes() == raw
    path.unlink()
    with opened(bundle, tmp_path, "persistent") as net:
        assert net.mode == "C2"
        assert stands_at(net, "C2")


def test_another_bundle_is_refused_with_advice_and_may_migrate(bundle, other, tmp_path):
    stopped_on_the_way(bundle, tmp_path, "persistent")
    counted = load(tmp_path, Files()).counters
    with pytest.raises(
        StateError, match=rf"found the state of bundle {bundle.id[:16]}, expected {other.id[:16]}.*migrate"
    ):
        opened(other, tmp_path, "persistent")
    assert load(tmp_path, Files()).bundle == bundle.id
    with opened(other, tmp_path, "persistent", migrate=True) as net:
        assert (net.mode, net.recovery) == ("C1", None)
        assert stands_at(net, "C1")
        assert net.standing.counters == counted
    assert [path.name for path in tmp_path.glob("weights-*")] == [f"weights-{other.id[:16]}.bin"]
    with pytest.raises(StateError, match="migrate"):
        opened(bundle, tmp_path, "persistent")


def wrong_canary(bundle):
    return dataclasses.replace(bundle, canary=Samples(bundle.canary.inputs, (bundle.canary.labels + 1) % 3))


def test_the_release_rises_with_a_right_canary_alone_and_a_failed_bundle_can_be_taken_back(bundle, other, tmp_path):
    with opened(bundle, tmp_path, "persistent") as net:
        assert net.standing.release == 1
        net.switch("C2").wait(30)
    before = load(tmp_path, Files())
    with pytest.raises(BundleError, match="mode C1: canary: found 0 right answers"):
        opened(wrong_canary(other), tmp_path, "persistent", migrate=True)
    assert load(tmp_path, Files()) == before
    with opened(bundle, tmp_path, "persistent") as net:
        assert stands_at(net, "C2")
    with opened(other, tmp_path, "persistent", migrate=True) as net:
        assert net.standing.release == 5
    with opened(bundle, tmp_path, "persistent", migrate=True) as net:
        assert net.standing.release == 5


def test_recovered_to_a_mode_whose_canary_is_wrong_it_stops_answering(bundle, tmp_path):
    stopped_on_the_way(bundle, tmp_path, "in-place")
    with opened(wrong_canary(bundle), tmp_path, resume="back") as net:
        assert net.recovery.wait(30).outcome is Outcome.FAILED
        with pytest.raises(Closed):
            net.infer(bundle.evaluation.inputs[:1])


WALK = WalkEntry(target="C2", at="C1", legs=(("C1", "C2"),), start=0, position=2, intended=3, phase="walking")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"target": "C9"}, "mode 'C9', expected one of C1, C2, C3"),
        ({"at": "C9"}, "mode 'C9'"),
        ({"legs": (("C1", "C9"),)}, "a leg C1 → C9"),
        ({"legs": (("C2", "C3"),)}, "a leg C2 → C3, expected a transition of the bundle from C1"),
        ({"legs": (("C1", "C3"),)}, "a way to C3, expected one to C2"),
        ({"legs": (("C1", "C1"),)}, "a leg C1 → C1"),
        ({"intended": 999}, "chunks 0, 2, 999"),
        ({"position": 4}, "chunks 0, 4, 3"),
        ({"start": 3}, "chunks 3, 2, 3"),
        ({"legs": (), "target": "C1"}, "chunks 0, 2, 3, expected them in this order and at most 0"),
    ],
)
def test_a_record_that_does_not_fit_the_bundle_is_refused(bundle, tmp_path, changes, found):
    walk = msgspec.structs.replace(WALK, **changes)
    Journal(tmp_path, Files()).write(Standing(bundle=bundle.id, release=1, mode="C1", walk=walk))
    raw = (tmp_path / NAME).read_bytes()
    with pytest.raises(StateError, match=f"{NAME}: found {found}"):
        opened(bundle, tmp_path)
    assert (tmp_path / NAME).read_bytes() == raw
    StateDirectory(tmp_path).close()  # and it is free again


def test_a_mode_that_the_bundle_does_not_have_is_refused(bundle, tmp_path):
    Journal(tmp_path, Files()).write(Standing(bundle=bundle.id, release=1, mode="C9"))
    with pytest.raises(StateError, match="mode 'C9'"):
        opened(bundle, tmp_path)


def test_persistent_memory_without_a_state_directory_is_refused(bundle):
    with pytest.raises(StateError, match="policy persistent: found no state directory, expected one"):
        Net(bundle, DEVICE, "persistent")


def test_a_device_that_cannot_remember_does_not_set_out(bundle, tmp_path):
    disk = Disk()
    net = Net(bundle, DEVICE, "in-place", home=StateDirectory(tmp_path, disk))
    with net:
        disk.number, disk.way, disk.times = disk.count + 1, FULL, 10**6
        result = net.switch("C2").wait(30)
        assert (result.outcome, result.mode, result.bytes_written) == (Outcome.ROLLED_BACK, "C1", 0)
        assert result.reason.count("No space left on device; make room or replace the disk") >= 1
        assert stands_at(net, "C1")
        disk.number = 0
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED


@pytest.mark.parametrize("policy", ["in-place", "persistent"])
@pytest.mark.parametrize("wrong", [False, True])
def test_a_disk_that_fills_up_during_a_walk_does_not_keep_it_from_its_end(bundle, tmp_path, policy, wrong):
    disk = Crowded()
    with Net(bundle, DEVICE, policy, home=StateDirectory(tmp_path, disk)) as net:
        disk.acts[disk.count + 5] = lambda: setattr(disk, "full", True)  # it sets out
        canary = net._plan.canary
        if wrong:
            net._plan.canary = lambda runner: "canary: found 0 right answers, expected 16"
        assert net.switch("C3").wait(30).outcome is (Outcome.ROLLED_BACK if wrong else Outcome.COMMITTED)
        assert disk.full
        net._plan.canary, disk.room = canary, 0
        result = net.switch("C2").wait(30)
        assert result.outcome is Outcome.ROLLED_BACK
        assert "No space left on device" in result.reason
        disk.full = False
        assert net.switch("C2").wait(30).outcome is Outcome.COMMITTED
    assert restart(bundle, tmp_path, policy).mode == "C2"


def test_a_directory_that_cannot_be_written_is_refused_when_opened(bundle, tmp_path):
    with pytest.raises(JournalError, match="cannot be written"):
        Net(bundle, DEVICE, "in-place", home=StateDirectory(tmp_path, Disk(4, FULL, 10**6)))
    StateDirectory(tmp_path).close()


def test_the_front_door_has_it(bundle, tmp_path):
    for mode in ("C1", "C2"):
        with geoshift.open(bundle.path, policy="persistent", state=tmp_path / "state") as net:
            assert net.mode == mode
            net.switch("C2").wait(30)
    with geoshift.open(bundle.path, state=tmp_path / "state"), pytest.raises(StateError, match="in use"):
        geoshift.open(bundle.path, state=tmp_path / "state")
