"""Devices are switched at the same time, and what became of each is said."""

import json
import threading
from contextlib import ExitStack

import pytest
import typer
from typer.testing import CliRunner

from runtime.cli import remote_commands
from runtime.client import Client
from runtime.desktop import remote_switch
from runtime.desktop.known_devices import KnownDevice, KnownDevices
from runtime.desktop.remote_switch import switch_devices
from tests.runtime.threads import until
from tests.service.running import FAST, STILL, running


@pytest.fixture
def fleet(plan, tmp_path, monkeypatch):
    """Two devices, the first of which stands in its walk, and a third that is away; this desktop knows all."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with ExitStack() as stack:
        devices = {
            name: stack.enter_context(running(plan, tmp_path / name, pace=pace))
            for name, pace in (("a", STILL), ("b", FAST))
        }
        known = KnownDevices()
        for name, one in devices.items():
            known.keep(KnownDevice(name=name, url=one.url, device=name, certificate_sha256="", token=one.token()))
        known.keep(KnownDevice(name="c", url=f"unix:{tmp_path / 'gone'}", device="c", certificate_sha256="", token="t"))
        yield devices


def geoshift(*arguments):
    app = typer.Typer()
    remote_commands.add_commands(app)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def network(running):
    return running.service.device


def test_one_that_is_slow_or_away_keeps_no_other_from_switching(fleet):
    results = []
    command = threading.Thread(
        target=lambda: results.append(switch_devices(["a", "b", "c"], Client.of, "C2", None, wait=True))
    )
    command.start()
    # The first stands until the second has arrived: one after the other, this would take for ever.
    until(lambda: network(fleet["b"]).status().mode == "C2")
    until(lambda: network(fleet["a"]).status().target == "C2")
    network(fleet["a"]).cancel(network(fleet["a"]).operations()[-1].id)
    command.join()
    (ends,) = results
    assert list(ends) == ["a", "b", "c"]
    assert [end.ok for end in ends.values()] == [False, True, False]
    assert [end.outcome for end in ends.values()] == ["cancelled", "committed", "not begun"]
    assert ends["b"].walk == "C1 → C2"
    assert "bytes in" in ends["b"].text
    assert "is `geoshift serve` running" in ends["c"].text


def test_all_are_shown_in_a_table_and_the_status_is_that_of_the_worst(fleet):
    done = geoshift("switch", "--all", "C2")
    assert done.exit_code == 1
    rows = {words[1]: words for words in map(str.split, done.stdout.splitlines()) if words[:1] in (["✓"], ["✗"])}
    assert {name: words[0] for name, words in rows.items()} == {"a": "✓", "b": "✓", "c": "✗"}
    assert rows["a"][2:5] == ["C1", "→", "C2"]
    assert rows["c"][2:4] == ["not", "begun"]
    assert "1 of 3 devices did not switch" in done.stderr
    KnownDevices().forget("c")
    done = geoshift("switch", "--all", "--json", "auto")
    ends = json.loads(done.stdout)
    assert (done.exit_code, [end["ok"] for end in ends.values()]) == (0, [True, True])


def test_without_a_device_nothing_is_said_to_have_been_switched(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = geoshift("switch", "--all", "C2")
    assert done.exit_code == 1
    assert "geoshift login" in done.stderr


def test_no_more_than_a_few_are_talked_to_at_once(fleet, monkeypatch):
    monkeypatch.setattr(remote_switch, "AT_ONCE", 2)
    busy, most, guard, both = 0, 0, threading.Lock(), threading.Barrier(2)

    def connect(name):
        nonlocal busy, most
        with guard:
            busy += 1
            most = max(most, busy)
        both.wait(60)
        with guard:
            busy -= 1
        return Client.of("b")

    ends = switch_devices([str(number) for number in range(6)], connect, "C2", None, wait=False)
    assert (len(ends), most) == (6, 2)
