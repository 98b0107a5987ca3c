"""What a device remembers over a restart, and what it does with a walk that was cut short."""

import threading
from contextlib import contextmanager

import msgspec
import pytest

from device_profiles import as_builtins
from runtime import private_files
from runtime.deciding.arbiter import Wish
from runtime.deciding.remembered import NAME, Remembered
from runtime.device.opening import open_device
from runtime.plan.bundle import read
from tests.runtime.bundles import profile, write_bundle
from tests.runtime.devices import STANDS, Clock, settled, told, walking
from tests.runtime.threads import PATIENCE_S, until


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "plan")


@pytest.fixture(scope="module")
def bundle_inputs(path):
    return read(path).evaluation.inputs[:1]


@pytest.fixture
def start(path, tmp_path):
    """Starts the device, with the same state directory every time."""

    def started(policy="in-place", **changes):
        place = tmp_path / "board.yaml"
        place.write_bytes(msgspec.json.encode(as_builtins(profile(**changes))))
        return open_device(path, place, policy=policy, state=tmp_path / "state", clock=Clock(), watches=False)

    return started


@pytest.mark.parametrize("policy", ["in-place", "shadow", "persistent"])
def test_what_was_asked_for_by_hand_outlives_a_restart(start, policy):
    with start(policy) as device:
        device.wait(device.switch("C2", who="ann").id, 60)
    with start(policy) as device:
        status = settled(device)
        assert (status.mode, status.decision.rank, status.decision.source) == ("C2", "manual", "ann")
        assert device.auto(who="ann").to == "C1"
        settled(device)
    with start() as device:
        assert settled(device).decision.rank == "default"


def test_a_lease_ends_with_a_restart(start):
    with start() as device:
        device.wait(device.switch("C2", who="ann").id, 60)
        device.wait(device.switch("C3", who="ann", lease_s=3600).id, 60)
    with start() as device:
        device.poll()
        status = settled(device)
        assert (status.mode, status.decision.rank) == ("C1", "default")


def test_a_switch_that_was_cancelled_is_not_remembered(start, tmp_path):
    with start(**STANDS) as device:
        operation = walking(device, device.switch("C2", who="ann"))
        assert (tmp_path / "state" / NAME).exists()
        device.cancel(operation.id)
    with start() as device:
        device.poll()
        assert settled(device).decision.rank == "default"


def test_a_walk_that_was_cut_short_is_an_operation_of_the_device(start):
    with start(**STANDS) as device:
        walking(device, device.switch("C3", who="ann", lease_s=3600))
    with start() as device:
        first = device.operations()[0]
        assert (first.who, first.rank) == ("restart", "default")
        assert device.wait(first.id, 60).outcome == "committed"
        device.poll()
        assert settled(device).mode == "C1"


def test_a_walk_by_hand_that_was_cut_short_reaches_its_mode_after_all(start):
    with start(**STANDS) as device:
        walking(device, device.switch("C3", who="ann"))
    with start() as device:
        device.poll()
        status = settled(device)
        assert (status.mode, status.decision.source) == ("C3", "ann")


def test_counters_of_what_is_written_go_on(start):
    with start() as device:
        device.wait(device.switch("C3", who="ann").id, 60)
        before = device.status().counters
        assert before.transitions == 1
        assert before.bytes_written > 0
        assert sum(before.row_writes.values()) > 0
    with start() as device:
        after = settled(device).counters
        assert (after.transitions, after.bytes_written, after.row_writes) == (
            before.transitions, before.bytes_written, before.row_writes,
        )  # fmt: skip
        assert (after.answers, after.outcomes["committed"]) == (0, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'{"mode":"C2"}', b'{"mode":2,"who":"ann"}', b'{"mode":"C2","who":"ann","more":1}',
        b'{"mode":"C9","who":"ann"}', b'{"mode":"' + b"C" * 100 + b'","who":"ann"}', b"\xff", b"x" * 5000,
        b"[" * 4000,
    ],
)  # fmt: skip
def test_a_damaged_memory_is_told_and_forgotten(start, tmp_path, content):
    with start():
        pass
    place = tmp_path / "state" / NAME
    place.write_bytes(content)
    place.chmod(0o600)
    with start() as device:
        assert settled(device).decision.rank == "default"
        assert NAME in told(device, "fault")[0]["detail"]
        device.wait(device.switch("C2", who="bob").id, 60)
    with start() as device:
        assert settled(device).decision.source == "bob"


def test_a_memory_that_cannot_be_written_is_told_and_the_switch_goes_on(start, tmp_path):
    with start() as device:
        (tmp_path / "state" / NAME).mkdir()
        assert device.wait(device.switch("C2", who="ann").id, 60).outcome == "committed"
        assert "will be forgotten by a restart" in told(device, "fault")[0]["detail"]


class SlowCard:
    """A card that takes over a write for as long as it is told to."""

    def __init__(self, monkeypatch):
        self._write, self._may, self.written, self.begun = private_files.write, threading.Event(), [], 0
        monkeypatch.setattr(private_files, "write", self.write)

    def write(self, path, content):
        if path.name == NAME:
            self.begun += 1
            assert self._may.wait(PATIENCE_S)
            self.written.append(msgspec.json.decode(content)["mode"])
        self._write(path, content)

    @contextmanager
    def stuck(self):
        self._may.clear()
        yield
        self._may.set()


def beside(act):
    """Do something on a thread of its own."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_a_slow_card_keeps_nobody_waiting_but_who_asked(start, bundle_inputs, monkeypatch):
    card = SlowCard(monkeypatch)
    with start() as device:
        with card.stuck():
            asks = beside(lambda: device.switch("C2", who="ann"))
            until(lambda: card.begun)
            looks = beside(lambda: (device.infer(bundle_inputs), device.poll(), device.operations(), settled(device)))
            looks.join(20)
            assert not looks.is_alive(), "the card is waited for by those who asked for nothing"
            assert device.status().mode == "C2"
            assert asks.is_alive(), "it was said to be done before it was safe"
        asks.join()
    with start() as device:
        assert settled(device).decision.source == "ann"


def test_of_what_comes_while_the_card_is_slow_the_last_is_kept(start, monkeypatch):
    card = SlowCard(monkeypatch)
    with start() as device:
        with card.stuck():
            asks = [beside(lambda: device.switch("C2", who="ann"))]
            until(lambda: card.begun)
            for mode in ("C3", "C1", "C3"):
                until(lambda: device._switches.current is None)
                asks.append(beside(lambda mode=mode: device.switch(mode, who="bob")))
                until(lambda mode=mode: device._steering.decision.mode == mode)
        for one in asks:
            one.join()
        assert card.written == ["C2", "C3"]
    with start() as device:
        assert (settled(device).mode, device.status().decision.source) == ("C3", "bob")


def test_nobody_waits_for_a_memory_that_was_closed(tmp_path):
    """As a request does that comes while the device is closed."""
    memory = Remembered(tmp_path, ("C1", "C2"), pytest.fail)
    memory.start()
    memory.keep(Wish("C1", "desk", "by hand"))
    memory.close()
    assert Remembered(tmp_path, ("C1", "C2"), pytest.fail).wish.mode == "C1"
    memory.keep(Wish("C2", "desk", "by hand"))
    waits = threading.Thread(target=memory.settle, daemon=True)
    waits.start()
    waits.join(PATIENCE_S)
    assert not waits.is_alive()


def test_a_name_without_an_end_is_cut(start):
    with start() as device:
        device.wait(device.switch("C2", who="a" * 1000).id, 60)
    with start() as device:
        assert settled(device).decision.source == "a" * 256
