"""What is found on the network: devices that another implementation announces, and what strangers send instead.

Everything runs on loopback; where namespaces can be made, between two machines with a cable as well.
"""

import queue
import threading
from contextlib import contextmanager
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.discovery import discover as module
from runtime.discovery.announce import Announcement, Announcer
from runtime.discovery.device_record import SERVICE_TYPE
from runtime.discovery.discover import KEYS, Found, Lost, discover, parse, watch
from runtime.discovery.mdns import Service
from runtime.errors import NoMulticast
from tests.runtime import networks
from tests.runtime.mdns_peer import PATIENCE_S, device
from tests.runtime.networks import Network, hints
from tests.runtime.threads import nothing_left

pytestmark = pytest.mark.xdist_group("mdns")  # they hear each other on loopback

SAID = (b"txtvers=1", b"id=4f2a", b"api=v1,v2", b"ver=0.1.0", b"prof=generic-x86", b"mode=C1", b"st=idle",
        b"auth=token", b"tls=abcd")  # fmt: skip


def unique():
    return f"test {uuid4().hex[:12]}"


class Watching:
    """A watch on a thread of its own, as a live table has it."""

    def __init__(self, place: Network, space):
        self.seen = queue.Queue()
        self._stop = threading.Event()
        with place.at(space):  # a thread stays on the machine that it was started on
            self._thread = threading.Thread(target=self._run, args=(place.interface,))
            self._thread.start()

    def _run(self, interface):
        for one in watch(self._stop.is_set, (interface,)):
            self.seen.put(one)

    def until(self, condition, again):
        """The first of what is yielded that the condition holds for; ``again`` is called each second meanwhile."""
        for _ in range(PATIENCE_S):
            again()
            try:
                while not condition(one := self.seen.get(timeout=1)):
                    pass
            except queue.Empty:
                continue
            return one
        raise AssertionError("waited in vain")

    def stop(self):
        self._stop.set()
        self._thread.join()


@contextmanager
def watching(place):
    one = Watching(place, place.device)
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture(params=networks.PLACES)
def place(request):
    with networks.place(request.param) as one:
        yield one


def ip(place):
    return "127.0.0.1" if place.other is None else "10.9.0.2"


def test_a_device_comes_changes_and_goes(place):
    name = unique()
    with place.peer() as peer, watching(place) as seen:

        def say(**changes):
            return lambda: peer.answer(*device(name, ip(place), **{"txt": SAID, "host": name[-12:]} | changes))

        found = seen.until(lambda one: one.name == name, say())
        assert found == Found(
            name=name, host=f"{name[-12:]}.local", port=8443, addresses=(ip(place),), txtvers="1", id="4f2a",
            api="v1,v2", ver="0.1.0", prof="generic-x86", mode="C1", st="idle", auth="token", tls="abcd",
        )  # fmt: skip
        changed = tuple(one.replace(b"C1", b"C3") for one in SAID)
        found = seen.until(lambda one: one.name == name, say(txt=changed))
        assert (found.mode, found.id) == ("C3", "4f2a")
        seen.until(lambda one: one == Lost(name=name), say(ttl=0))


def test_an_address_of_ipv6_will_do(place):
    name = unique()
    with place.peer() as peer, watching(place) as seen:
        found = seen.until(lambda one: one.name == name, lambda: peer.answer(*device(name, "fd09::7", host=name[-12:])))
        assert found.addresses == ("fd09::7",)


def test_strangers_are_left_out_and_harm_nobody(place):
    name = unique()
    with place.peer() as peer, watching(place) as seen:

        def say():
            for number, odd in enumerate((
                {"label": b"\x1b[2J evil"}, {"label": b"\xff" * 63}, {"port": 0}, {"address": "224.0.0.1"},
                {"address": "0.0.0.0"}, {"host": "\\027[2J"},
            )):  # fmt: skip
                peer.answer(*device(**{"label": f"odd {number}", "address": ip(place), "host": f"odd{number}"} | odd))
            for raw in (b"", bytes(11), b"\0\0\x84\0" + b"\xff" * 200, bytes(2) + b"\x84\0\0\0\0\1\0\0\0\0\xc0\x0c"):
                peer.send(raw)
            odd_text = (b"=", b"mode", b"MODE=C2", b"mode=C3", b"id=\xff", b"st=\x1b[2J", b"x" * 255, b"")
            peer.answer(*device(name, ip(place), host=name[-12:], txt=odd_text))

        everything = []
        found = seen.until(lambda one: everything.append(one.name) or one.name == name, say)
        assert not [one for one in everything if "odd" in one or "evil" in one]
        assert {key: getattr(found, key) for key in KEYS} == dict.fromkeys(KEYS, "")


def test_what_is_announced_is_found(place):
    name = unique()
    one = Announcer(8443, hints(mode="C2"), Announcement(interfaces=(place.interface,), name=name))
    with place.at(place.other):
        one.start()
    with watching(place) as seen:
        found = seen.until(lambda found: found.name == name, lambda: None)
        assert (found.port, found.mode, ip(place) in found.addresses) == (8443, "C2", True)
        one.close()
        seen.until(lambda one: one == Lost(name=name), lambda: None)


@pytest.mark.parametrize("place", networks.PLACES[-1:], indirect=True)  # others on loopback would take the places
def test_a_network_of_very_many_devices_is_not_believed(place, monkeypatch):
    monkeypatch.setattr(module, "MAX_DEVICES", 2)
    names = [unique() for _ in range(4)]
    with place.peer() as peer, watching(place) as seen:

        def say():
            for name in names:
                peer.answer(*device(name, ip(place), host=name[-12:]))

        first, second = (seen.until(lambda one: one.name in names, say).name for _ in range(2))
        assert first != second
        say()
        peer.answer(*device(first, ip(place), host=first[-12:], ttl=0))
        while not isinstance(one := seen.seen.get(timeout=PATIENCE_S), Lost):
            assert one.name in (first, second)


def test_looking_ends_and_leaves_nothing_behind():
    with nothing_left():
        assert list(discover(0, ("lo",))) == []


def test_where_there_is_no_network_it_says_so():
    with pytest.raises(NoMulticast, match="expected one of nosuch0"):
        list(discover(0, ("nosuch0",)))


# What a stranger says

ODD = st.sampled_from(["fe80::1%2", "fe80::1", "127.0.0.1", "::", ""])
ADDRESSES = st.lists(st.one_of(st.ip_addresses().map(str), st.text(max_size=10), ODD), max_size=5)
STRINGS = st.dictionaries(
    st.one_of(st.sampled_from([key.encode() for key in KEYS]), st.binary(max_size=20)),
    st.one_of(
        st.none(), st.binary(max_size=300), st.text(max_size=100).map(lambda text: text.encode(errors="replace"))
    ),
    max_size=12,
)


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80), st.integers(-1, 70000), STRINGS, ADDRESSES)
def test_whatever_is_said_it_is_safe_to_print_or_left_out(name, host, port, said, listed):
    found = parse(f"{name}.{SERVICE_TYPE}", Service(host, port, said, tuple(listed)))
    if found is None:
        return
    assert 1 <= found.port <= 65535
    assert found.addresses
    assert set(found.addresses) <= set(listed)
    for text in (found.name, found.host, *found.addresses, *(getattr(found, key) for key in KEYS)):
        assert text.isprintable()
        assert len(text) <= 255


def test_the_likeliest_address_comes_first():
    listed = ("fe80::1%2", "169.254.1.1", "fd09::1", "192.0.2.7", "nonsense", "ff02::fb", "192.0.2.7")
    found = parse(f"x.{SERVICE_TYPE}", Service("h.local.", 1, {}, listed))
    assert found.addresses == ("192.0.2.7", "fd09::1", "169.254.1.1", "fe80::1%2")


def test_the_first_of_a_key_counts_whatever_its_case():
    found = parse(f"x.{SERVICE_TYPE}", Service("h.local.", 1, {b"Mode": b"C1", b"mode": b"C2"}, ("192.0.2.7",)))
    assert found.mode == "C1"


def test_all_keys_are_fields():
    assert set(KEYS) <= set(Found.__struct_fields__)
