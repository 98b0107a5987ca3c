"""A device at work: who decides, what is told, what is refused; on a real network and a tree of sysfs."""

import subprocess
import sys
import threading

import msgspec
import pytest

from runtime.device.device import Device
from runtime.device.opening import device_id, open_device
from runtime.device.views import Event, OperationView, Status
from runtime.errors import (
    BadDuration,
    BundleError,
    Closed,
    Conflict,
    IllegalEvent,
    StateError,
    UnknownMode,
    UnknownOperation,
)
from runtime.plan import bundle as bundles
from runtime.private_files import PrivateFileError
from runtime.walking.net import Net
from runtime.walking.session import InputError
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.devices import HOT, LOW, STANDS, Clock, hurry, made, modes, polled, settled, slow, told, walking
from tests.runtime.sysfs_trees import board, tree


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "plan")


@pytest.fixture(scope="module")
def bundle(path):
    return bundles.read(path)


@pytest.fixture
def root(tmp_path):
    return board(tmp_path)


# By hand


def test_a_switch_by_hand_reaches_its_mode_and_stays(bundle):
    with made(bundle) as device:
        begun = device.switch("C3", who="ann")
        assert (begun.from_, begun.to, begun.who, begun.rank, begun.outcome) == ("C1", "C3", "ann", "manual", None)
        ended = device.wait(begun.id, 60)
        assert (ended.outcome, ended.progress, ended.reason, ended.phase) == ("committed", 1.0, "", "idle")
        assert ended.bytes_written > 0
        status = polled(device)
        assert (status.mode, status.target, status.operation, status.progress) == ("C3", None, None, 1.0)
        assert (status.decision.rank, status.decision.source) == ("manual", "ann")


def test_a_switch_to_the_present_mode_is_done_at_once_and_decides(bundle):
    with made(bundle) as device:
        done = device.switch("C1", who="ann")
        assert (done.outcome, done.bytes_written) == ("committed", 0)
        assert device.status().decision.rank == "manual"
        assert device.switch("C2", who="ann").outcome is None


def test_control_given_back_leads_to_the_default_mode(bundle):
    with made(bundle, default_mode="C2") as device:
        assert polled(device).mode == "C2"
        device.wait(device.switch("C3", who="ann").id, 60)
        assert settled(device).mode == "C3"
        assert device.auto(who="ann").to == "C2"
        assert (settled(device).mode, device.status().decision.rank) == ("C2", "default")
        assert device.auto(who="ann") is None


def test_a_lease_ends_by_the_clock(bundle):
    clock = Clock()
    with made(bundle, clock=clock) as device:
        device.switch("C2", who="ann", lease_s=60)
        assert settled(device).decision.expires_in_s == 60
        clock.forward(59.9)
        assert polled(device).mode == "C2"
        clock.forward(0.1)
        assert polled(device).mode == "C1"
        assert [one["state"] for one in told(device, "manual")] == ["asked", "ended"]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), -float("inf")])
def test_a_duration_that_is_none_is_refused_and_changes_nothing(bundle, seconds):
    with made(bundle) as device:
        with pytest.raises(BadDuration, match=r"lease_s: found .*expected a number of seconds above 0"):
            device.switch("C2", who="ann", lease_s=seconds)
        with pytest.raises(BadDuration, match="ttl_s: found"):
            device.hold("C2", who="ann", reason="", ttl_s=seconds)
        assert (device.operations(), device.holds(), device.status().mode) == ((), (), "C1")


def test_unknown_modes_are_refused_and_change_nothing(bundle):
    with made(bundle) as device:
        hold = device.hold("C1", who="bob", reason="", ttl_s=None)
        for ask in (
            lambda: device.switch("C9", who="ann"),
            lambda: device.hold("C9", who="ann", reason="", ttl_s=None),
        ):
            with pytest.raises(UnknownMode, match="C9"):
                ask()
        assert device.holds() == (hold,)
        assert device.operations() == ()


def test_a_second_switch_by_hand_is_refused_until_the_first_is_over(bundle):
    with made(bundle, **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann"))
        with pytest.raises(Conflict, match=r"switch to C3: found C1 → C2 under way for ann, rank manual"):
            device.switch("C3", who="bob")
        status = device.status()
        assert (status.operation, status.target, status.phase, status.decision.source) == (
            first.id, "C2", "walking", "ann",
        )  # fmt: skip
        assert len(device.operations()) == 1


def test_a_cancelled_switch_leaves_who_decided_before(bundle):
    with made(bundle, **STANDS) as device:
        hurry(device)
        device.wait(device.switch("C2", who="ann").id, 60)
        slow(device)
        second = walking(device, device.switch("C3", who="bob"))
        hurry(device)
        device.cancel(second.id)
        assert device.wait(second.id, 60).outcome == "cancelled"
        status = polled(device)
        assert (status.mode, status.decision.source, status.operation) == ("C2", "ann", None)


def test_pause_and_resume(bundle):
    with made(bundle, **STANDS) as device:
        operation = walking(device, device.switch("C3", who="ann"))
        assert device.pause(operation.id).phase == "paused"
        with pytest.raises(IllegalEvent, match="paused"):
            device.pause(operation.id)
        assert device.resume(operation.id).phase == "walking"
        assert device.pause(operation.id).phase == "paused"
        device.cancel(operation.id)
        assert device.wait(operation.id, 60).outcome == "cancelled"
        for event in (device.pause, device.resume, device.cancel):
            with pytest.raises(IllegalEvent, match="is over"):
                event(operation.id)


def test_a_walk_is_turned_to_another_mode(bundle):
    with made(bundle, **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann", lease_s=500))
        hurry(device)
        second = device.retarget(first.id, "C3", who="bob")
        assert (second.to, second.who) == ("C3", "bob")
        assert device.wait(first.id, 60).outcome == "retargeted"
        assert device.wait(second.id, 60).outcome == "committed"
        status = settled(device)
        assert (status.mode, status.decision.source, status.decision.expires_in_s) == ("C3", "bob", 500)
        with pytest.raises(IllegalEvent, match="is over"):
            device.retarget(first.id, "C1")


def test_a_walk_whose_lease_ended_on_the_way_is_turned_for_as_long_again(bundle):
    clock = Clock()
    with made(bundle, clock=clock, **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann", lease_s=5))
        clock.forward(60)
        device.poll()
        assert device.status().decision.rank == "default"
        hurry(device)
        device.wait(device.retarget(first.id, "C3").id, 60)
        status = settled(device)
        assert (status.mode, status.decision.rank, status.decision.expires_in_s) == ("C3", "manual", 5)


def test_a_walk_is_turned_back_to_where_it_began(bundle):
    with made(bundle, **STANDS) as device:
        first = walking(device, device.switch("C3", who="ann"))
        back = device.retarget(first.id, "C1")
        assert device.wait(back.id, 60).outcome == "committed"
        assert settled(device).mode == "C1"


def test_turning_to_an_unknown_mode_changes_nothing(bundle):
    with made(bundle, **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann"))
        with pytest.raises(UnknownMode):
            device.retarget(first.id, "C9")
        assert [one.id for one in device.operations()] == [first.id]
        assert device.status().target == "C2"


# What it tells


def test_every_record_survives_json(bundle, root):
    with made(bundle, root, triggers=[LOW], safety=[HOT]) as device:
        device.hold("C2", who="backup", reason="why", ttl_s=5)
        polled(device)
        device.infer(bundle.evaluation.inputs[:1])
        status = device.status()
        assert msgspec.json.decode(msgspec.json.encode(status), type=Status) == status
        for operation in device.operations():
            raw = msgspec.json.encode(operation)
            assert b'"from":"C1"' in raw
            assert msgspec.json.decode(raw, type=OperationView) == operation
        for event in device.events().since(0):
            assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


def test_modes_say_what_they_cost_and_how_that_is_known(bundle):
    energy = {
        "idle_w": {"value": 2, "provenance": "assumed", "source": "a test"},
        "joules_per_mac": {"value": 1e-6, "provenance": "datasheet", "source": "a test"},
    }
    with made(bundle, energy=energy) as device:
        for _ in range(3):
            device.infer(bundle.evaluation.inputs[:1])
        device.infer(bundle.evaluation.inputs[:5])
        one, two, _ = device.modes()
        assert (one.name, one.macs, one.accuracy) == ("C1", 100, bundle.manifest.modes[0].accuracy)
        assert one.provenance["accuracy"].basis == "plan"
        assert one.provenance["latency_ms"].basis == "measured"
        assert (two.latency_ms, two.power_w) == (None, 2.0)
        assert two.energy_j_per_inference == pytest.approx(1e-4)
        assert two.provenance["energy_j_per_inference"].basis == "estimated"
        assert set(two.provenance) == {"accuracy", "macs", "weight_bytes", "power_w", "energy_j_per_inference"}
        assert device.status().counters.answers == 4


def test_a_wrong_input_counts_as_nothing(bundle):
    with made(bundle) as device:
        with pytest.raises(InputError):
            device.infer(bundle.evaluation.inputs[:1, :, :1])
        assert device.status().counters.answers == 0


def test_operations_that_nobody_knows(bundle):
    with made(bundle) as device:
        for ask in (device.operation, device.cancel, device.pause, device.resume, lambda id: device.wait(id, 0)):
            with pytest.raises(UnknownOperation, match="operation 'nothing'"):
                ask("nothing")


def test_the_last_hundred_operations_are_kept(bundle):
    with made(bundle) as device:
        first = device.switch("C1", who="ann")
        for _ in range(100):
            last = device.switch("C1", who="ann")
        kept = device.operations()
        assert len(kept) == 100
        assert kept[-1] == last
        with pytest.raises(UnknownOperation):
            device.operation(first.id)
        assert len({one.id for one in kept}) == 100


def test_waiting_for_an_operation_that_goes_on_gives_it_as_it_stands(bundle):
    with made(bundle, **STANDS) as device:
        assert device.wait(device.switch("C2", who="ann").id, 0.0).outcome is None


def test_events_of_a_switch_are_told_in_order(bundle):
    with made(bundle) as device:
        operation = device.switch("C3", who="ann")
        device.wait(operation.id, 60)
        events = device.events().since(0)
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        ours = [event.data for event in events if event.kind == "operation"]
        assert ours[0]["outcome"] is None
        assert ours[-1]["outcome"] == "committed"
        assert all(one["id"] == operation.id for one in ours)


# Its life


def test_a_closed_device_ends_what_is_under_way_and_refuses_the_rest(bundle):
    device = made(bundle, **STANDS)
    operation = walking(device, device.switch("C2", who="ann"))
    waiter = threading.Thread(target=lambda: device.events().wait(10_000, 600))
    waiter.start()
    device.close()
    waiter.join(60)
    assert not waiter.is_alive()
    assert device.operation(operation.id).outcome == "failed"
    assert device.events().since(0)[-1].kind == "closed"
    for ask in (
        lambda: device.switch("C2", who="ann"),
        lambda: device.auto(who="ann"),
        lambda: device.hold("C2", who="ann", reason="", ttl_s=None),
        lambda: device.infer(bundle.evaluation.inputs[:1]),
    ):
        with pytest.raises(Closed):
            ask()
    device.close()
    assert not any(thread.is_alive() for thread in device._threads)


def test_its_own_thread_reads_what_it_watches(path, tmp_path):
    state = tmp_path / "state"
    state.write_text("day")
    quiet = {"name": "quiet", "mode": "C2", "source": "file", "path": str(state), "equals": "night"}
    place = tmp_path / "board.yaml"
    place.write_bytes(msgspec.json.encode(profile(triggers=[quiet], poll_s=0.1)))  # JSON is YAML
    with open_device(path, place) as device:
        state.write_text("night")
        seen = 0
        while device.status().mode != "C2":
            found = device.events().wait(seen, 60)
            assert found, "nothing happened for a minute"
            seen = found[-1].id
        assert device.status().triggers[0].active


def test_its_own_thread_ends_leases(path):
    with open_device(path) as device:
        device.wait(device.switch("C2", who="ann", lease_s=0.2).id, 60)
        seen = 0
        while device.status().decision.rank != "default" or device.status().mode != "C1":
            found = device.events().wait(seen, 60)
            assert found, "nothing happened for a minute"
            seen = found[-1].id


def test_a_device_keeps_its_name_in_its_state_directory(path, tmp_path):
    with open_device(path, state=tmp_path / "state", watches=False) as device:
        name = device.id
    with open_device(path, state=tmp_path / "state", watches=False) as device:
        assert device.id == name
    with open_device(path, watches=False) as device:
        assert device.id != name


@pytest.mark.parametrize("content", [b"", b"../../etc/passwd\n", b"0123456789abcdeg\n", b"\xff" * 16])
def test_a_damaged_name_is_an_error_that_names_the_file(tmp_path, content):
    place = tmp_path / "device-id"
    place.write_bytes(content)
    place.chmod(0o600)
    with pytest.raises(StateError, match=r"device-id: found .*remove the file"):
        device_id(tmp_path)
    assert place.read_bytes() == content


def test_a_name_that_others_may_write_is_refused(tmp_path):
    (tmp_path / "device-id").write_text("0123456789abcdef\n")
    (tmp_path / "device-id").chmod(0o666)
    with pytest.raises(PrivateFileError):
        device_id(tmp_path)


@pytest.mark.parametrize("section", ["triggers", "safety"])
def test_a_profile_that_asks_for_modes_the_plan_lacks_is_refused(bundle, section):
    listed = {**modes(), "C9": {"from": "C1", "macs": 0.1}}
    tour = [["C1", "C2"], ["C2", "C3"], ["C3", "C1"], ["C1", "C9"]]
    with pytest.raises(BundleError, match="low: found mode 'C9', expected one of the plan's modes C1, C2, C3"):
        made(bundle, modes=listed, transitions=tour, **{section: [{**LOW, "mode": "C9"}]})
    with pytest.raises(BundleError, match="default_mode: found mode 'C9'"):
        made(bundle, modes=listed, transitions=tour, default_mode="C9")


class Broken:
    """A meter with a defect that nobody foresaw."""

    source = "a broken meter"

    def __init__(self):
        self.calls = 0

    def sample(self, now_s):
        self.calls += 1
        raise ZeroDivisionError("a defect")


def test_a_defect_of_a_meter_does_not_stop_the_watch(bundle):
    meter = Broken()
    with Device(Net(bundle, profile(poll_s=0.1)), id="test", meter=meter) as device:
        seen = 0
        while meter.calls < 3:
            found = device.events().wait(seen, 60)
            assert found, "nothing happened for a minute"
            seen = found[-1].id
        assert told(device, "fault")[0]["detail"] == "ZeroDivisionError: a defect"
        device.wait(device.switch("C2", who="ann").id, 60)
        assert settled(device).mode == "C2"


def test_power_is_told_with_its_meter(bundle, tmp_path):
    with made(bundle, tree("jetson", tmp_path)) as device:
        power = polled(device).power
        assert power.power_w == pytest.approx(4.944 * 1.032)
        assert power.provenance["power_w"].basis == "measured"
        assert "VDD_IN" in power.provenance["power_w"].source


def test_importing_a_device_loads_nothing_heavy():
    heavy = ("onnxruntime", "torch", "psutil", "httpx", "zeroconf", "litestar", "uvicorn", "prometheus_client")
    code = f"import runtime.device.opening, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
