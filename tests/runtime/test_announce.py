"""What other machines on the network see of a device. They are plain sockets with dnspython, not zeroconf.

Everything runs on loopback. Where the system lets a test make network namespaces, it also runs between two machines
with a cable, IPv6 included.
"""

import logging
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.discovery import addresses, announce, mdns
from runtime.discovery.addresses import Address
from runtime.discovery.announce import Announcement, Announcer
from runtime.discovery.device_record import Record
from runtime.errors import NoMulticast
from tests.runtime import namespaces
from tests.runtime.mdns_peer import PATIENCE_S, TYPE, Peer
from tests.runtime.networks import KEYS, LOOPBACK, NAMESPACES, PLACES, becomes, hints, place, unique
from tests.runtime.threads import nothing_left

pytestmark = pytest.mark.xdist_group("mdns")  # they hear each other on loopback


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Closing waits until all is said: on a busy machine that takes longer than a service would wait."""
    monkeypatch.setattr(announce, "CLOSE_S", PATIENCE_S)


@pytest.fixture(params=PLACES)
def network(request):
    with place(request.param) as one:
        yield one


# On the network


def test_another_implementation_finds_all_there_is_to_know(network):
    with network.peer() as peer, network.announced(hints={"id": "4F:2a", "mode": "C2"}) as (_, instance):
        peer.forget()
        peer.until(lambda peer: instance in peer.instances(), ask=(TYPE, "PTR"))
        (service,) = peer.until(lambda peer: peer.rdata(instance, "SRV"), ask=(instance, "SRV"))
        host = service.target.to_text()
        assert (service.port, host) == (8443, "geoshift-4f-2a.local.")
        said = peer.until(lambda peer: peer.txt(instance), ask=(instance, "TXT"))
        assert set(said) == KEYS
        assert (said["txtvers"], said["mode"], said["tls"]) == ("1", "C2", "ab" * 32)
        peer.until(lambda peer: network.ip in [one.address for one in peer.rdata(host, "A")], ask=(host, "A"))
        assert max(ttl for name, _, ttl, _ in peer.history if name.to_text() == host) <= mdns.TTL_S


def test_it_is_found_by_the_list_of_all_types(network):
    with network.peer() as peer, network.announced():
        types = "_services._dns-sd._udp.local."
        peer.until(lambda peer: TYPE in [one.target.to_text() for one in peer.rdata(types, "PTR")], ask=(types, "PTR"))


def test_ipv6_is_announced_and_answers(network):
    if network.other is None:  # loopback has no IPv6 multicast; the record must be right all the same
        record = Record("a", "b", 1, {}, (LOOPBACK, Address("lo", 1, "::1")))
        assert record.packed == {socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")}
        return
    with network.at(network.other):
        peer = Peer(index=socket.if_nametoindex("eth"))
    with peer, network.announced() as (_, instance):
        peer.forget()
        peer.until(lambda peer: instance in peer.instances(), ask=(TYPE, "PTR"))
        (service,) = peer.until(lambda peer: peer.rdata(instance, "SRV"), ask=(instance, "SRV"))
        host = service.target.to_text()
        peer.until(lambda peer: "fd09::1" in [one.address for one in peer.rdata(host, "AAAA")], ask=(host, "AAAA"))


def test_it_is_withdrawn_on_exit(network):
    with network.peer() as peer:
        with network.announced() as (one, instance):
            peer.until(lambda peer: instance in peer.instances())
        peer.until(lambda peer: instance not in peer.instances())
        assert not peer.rdata(instance, "SRV")
    assert one.shown.state == "withdrawn"


def test_a_committed_change_is_told_unasked(network):
    with network.peer() as peer, network.announced() as (one, instance):
        peer.until(lambda peer: peer.txt(instance))
        one.update(network.hints(mode="C3", st="walking"))
        peer.until(lambda peer: peer.txt(instance)["mode"] == "C3")
        assert peer.txt(instance)["st"] == "walking"


def test_what_comes_too_fast_is_left_out_and_the_last_is_said(network):
    now = [0.0]
    with network.peer() as peer, network.announced(clock=lambda: now[0]) as (one, instance):
        peer.until(lambda peer: peer.txt(instance))
        for number in range(100):
            one.update(network.hints(mode=f"M{number}"))
        # The clock stands: the least time has not passed, so nothing may be said, however often it is asked.
        peer.until(lambda peer: len(peer.all_txt(instance)) > 5, ask=(instance, "TXT"))
        assert peer.txt(instance)["mode"] == "C1"
        now[0] = 1.0
        peer.until(lambda peer: peer.txt(instance)["mode"] == "M99")
        assert {said["mode"] for said in peer.all_txt(instance)} == {"C1", "M99"}


def test_hostile_packets_do_it_no_harm(network):
    with network.peer() as peer, network.announced() as (_, instance):
        query = bytes(4) + b"\0\1" + bytes(6)
        for raw in (b"", b"\0", bytes(12), b"\xff" * 500, query + b"\xc0\x0c\0\1\0\1", query + b"\x3f" + b"a" * 40,
                    bytes(2) + b"\x84\0\xff\xff" * 3, query + b"\1a" * 200):  # fmt: skip
            peer.send(raw)
        peer.forget()
        peer.until(lambda peer: instance in peer.instances(), ask=(TYPE, "PTR"))


def test_one_address_of_an_interface_speaks_for_it():
    found = [Address("b", 3, "10.0.0.9"), Address("a", 2, "10.0.0.2"), Address("a", 2, "10.0.0.1"),
             Address("a", 2, "2001:db8::1"), Address("a", 2, "fe80::1"), Address("b", 3, "fd00::1")]  # fmt: skip
    for _ in range(len(found)):
        found.append(found.pop(0))
        assert mdns._sockets(found) == ["10.0.0.1", "fe80::1", "10.0.0.9", "fd00::1"]


# Where the network does not let it


def test_without_a_network_there_is_a_warning_and_no_crash(caplog):
    caplog.set_level(logging.INFO, "geoshift.announce")
    one = Announcer(1, hints(), Announcement(interfaces=("nosuch0",)))
    with one:
        shown = one.settled(PATIENCE_S)
        assert (shown.state, shown.name) == ("failed", "")
        assert "expected one of nosuch0" in shown.reason
        one.update(hints(mode="C2"))
    assert not one._thread.is_alive()
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "not announced on the network" in said.getMessage()


def test_an_address_that_nothing_listens_at_is_not_announced():
    with Announcer(1, hints(), Announcement(interfaces=("lo",)), listening="192.0.2.1") as one:
        shown = one.settled(PATIENCE_S)
    assert (shown.state, shown.addresses) == ("failed", ())
    assert "expected one of lo with 192.0.2.1" in shown.reason


def test_a_network_that_comes_up_later_is_noticed():
    if not NAMESPACES:  # the same wait, woken by hand
        with Announcer(1, hints(), Announcement(interfaces=("nosuch0",))) as one:
            assert one.settled(PATIENCE_S).state == "failed"
        return
    with namespaces.made(1) as (space,), space.entered():
        one = Announcer(8443, hints(), Announcement(interfaces=("eth",), name=unique()))
        with one:
            assert one.settled(PATIENCE_S).state == "failed"
            space.ip("link", "add", "eth", "type", "veth", "peer", "name", "cable")
            space.ip("link", "set", "cable", "up")
            space.ip("link", "set", "eth", "up")
            space.ip("address", "add", "10.9.0.1/24", "dev", "eth")
            becomes(one, lambda shown: shown.state == "announced")
            with Peer("10.9.0.1") as peer:
                peer.until(lambda peer: f"{one.shown.name}.{TYPE}" in peer.instances(), ask=(TYPE, "PTR"))
            space.ip("link", "delete", "eth")
            becomes(one, lambda shown: shown.state == "failed")


def test_a_port_that_another_program_keeps_to_itself_is_a_warning():
    if not NAMESPACES:
        with pytest.raises(NoMulticast, match="expected one that others can reach"):
            addresses.choose((LOOPBACK,), ())
        return
    with namespaces.cabled() as (space, _), space.entered():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kept:
            kept.bind(("", 5353))
            with Announcer(1, hints(), Announcement(interfaces=("eth",))) as one:
                shown = one.settled(PATIENCE_S)
        assert (shown.state, "found Address already in use, expected to share it" in shown.reason) == ("failed", True)


def test_no_thread_to_spare_is_a_warning(monkeypatch, caplog):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Announcer(1, hints(), Announcement(interfaces=("lo",))) as one:
        assert one.shown.state == "failed"
    assert "can't start new thread" in caplog.text


def test_switched_off_it_opens_nothing(monkeypatch):
    monkeypatch.setattr(announce, "ChangeWatch", lambda: pytest.fail("opened"))
    with Announcer(1, hints(), Announcement(enabled=False)) as one:
        one.update(hints(mode="C2"))
        assert one.settled(0).state == "off"
        assert one._thread is None


def test_it_begins_in_the_background_and_leaves_nothing_behind(monkeypatch):
    choose, may = addresses.choose, threading.Event()
    monkeypatch.setattr(addresses, "choose", lambda *how: may.wait(PATIENCE_S) and choose(*how))
    with nothing_left():
        one = Announcer(1, hints(), Announcement(interfaces=("lo",), name=unique()))
        one.start()
        one.start()
        assert one.shown.state == "starting"
        may.set()
        assert one.settled(PATIENCE_S).state == "announced"
        one.close()
        one.close()
        one.update(hints())


def test_closed_before_it_was_started_it_stays_closed():
    one = Announcer(1, hints(), Announcement(interfaces=("lo",)))
    one.close()
    one.start()
    assert (one.shown.state, one._thread) == ("off", None)


def test_zeroconf_has_one_door_and_is_loaded_late():
    root = Path(announce.__file__).parents[1]
    doors = [path.name for path in root.rglob("*.py") if "import zeroconf" in (text := path.read_text()) or
             "from zeroconf" in text]  # fmt: skip
    assert doors == ["mdns.py"]
    code = "import runtime.discovery.announce, runtime.discovery.discover, sys; sys.exit('zeroconf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
