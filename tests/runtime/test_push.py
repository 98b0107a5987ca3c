"""A plan is pushed to a device that answers: it takes the old one's place, or nothing changes."""

import gc
import json
import threading
import weakref

import numpy as np
import pytest

from runtime.errors import Conflict, GapNeeded, IllegalEvent, NoRoom, OtherRelease, PushRefused, UnknownPush
from runtime.plan import bundle as bundles
from runtime.plan.fit import announced_bytes, peak_bytes
from runtime.pushing.push_phase import TABLE, PushEvent, PushPhase, after
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.devices import LOW, STANDS, Clock, hurry, modes, settled, told, walking
from tests.runtime.pushing import (
    WORLD,
    device_at,
    files_of,
    left,
    outputs,
    pushed,
    reopened,
    uploaded,
    written,
)
from tests.runtime.sysfs_trees import board, put

X = np.random.default_rng(5).standard_normal((3, 1, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("push") / "old", profile(**WORLD)))


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return bundles.read(written(tmp_path_factory.mktemp("push") / "new"))


@pytest.mark.parametrize("policy", ["in-place", "shadow", "persistent"])
def test_a_pushed_plan_takes_the_place_of_the_one_at_work_and_is_there_after_a_restart(old, new, tmp_path, policy):
    with device_at(old, tmp_path / "state", policy=policy) as device:
        device.switch("C2", who="me")
        settled(device)
        before = device.status().counters
        assert np.array_equal(device.infer(X), outputs(old, X, "C2", policy))
        view = pushed(device, new.path)
        assert (view.outcome, view.reason, view.mode, view.gap_was_s) == ("committed", "", "C2", None)
        status = device.status()
        assert (status.bundle, status.release, status.mode, status.phase) == (new.id, 2, "C2", "idle")
        assert status.counters.bytes_written == before.bytes_written
        assert np.array_equal(device.infer(X), outputs(new, X, "C2", policy))
        device.switch("C3", who="me")
        assert settled(device).mode == "C3"
        assert np.array_equal(device.infer(X), outputs(new, X, "C3", policy))
    assert left(tmp_path / "state") == [new.id]
    assert len([*(tmp_path / "state").glob("weights-*")]) == (policy == "persistent")
    with reopened(old.path, tmp_path / "state", policy=policy) as net:
        assert (net.bundle.id, net.mode, net.standing.release) == (new.id, "C3", 2)
        assert "pushed and committed here: release 2" in net.why


def test_a_plan_whose_rows_no_pause_has_room_for_is_refused_before_anything_is_staged(old, new, tmp_path):
    said = {"provenance": "datasheet", "source": "a test"}
    pauses = {"writes__quiesce_required": True, "writes__bytes_per_second": {"value": 1e5, **said},
              "writes__stall_budget_ms": 2.0}  # fmt: skip
    raw, _, _ = files_of(new.path)
    plan = json.loads(raw)
    plan["layers"][1]["shape"] = [6, 40, 3, 3]
    with device_at(old, tmp_path / "state", **pauses, writes__bytes_per_increment=4096) as device:
        with pytest.raises(PushRefused, match=r"stall_budget_ms: found 2, expected at least 16\.04 for a pause"):
            device.pushes.begin(json.dumps(plan).encode(), None, who="tester")
        assert device.pushes.under_way is None
        assert device.status().bundle == old.id
    assert left(tmp_path / "state") == []


def test_events_and_counts_tell_of_a_push(old, new, tmp_path):
    with device_at(old, tmp_path / "state") as device:
        pushed(device, new.path)
        events = told(device, "push")
        assert [one["phase"] for one in events] == [
            "receiving", "staging", "loading", "checking", "committing", "over",
        ]  # fmt: skip
        assert (events[-1]["outcome"], events[-1]["id"], events[-1]["release"]) == ("committed", new.id, 2)
        assert events[-1]["replaces"] == old.id
        assert device.status().counters.pushes == {"committed": 1, "rolled-back": 0, "failed": 0, "abandoned": 0}


def test_a_plan_whose_canary_is_wrong_changes_nothing_and_says_so(old, tmp_path):
    wrong = written(tmp_path / "wrong", wrong=True)
    with device_at(old, tmp_path / "state") as device:
        view = pushed(device, wrong)
        assert view.outcome == "rolled-back"
        assert "mode C1: canary: found 0 right answers, expected 16" in view.reason
        assert str(tmp_path) not in view.reason
        assert (device.status().bundle, device.status().release) == (old.id, 1)
        assert np.array_equal(device.infer(X), outputs(old, X))
        device.switch("C2", who="me")
        assert settled(device).mode == "C2"
    assert left(tmp_path / "state") == []
    with reopened(old.path, tmp_path / "state") as net:
        assert (net.bundle.id, net.standing.release, net.mode) == (old.id, 1, "C2")


def test_answers_go_on_during_a_push_and_each_is_of_one_plan(old, new, tmp_path):
    right = {1: outputs(old, X).tobytes(), 2: outputs(new, X).tobytes()}
    with device_at(old, tmp_path / "state") as device:
        ends, seen = threading.Event(), [[] for _ in range(3)]

        def ask(found):
            while not ends.is_set():
                answer = device.answer(X)
                found.append((answer.release, answer.outputs.tobytes() == right[answer.release]))

        threads = [threading.Thread(target=ask, args=(one,)) for one in seen]
        for thread in threads:
            thread.start()
        try:
            assert pushed(device, new.path).outcome == "committed"
            assert device.answer(X).release == 2
        finally:
            ends.set()
            for thread in threads:
                thread.join()
        for found in seen:
            assert all(well for _, well in found)
            releases = [release for release, _ in found]
            assert releases == sorted(releases)
            assert releases[0] == 1


def test_a_call_may_name_the_release_that_is_to_answer(old, new, tmp_path):
    with device_at(old, tmp_path / "state") as device:
        assert device.answer(X, release=1).release == 1
        pushed(device, new.path)
        with pytest.raises(OtherRelease, match="found release 2 at work, expected 1"):
            device.answer(X, release=1)


def test_the_old_plan_leaves_the_memory(old, new, tmp_path):
    bundle = bundles.read(old.path)
    known = weakref.ref(bundle)
    with device_at(bundle, tmp_path / "state") as device:
        del bundle
        device.switch("C2", who="me")
        settled(device)
        pushed(device, new.path)
        gc.collect()
        assert known() is None


def test_without_room_for_two_it_asks_for_a_gap_and_tells_its_length(old, new, tmp_path):
    room = peak_bytes(old, 1, False) + 400
    with device_at(old, tmp_path / "state", memory__weights_bytes=room) as device:
        view = uploaded(device, new.path)
        assert view.gap_s is not None
        assert view.gap_s > 0
        with pytest.raises(GapNeeded, match=r"would not answer for about \d+\.\d s"):
            device.pushes.commit(view.id, allow_gap=False)
        assert device.status().bundle == old.id
        device.pushes.commit(view.id, allow_gap=True)
        end = device.pushes.wait(view.id, 60)
        assert (end.outcome, end.mode) == ("committed", "C1")
        assert end.gap_was_s is not None
        assert np.array_equal(device.infer(X), outputs(new, X))
    assert left(tmp_path / "state") == [new.id]


def test_with_room_for_two_there_is_no_gap(old, new, tmp_path):
    room = 2 * peak_bytes(old, 1, False) + 4096
    with device_at(old, tmp_path / "state", memory__weights_bytes=room) as device:
        assert uploaded(device, new.path).gap_s is None


def test_what_a_manifest_announces_is_what_the_plan_takes(old):
    for copies in (1, 2):
        for snap in (False, True):
            found, right = announced_bytes(old.manifest, copies, snap), peak_bytes(old, copies, snap)
            assert 0 <= found - right < 512  # the head of a file


def test_in_a_gap_a_wrong_plan_has_the_old_one_loaded_again(old, tmp_path):
    wrong = written(tmp_path / "wrong", wrong=True)
    room = {"memory__weights_bytes": peak_bytes(old, 1, False) + 400}
    with device_at(old, tmp_path / "state", **room) as device:
        device.switch("C2", who="me")
        settled(device)
        view = pushed(device, wrong, allow_gap=True)
        assert (view.outcome, view.gap_was_s is not None) == ("rolled-back", True)
        assert "canary: found 0 right" in view.reason
        assert (device.status().bundle, device.status().mode) == (old.id, "C2")
        assert np.array_equal(device.infer(X), outputs(old, X, "C2", **room))
        assert device.answers
    assert left(tmp_path / "state") == []


def test_in_a_gap_nothing_can_be_loaded_any_more_it_says_so_and_a_restart_begins_with_the_old(old, tmp_path):
    wrong = written(tmp_path / "wrong", wrong=True)
    kept = bundles.read(old.path)
    with device_at(old, tmp_path / "state", memory__weights_bytes=peak_bytes(old, 1, False) + 400) as device:
        over = device._seat.leave

        def leave():
            absent = over()
            (old.path / "base.safetensors").rename(tmp_path / "away")
            return absent

        device._seat.leave = leave
        try:
            view = pushed(device, wrong, allow_gap=True)
        finally:
            (tmp_path / "away").rename(old.path / "base.safetensors")
        assert view.outcome == "failed"
        assert "canary: found 0 right" in view.reason
        assert "the old plan could not be loaded again" in view.reason
        assert device.status().phase == "failed"
    with reopened(old.path, tmp_path / "state") as net:
        assert net.bundle.id == kept.id


def test_a_push_is_refused_while_a_walk_is_on_its_way(old, new, tmp_path):
    with device_at(old, tmp_path / "state", **STANDS) as device:
        view = uploaded(device, new.path)
        operation = walking(device, device.switch("C2", who="me"))
        with pytest.raises(Conflict, match="push: found C1 → C2 under way for me"):
            device.pushes.commit(view.id, allow_gap=False)
        device.pushes.abandon(view.id)
        with pytest.raises(Conflict, match="push: found C1 → C2 under way for me"):
            device.pushes.begin(*files_of(new.path)[:2], who="tester")
        assert device.operation(operation.id).outcome is None


def held(device, at):
    """Have a push stop when it comes to a phase, until the event is set."""
    go, comes, goes = device.pushes._go, threading.Event(), threading.Event()

    def stopped(push, event):
        go(push, event)
        if push.phase is at:
            comes.set()
            assert goes.wait(60)

    device.pushes._go = stopped
    return comes, goes


@pytest.mark.parametrize("at", [PushPhase.LOADING, PushPhase.CHECKING, PushPhase.COMMITTING])
def test_a_switch_is_refused_while_a_push_switches_over(old, new, tmp_path, at):
    with device_at(old, tmp_path / "state") as device:
        view = uploaded(device, new.path)
        comes, goes = held(device, at)
        device.pushes.commit(view.id, allow_gap=False)
        try:
            assert comes.wait(60)
            assert device.status().push == new.id
            with pytest.raises(Conflict, match="found a push that switches over"):
                device.switch("C2", who="me")
            with pytest.raises(IllegalEvent, match="which does not allow it"):
                device.pushes.take(view.id, "graph.onnx", 0, b"x")
            with pytest.raises(IllegalEvent):
                device.pushes.abandon(view.id)
            hold = device.hold("C2", who="me", reason="", ttl_s=None)  # waits for the end
            assert device.status().operation is None
        finally:
            goes.set()
        assert device.pushes.wait(view.id, 60).outcome == "committed"
        status = settled(device)
        assert (status.bundle, status.mode, status.decision.source) == (new.id, "C2", hold.id)


def test_safety_goes_before_a_push(old, new, tmp_path):
    root = board(tmp_path)
    put(root, "class/power_supply/battery/capacity", 90)
    with device_at(old, tmp_path / "state", root=root, safety=[LOW]) as device:
        device.poll()
        view = uploaded(device, new.path)
        comes, goes = held(device, PushPhase.CHECKING)
        device.pushes.commit(view.id, allow_gap=False)
        try:
            assert comes.wait(60)
            put(root, "class/power_supply/battery/capacity", 10)
            device.poll()
            assert settled(device).mode == "C3"
        finally:
            goes.set()
        end = device.pushes.wait(view.id, 60)
        assert (end.outcome, device.status().bundle) == ("rolled-back", old.id)
        assert "a walk that a rule of safety began meanwhile" in end.reason
        assert pushed(device, new.path).mode == "C3"


def test_a_mode_that_the_new_plan_lacks_is_left_for_its_default(old, tmp_path):
    fewer = without_c3(tmp_path)
    with device_at(old, tmp_path / "state") as device:
        device.switch("C3", who="me")
        hold = settled(device) and device.hold("C3", who="other", reason="", ttl_s=None)
        view = pushed(device, fewer)
        assert (view.outcome, view.mode) == ("committed", "C1")
        status = settled(device)
        assert (status.mode, status.decision.rank, status.holds) == ("C1", "default", ())
        assert [one["state"] for one in told(device, "manual")] == ["asked", "ended"]
        assert [one["state"] for one in told(device, "hold") if one["id"] == hold.id] == ["placed", "cancelled"]
        assert [mode.name for mode in device.modes()] == ["C1", "C2"]


def test_a_plan_without_a_mode_that_the_profile_asks_for_is_refused(old, tmp_path):
    fewer = without_c3(tmp_path)
    with device_at(old, tmp_path / "state", triggers=[LOW]) as device:
        with pytest.raises(PushRefused, match=r"trigger low: found mode 'C3', expected one of the plan's modes C1, C2"):
            device.pushes.begin(*files_of(fewer)[:2], who="tester")
        assert left(tmp_path / "state") == []


def without_c3(tmp_path):
    import msgspec
    from safetensors.numpy import load, save

    from tests.runtime.bundles import content

    manifest, files = content(profile(**WORLD), 1)
    kept = [one for one in manifest.transitions if "C3" not in (one.from_, one.to)]
    for one in manifest.transitions:
        if one not in kept:
            del files[one.path]
    del files["graphs/C3.onnx"]
    states = load(files["paths/modes.safetensors"])
    files["paths/modes.safetensors"] = save({key: one for key, one in states.items() if not key.startswith("C3/")})
    manifest = msgspec.structs.replace(
        manifest, release=2, transitions=tuple(kept), modes=tuple(one for one in manifest.modes if one.name != "C3")
    )
    return bundles.write(tmp_path / "fewer", manifest, files, replace=False)


def test_the_same_bundle_again_has_nothing_to_do(old, new, tmp_path):
    with device_at(old, tmp_path / "state") as device:
        pushed(device, new.path)
        view = device.pushes.begin(*files_of(new.path)[:2], who="tester")
        assert (view.outcome, view.reason, view.missing) == ("committed", "this bundle is at work already", {})


def test_an_upload_that_broke_off_goes_on_where_it_was(old, new, tmp_path):
    manifest, signature, rest = files_of(new.path)
    with device_at(old, tmp_path / "state") as device:
        view = device.pushes.begin(manifest, signature, who="tester")
        raw = rest["graph.onnx"]
        device.pushes.take(view.id, "graph.onnx", 0, raw[:100])
        again = device.pushes.begin(manifest, signature, who="another")
        assert again.missing["graph.onnx"] == 100
        device.pushes.take(view.id, "graph.onnx", 0, raw[:100])  # an answer that got lost
        with pytest.raises(PushRefused, match="found a part at 200, expected the one at 100"):
            device.pushes.take(view.id, "graph.onnx", 200, raw[200:])
        assert "graph.onnx" not in device.pushes.take(view.id, "graph.onnx", 100, raw[100:]).missing
        with pytest.raises(PushRefused, match="send the rest first"):
            device.pushes.commit(view.id, allow_gap=False)
        assert uploaded(device, new.path).missing == {}
        device.pushes.commit(view.id, allow_gap=False)
        assert device.pushes.wait(view.id, 60).outcome == "committed"


def test_a_file_that_was_damaged_on_the_way_is_asked_for_again(old, new, tmp_path):
    manifest, signature, rest = files_of(new.path)
    raw = rest["graph.onnx"]
    with device_at(old, tmp_path / "state") as device:
        view = device.pushes.begin(manifest, signature, who="tester")
        with pytest.raises(PushRefused, match=r"graph.onnx: found sha256 .*send it again"):
            device.pushes.take(view.id, "graph.onnx", 0, raw[:-1] + bytes([raw[-1] ^ 1]))
        assert device.pushes.view(view.id).missing["graph.onnx"] == 0
        with pytest.raises(PushRefused, match=r"expected \d+; the manifest is another bundle's"):
            device.pushes.take(view.id, "graph.onnx", 0, raw + b"x")
        with pytest.raises(UnknownPush, match="expected one that the manifest lists"):
            device.pushes.take(view.id, "../../journal", 0, b"x")
        assert pushed(device, new.path).outcome == "committed"


def test_one_push_at_a_time_and_a_silent_upload_gives_way(old, new, tmp_path):
    clock, third = Clock(), written(tmp_path / "third", seed=2, release=3)
    with device_at(old, tmp_path / "state", clock=clock) as device:
        first = device.pushes.begin(*files_of(new.path)[:2], who="tester")
        with pytest.raises(Conflict, match="under way \\(receiving\\)"):
            device.pushes.begin(*files_of(third)[:2], who="other")
        clock.forward(121)
        second = device.pushes.begin(*files_of(third)[:2], who="other")
        with pytest.raises(UnknownPush):
            device.pushes.view(first.id)
        assert left(tmp_path / "state") == [f".{second.id}.partial"]
        assert device.pushes.abandon(second.id).outcome == "abandoned"
        assert left(tmp_path / "state") == []
        assert [one["outcome"] for one in told(device, "push")] == [None, "abandoned", None, "abandoned"]


def test_a_device_that_closes_gives_an_upload_up(old, new, tmp_path):
    device = device_at(old, tmp_path / "state")
    view = uploaded(device, new.path)
    device.close()
    assert device.pushes.view(view.id).outcome == "abandoned"
    assert left(tmp_path / "state") == []


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("at", [PushPhase.LOADING, PushPhase.CHECKING])
def test_a_device_that_closes_while_it_switches_over_stays_with_the_old_plan(old, new, tmp_path, at, gap):
    room = {"memory__weights_bytes": peak_bytes(old, 1, False) + 400} if gap else {}
    device = device_at(old, tmp_path / "state", **room)
    view = uploaded(device, new.path)
    comes, goes = held(device, at)
    device.pushes.commit(view.id, allow_gap=gap)
    assert comes.wait(60)
    closer = threading.Thread(target=device.close)
    closer.start()
    with device.pushes._changed:
        pass
    while not device.pushes._closing:
        threading.Event().wait(0.001)
    goes.set()
    closer.join(60)
    assert not closer.is_alive()
    assert device.pushes.view(view.id).outcome == "rolled-back"
    with reopened(old.path, tmp_path / "state") as net:
        assert net.bundle.id == old.id
    assert left(tmp_path / "state") == []


def test_without_a_state_directory_there_is_no_push(old, new):
    from tests.runtime.devices import made

    with made(old) as device, pytest.raises(Conflict, match="found no state directory"):
        device.pushes.begin(*files_of(new.path)[:2], who="tester")


def test_a_disk_without_room_is_told_before_the_upload(old, new, tmp_path):
    from tests.runtime.disks import Disk

    class Small(Disk):
        def free_bytes(self, path):
            return (4 << 20) + 1000

    with device_at(old, tmp_path / "state", Small()) as device:
        with pytest.raises(NoRoom, match=r"found 1000 bytes free for bundles, expected \d+; make room for \d+ more"):
            device.pushes.begin(*files_of(new.path)[:2], who="tester")
        assert left(tmp_path / "state") == []


def test_commands_and_pace_of_the_profile_stay(old, new, tmp_path):
    """A plan that is pushed brings modes and weights, and nothing that the owner of the device decides."""
    with device_at(old, tmp_path / "state", modes=modes(), **STANDS) as device:
        pushed(device, new.path)
        walking(device, device.switch("C2", who="me"))
        hurry(device)
        assert device.profile.writes.increments_per_second == STANDS["writes__increments_per_second"]


def test_an_event_that_the_table_does_not_list_raises():
    for phase in PushPhase:
        for event in PushEvent:
            if (phase, event) not in TABLE:
                with pytest.raises(IllegalEvent, match=event.value):
                    after(phase, event)
    assert not [phase for phase, _ in TABLE if phase is PushPhase.OVER]
