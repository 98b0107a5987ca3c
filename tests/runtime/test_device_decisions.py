"""Holds, triggers and safety on a real network and a tree of sysfs: who decides, and what becomes of a walk."""

import pytest

from runtime.errors import Conflict, UnknownHold
from runtime.plan import bundle as bundles
from tests.runtime.bundles import write_bundle
from tests.runtime.devices import AWAY, HOT, LOW, STANDS, Clock, hurry, made, polled, settled, told, walking
from tests.runtime.sysfs_trees import board, put


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("bundle") / "plan"))


@pytest.fixture
def root(tmp_path):
    return board(tmp_path)


# Holds


def test_the_hold_of_lowest_power_decides_and_a_switch_by_hand_cancels_them(bundle):
    with made(bundle) as device:
        one = device.hold("C2", who="backup", reason="network busy", ttl_s=None)
        assert settled(device).mode == "C2"
        other = device.hold("C3", who="flight", reason="", ttl_s=None)
        assert settled(device).mode == "C3"
        assert device.status().decision.source == other.id
        device.release(other.id)
        assert settled(device).mode == "C2"
        device.wait(device.switch("C1", who="ann").id, 60)
        assert settled(device).mode == "C1"
        assert device.holds() == ()
        with pytest.raises(UnknownHold):
            device.release(one.id)
        assert [event["state"] for event in told(device, "hold")] == ["placed", "placed", "released", "cancelled"]


def test_a_hold_ends_by_the_clock(bundle):
    clock = Clock()
    with made(bundle, clock=clock) as device:
        hold = device.hold("C2", who="backup", reason="", ttl_s=10)
        assert settled(device).mode == "C2"
        clock.forward(4)
        assert device.holds()[0].expires_in_s == 6
        clock.forward(6)
        assert device.holds() == ()
        assert polled(device).mode == "C1"
        assert told(device, "hold")[-1] | {"id": hold.id, "state": "expired"} == told(device, "hold")[-1]


def test_a_hold_placed_while_somebody_decides_by_hand_waits(bundle):
    with made(bundle) as device:
        device.wait(device.switch("C2", who="ann").id, 60)
        device.hold("C3", who="backup", reason="", ttl_s=None)
        assert settled(device).mode == "C2"
        device.auto(who="ann")
        assert settled(device).mode == "C3"


# Triggers and safety


def test_triggers_follow_the_files_of_the_kernel(bundle, root):
    with made(bundle, root, triggers=[LOW, AWAY]) as device:
        assert polled(device).mode == "C1"
        put(root, "class/power_supply/battery/status", "Discharging")
        assert polled(device).mode == "C2"
        put(root, "class/power_supply/battery/capacity", 29)
        assert polled(device).mode == "C3"
        put(root, "class/power_supply/battery/capacity", 35)
        assert polled(device).mode == "C3"
        put(root, "class/power_supply/battery/capacity", 41)
        status = polled(device)
        assert (status.mode, status.decision.source) == ("C2", "away")
        assert [(one.name, one.active, one.reading) for one in status.triggers] == [
            ("low", False, 41.0), ("away", True, "unplugged"),
        ]  # fmt: skip
        assert [(one["name"], one["active"]) for one in told(device, "trigger")] == [
            ("away", True), ("low", True), ("low", False),
        ]  # fmt: skip


def test_a_trigger_waits_for_its_dwell_time(bundle, root):
    clock = Clock()
    with made(bundle, root, clock, triggers=[{**AWAY, "dwell_s": 10}]) as device:
        put(root, "class/power_supply/battery/status", "Discharging")
        status = polled(device)
        assert (status.mode, status.triggers[0].pending) == ("C1", True)
        clock.forward(10)
        assert polled(device).mode == "C2"


def test_a_sensor_that_is_lost_changes_nothing_and_is_told_once(bundle, root):
    with made(bundle, root, triggers=[LOW]) as device:
        put(root, "class/power_supply/battery/capacity", 10)
        assert polled(device).mode == "C3"
        (root / "sys/class/power_supply/battery/capacity").unlink()
        assert polled(device).mode == "C3"
        status = polled(device)
        assert status.triggers[0].reading is None
        assert "no level" in status.triggers[0].error
        assert len(told(device, "fault")) == 1


def test_safety_sets_a_ceiling_that_nobody_passes(bundle, root):
    with made(bundle, root, safety=[{**HOT, "mode": "C2"}]) as device:
        device.wait(device.switch("C1", who="ann").id, 60)
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        status = polled(device)
        assert (status.mode, status.decision.rank, status.decision.source) == ("C2", "safety", "hot")
        with pytest.raises(Conflict, match=r"switch to C1: found the safety rule hot active \(temperature"):
            device.switch("C1", who="ann")
        device.wait(device.switch("C3", who="ann").id, 60)
        assert (settled(device).mode, device.status().decision.rank) == ("C3", "manual")
        put(root, "class/thermal/thermal_zone0/temp", 60000)
        assert polled(device).mode == "C3"


def test_what_was_asked_by_hand_counts_again_once_it_is_safe(bundle, root):
    with made(bundle, root, safety=[HOT]) as device:
        device.wait(device.switch("C2", who="ann").id, 60)
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        assert polled(device).mode == "C3"
        put(root, "class/thermal/thermal_zone0/temp", 60000)
        assert polled(device).mode == "C2"
        assert device.status().decision.source == "ann"


def test_safety_turns_a_walk_by_hand_and_cannot_be_stopped(bundle, root):
    with made(bundle, root, safety=[HOT], **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann"))
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        device.poll()
        status = device.status()
        assert (status.target, status.decision.rank) == ("C3", "safety")
        for stop in (device.cancel, device.pause, lambda id: device.retarget(id, "C1")):
            with pytest.raises(Conflict, match="for the safety rule hot"):
                stop(status.operation)
        assert device.wait(first.id, 60).outcome == "retargeted"


def test_a_walk_that_safety_turned_ends_at_its_mode(bundle, root):
    with made(bundle, root, safety=[HOT], **STANDS) as device:
        walking(device, device.switch("C2", who="ann"))
        hurry(device)
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        assert polled(device).mode == "C3"
        assert [one.outcome for one in device.operations()] == ["retargeted", "committed"]


def test_nobody_cancels_his_way_back_above_the_ceiling(bundle, root):
    with made(bundle, root, triggers=[LOW], safety=[{**HOT, "mode": "C2"}], **STANDS) as device:
        put(root, "class/power_supply/battery/capacity", 10)
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        device.poll()
        walk = walking(device, device.operation(device.status().operation))
        assert device.status().decision.rank == "trigger"  # it leads under the ceiling, to C3
        with pytest.raises(Conflict, match=r"the safety rule hot active .* forbids C1, where it would go back to"):
            device.cancel(walk.id)
        hurry(device)
        device.wait(device.retarget(walk.id, "C2").id, 60)
        assert settled(device).mode == "C2"


def test_a_walk_that_was_cancelled_is_begun_again_when_safety_needs_it(bundle, root):
    with made(bundle, root, triggers=[LOW], safety=[{**HOT, "mode": "C2"}], **STANDS) as device:
        put(root, "class/power_supply/battery/capacity", 10)
        device.poll()
        walk = walking(device, device.operation(device.status().operation))
        hurry(device)
        device.cancel(walk.id)
        assert settled(device).mode == "C1"
        assert polled(device).mode == "C1"  # as somebody wants it
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        assert polled(device).mode == "C3"


def test_safety_lets_a_walk_pause_no_longer(bundle, root):
    with made(bundle, root, safety=[HOT], **STANDS) as device:
        device.pause(walking(device, device.switch("C2", who="ann")).id)
        hurry(device)
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        assert polled(device).mode == "C3"


def test_a_switch_by_hand_turns_the_walk_of_a_trigger(bundle, root):
    with made(bundle, root, triggers=[LOW], **STANDS) as device:
        put(root, "class/power_supply/battery/capacity", 10)
        device.poll()
        first = walking(device, device.operation(device.status().operation))
        hurry(device)
        second = device.switch("C2", who="ann")
        assert device.wait(first.id, 60).outcome == "retargeted"
        assert device.wait(second.id, 60).outcome == "committed"
        assert settled(device).mode == "C2"


def test_a_switch_by_hand_to_where_a_trigger_leads_takes_its_walk_over(bundle, root):
    with made(bundle, root, triggers=[LOW], **STANDS) as device:
        put(root, "class/power_supply/battery/capacity", 10)
        device.poll()
        first = device.status().operation
        same = device.switch("C3", who="ann")
        assert (same.id, same.rank, same.who) == (first, "manual", "ann")
        put(root, "class/power_supply/battery/capacity", 90)
        device.poll()
        status = device.status()
        assert (status.operation, status.target, status.decision.rank) == (first, "C3", "manual")


def test_a_lower_rank_waits_for_the_end_of_a_walk(bundle, root):
    with made(bundle, root, triggers=[LOW], **STANDS) as device:
        operation = walking(device, device.switch("C2", who="ann", lease_s=1e6))
        put(root, "class/power_supply/battery/capacity", 10)
        device.poll()
        device.auto(who="ann")
        status = device.status()
        assert (status.operation, status.target, status.decision.rank) == (operation.id, "C2", "trigger")
        hurry(device)
        device.cancel(operation.id)
        assert device.wait(operation.id, 60).outcome == "cancelled"
        assert settled(device).mode == "C3"


@pytest.mark.parametrize("end", ["lease", "auto"])
def test_a_paused_walk_does_not_outlive_what_began_it(bundle, root, end):
    clock = Clock()
    with made(bundle, root, clock, triggers=[LOW], **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann", lease_s=5))
        device.pause(first.id)
        put(root, "class/power_supply/battery/capacity", 10)
        device.poll()
        assert (device.status().phase, device.status().operation) == ("paused", first.id)
        hurry(device)
        if end == "auto":
            device.auto(who="ann")
        clock.forward(5)
        assert polled(device).mode == "C3"
        assert [one.outcome for one in device.operations()] == ["retargeted", "committed"]


def test_a_paused_walk_goes_home_once_its_lease_has_ended_and_then_obeys_a_hold(bundle):
    clock = Clock()
    with made(bundle, clock=clock, **STANDS) as device:
        device.pause(walking(device, device.switch("C3", who="ann", lease_s=1)).id)
        hurry(device)
        clock.forward(4)
        assert polled(device).mode == "C1"
        device.hold("C2", who="backup", reason="battery", ttl_s=None)
        assert settled(device).mode == "C2"


def test_a_walk_that_is_paused_after_its_lease_ended_goes_where_the_others_say(bundle):
    clock = Clock()
    with made(bundle, clock=clock, **STANDS) as device:
        first = walking(device, device.switch("C3", who="ann", lease_s=1))
        clock.forward(4)
        device.poll()
        assert device.status().target == "C3"
        hurry(device)
        device.pause(first.id)
        assert settled(device).mode == "C1"


def test_a_paused_walk_to_where_a_trigger_leads_goes_on_for_the_trigger(bundle, root):
    clock = Clock()
    with made(bundle, root, clock, triggers=[LOW], **STANDS) as device:
        first = walking(device, device.switch("C3", who="ann", lease_s=5))
        device.pause(first.id)
        put(root, "class/power_supply/battery/capacity", 10)
        device.poll()
        assert device.status().phase == "paused"
        clock.forward(5)
        device.poll()
        walk = device.operation(first.id)
        assert (walk.phase, walk.rank, walk.who) == ("walking", "trigger", "low")
        # Cancelled, it is a trigger's walk that was cancelled: it does not begin again by itself.
        hurry(device)
        device.cancel(first.id)
        assert device.wait(first.id, 60).outcome == "cancelled"
        assert polled(device).mode == "C1"


def test_a_pause_that_nobody_may_end_any_more_ends_with_the_heat(bundle, root):
    with made(bundle, root, safety=[{**HOT, "mode": "C2"}], default_mode="C1", **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann"))
        device.pause(first.id)
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        device.poll()
        assert device.status().phase == "paused"
        device.auto(who="ann")
        walk = device.operation(first.id)
        assert (walk.phase, walk.rank) == ("walking", "safety")


def test_the_walk_of_a_trigger_that_was_cancelled_begins_again_only_when_the_decision_changes(bundle, root):
    clock = Clock()
    with made(bundle, root, clock, triggers=[LOW], **STANDS) as device:
        put(root, "class/power_supply/battery/capacity", 10)
        device.poll()
        operation = walking(device, device.operation(device.status().operation))
        hurry(device)
        device.cancel(operation.id)
        assert device.wait(operation.id, 60).outcome == "cancelled"
        clock.forward(1e6)
        assert polled(device).mode == "C1"
        put(root, "class/power_supply/battery/capacity", 90)
        polled(device)
        put(root, "class/power_supply/battery/capacity", 10)
        assert polled(device).mode == "C3"
