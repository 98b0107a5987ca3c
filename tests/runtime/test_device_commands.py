"""Commands of the operating system around the walks of a device: run, undone, not run at all."""

import os
from contextlib import suppress

import pytest

from runtime.deciding import steering
from runtime.plan import bundle as bundles
from tests.runtime.bundles import write_bundle
from tests.runtime.devices import HOT, STANDS, Clock, hurry, made, modes, polled, settled, told, walking
from tests.runtime.sysfs_trees import board, program, put
from tests.runtime.test_os_power import LOG
from tests.runtime.threads import until


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundles.read(write_bundle(tmp_path_factory.mktemp("bundle") / "plan"))


@pytest.fixture
def log(tmp_path):
    tell = program(tmp_path, "tell", LOG)
    commands = {name: {"argv": [tell, name], "undo": [tell, f"un{name}"]} for name in ("one", "two", "bad")}

    def lines():
        place = tmp_path / "log"
        return place.read_text().split() if place.exists() else []

    return commands, lines


def test_commands_run_before_and_after_a_walk(bundle, log):
    commands, lines = log
    with made(bundle, commands=commands, modes=modes(C2={"before": ["one"], "after": ["two"]})) as device:
        assert device.wait(device.switch("C2", who="ann").id, 60).outcome == "committed"
        assert lines() == ["one", "two"]
        assert [(one["stage"], one["command"], one["ok"]) for one in told(device, "power")] == [
            ("before", "one", True), ("after", "two", True),
        ]  # fmt: skip
        device.wait(device.switch("C2", who="bob").id, 60)
        assert lines() == ["one", "two"]  # nothing to walk, nothing to prepare


def test_a_cancelled_walk_undoes_what_ran_before_it(bundle, log):
    commands, lines = log
    with made(bundle, commands=commands, modes=modes(C3={"before": ["one", "two"]}), **STANDS) as device:
        operation = walking(device, device.switch("C3", who="ann"))
        hurry(device)
        device.cancel(operation.id)
        assert device.wait(operation.id, 60).outcome == "cancelled"
        assert lines() == ["one", "two", "untwo", "unone"]


def test_a_turned_walk_undoes_what_ran_before_it_and_runs_that_of_the_other_mode(bundle, log):
    commands, lines = log
    listed = modes(C2={"before": ["one"]}, C3={"before": ["two"]})
    with made(bundle, commands=commands, modes=listed, **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann"))
        hurry(device)
        second = device.retarget(first.id, "C3")
        assert device.wait(second.id, 60).outcome == "committed"
        assert lines() == ["one", "unone", "two"]


def test_a_walk_whose_preparation_fails_does_not_begin(bundle, log):
    commands, lines = log
    with made(bundle, commands=commands, modes=modes(C2={"before": ["one", "bad"]})) as device:
        ended = device.wait(device.switch("C2", who="ann").id, 60)
        assert (ended.outcome, ended.bytes_written) == ("rolled-back", 0)
        assert "command bad: found exit status 1" in ended.reason
        assert lines() == ["one", "bad", "unone"]
        status = settled(device)
        assert (status.mode, status.decision.rank) == ("C1", "default")


def test_a_turned_walk_whose_preparation_fails_goes_back(bundle, log):
    commands, lines = log
    # After each turn one increment is written at once, and the next one in an hour.
    with made(bundle, commands=commands, modes=modes(C3={"before": ["one", "bad"]}), **STANDS) as device:
        first = walking(device, device.switch("C2", who="ann"))
        second = device.retarget(first.id, "C3")

        def back():
            now = device.operation(second.id)
            return now.phase == "rolling-back" or now.outcome == "rolled-back"

        until(back)
        assert lines() == ["one", "bad", "unone"]


def test_a_switch_that_is_cancelled_while_it_is_prepared_never_walks(bundle, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    slow = {"slow": {"argv": [program(tmp_path, "slow", f"open({str(pipe)!r}).read()")], "timeout_s": 60}}
    with made(bundle, commands=slow, modes=modes(C2={"before": ["slow"]})) as device:
        operation = device.switch("C2", who="ann")
        writer = writer_of(pipe)
        device.cancel(operation.id)
        os.close(writer)  # now the program ends
        ended = device.wait(operation.id, 60)
        assert (ended.outcome, ended.bytes_written) == ("cancelled", 0)
        status = settled(device)
        assert (status.mode, status.decision.rank) == ("C1", "default")


def test_safety_does_not_wait_for_the_preparation_of_another_walk(bundle, tmp_path):
    pipe, root = tmp_path / "pipe", board(tmp_path)
    os.mkfifo(pipe)
    slow = {"slow": {"argv": [program(tmp_path, "slow", f"open({str(pipe)!r}).read()")], "timeout_s": 60}}
    with made(bundle, root, commands=slow, modes=modes(C2={"before": ["slow"]}), safety=[HOT]) as device:
        operation = device.switch("C2", who="ann")
        writer = writer_of(pipe)
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        device.poll()
        until(lambda: device.status().mode == "C3")
        os.close(writer)
        assert device.wait(operation.id, 60).outcome == "retargeted"
        assert settled(device).mode == "C3"


def writer_of(pipe):
    """The writing end of a pipe, once somebody reads it."""
    found = []

    def opened():
        with suppress(OSError):
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return found

    until(opened)
    return found[0]


def test_a_failure_after_a_walk_leaves_the_mode(bundle, log):
    commands, lines = log
    with made(bundle, commands=commands, modes=modes(C2={"before": ["one"], "after": ["two", "bad"]})) as device:
        ended = device.wait(device.switch("C2", who="ann").id, 60)
        assert ended.outcome == "committed"
        assert "command bad" in ended.reason
        assert lines() == ["one", "two", "bad", "untwo"]
        assert settled(device).mode == "C2"


def test_what_failed_by_itself_is_tried_again_later_and_not_at_once(bundle, tmp_path):
    root, clock = board(tmp_path), Clock()
    text = "import pathlib, sys; sys.exit(not pathlib.Path(__file__).with_name('open').exists())"
    commands = {"gate": {"argv": [program(tmp_path, "gate", text)]}}
    with made(bundle, root, clock, commands=commands, modes=modes(C3={"before": ["gate"]}), safety=[HOT]) as device:
        put(root, "class/thermal/thermal_zone0/temp", 85000)
        assert polled(device).mode == "C1"
        polled(device)
        assert len(device.operations()) == 1
        (tmp_path / "open").touch()
        assert polled(device).mode == "C1"
        clock.forward(steering.RETRY_S)
        assert polled(device).mode == "C3"


def test_commands_of_a_plans_own_profile_are_not_run(bundle, log):
    commands, lines = log
    listed = modes(C2={"before": ["one"], "after": ["two"]})
    with made(bundle, commands=commands, modes=listed, outside=False) as device:
        assert device.wait(device.switch("C2", who="ann").id, 60).outcome == "committed"
        assert lines() == []
        assert "came with a plan are not run" in told(device, "fault")[0]["detail"]
