"""What a device says of itself, as data; and the addresses that it says it from."""

import socket

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.discovery import addresses, announce, mdns
from runtime.discovery.addresses import Address, ChangeWatch
from runtime.discovery.announce import Announcement
from runtime.discovery.device_record import Hints, Record, labels, txt
from runtime.errors import NoMulticast
from tests.runtime.mdns_peer import TYPE
from tests.runtime.networks import KEYS, LOOPBACK


@settings(deadline=None)
@given(st.builds(Hints, **dict.fromkeys(KEYS - {"txtvers"}, st.text())))
def test_any_text_fits_into_the_record(given_):
    said = txt(given_)
    assert set(said) == KEYS
    for key, value in said.items():
        assert len(f"{key}={value}".encode()) <= 255
        assert value.isprintable()


def test_the_record_holds_hints_and_no_more():
    assert {"txtvers", *Hints.__struct_fields__} == KEYS


@settings(deadline=None)
@given(
    st.one_of(st.text(), st.sampled_from(["_sub", "_tcp", "a.b", "x" * 80])),
    st.text(),
    st.integers(1, announce.MOST_NAMES),
)
def test_any_name_makes_labels(name, device, number):
    label, host = labels(name, device, number)
    assert 0 < len(label.encode()) <= 63
    assert mdns._info(Record(label, host, 1, {}, (LOOPBACK,))).name == f"{label}.{TYPE}", "zeroconf takes it as it is"
    assert label.isprintable()
    assert "." not in label
    assert 0 < len(host) <= 63
    assert host.replace("-", "a").isalnum()
    assert host.isascii()


@settings(deadline=None)
@given(st.text(min_size=1), st.text())
def test_numbers_tell_names_apart(name, device):
    made = [labels(name, device, number) for number in range(1, announce.MOST_NAMES + 1)]
    assert len({label for label, _ in made}) == len({host for _, host in made}) == len(made)


PORTS = st.integers(1, 65535)
HOSTS = st.sampled_from(["a", "b", "c"])


@settings(deadline=None)
@given(HOSTS, PORTS, HOSTS, PORTS)
def test_of_two_claims_exactly_one_gives_way(host, port, other_host, other_port):
    one, other = (Record("x", *pair, {}, ()) for pair in ((host, port), (other_host, other_port)))
    seen = [mine.rival(mine.instance, (theirs.server, theirs.port)) for mine, theirs in ((one, other), (other, one))]
    assert (
        seen == [None, None] if (host, port) == (other_host, other_port) else sorted(map(bool, seen)) == [False, True]
    )


@settings(deadline=None)
@given(st.sets(st.ip_addresses(v=4), min_size=1, max_size=4), st.sets(st.ip_addresses(v=4), min_size=1, max_size=4))
def test_of_two_hosts_with_one_name_exactly_one_gives_way(mine, theirs):
    records = [Record("x", "h", 1, {}, tuple(Address("e", 1, str(ip)) for ip in sorted(ips))) for ips in (mine, theirs)]
    yields = [
        any(record.rival("h.local.", packed) for packed in other.packed)
        for record, other in (records, reversed(records))
    ]
    expected = [] if max(map(int, mine)) == max(map(int, theirs)) else [True]
    assert [one for one in yields if one] == expected


def test_another_name_and_its_own_records_are_no_rivals():
    record = Record("x", "h", 1, {}, (LOOPBACK,))
    assert record.rival("y._geoshift._tcp.local.", ("z.local.", 9)) is None
    assert record.rival(record.instance.lower(), ("h.local.", 1)) is None
    assert record.rival("h.local.", socket.inet_aton("127.0.0.1")) is None
    assert record.rival("other.local.", socket.inet_aton("250.0.0.1")) is None


# Addresses

ETH = Address("eth0", 2, "192.0.2.7"), Address("eth0", 2, "fe80::1"), Address("wlan0", 3, "198.51.100.4")
ALL = (LOOPBACK, Address("lo", 1, "::1"), *ETH)


def test_loopback_is_left_out_unless_it_is_asked_for():
    assert addresses.choose(ALL, ()) == ETH
    assert addresses.choose(ALL, ("lo",)) == ALL[:2]
    assert addresses.choose(ALL, ("wlan0", "nosuch0")) == ETH[2:]


def test_only_addresses_that_lead_to_what_listens_are_chosen():
    assert addresses.choose(ALL, (), "0.0.0.0") == (ETH[0], ETH[2])
    assert addresses.choose(ALL, (), "198.51.100.4") == ETH[2:]
    assert addresses.choose(ALL, (), "fe80::1%eth0") == ETH[1:2]
    with pytest.raises(NoMulticast, match=r"expected one of eth0 with 198\.51\.100\.4"):
        addresses.choose(ALL, ("eth0",), "198.51.100.4")


@pytest.mark.parametrize(("found", "wanted", "words"), [
    ((), (), "found addresses on none, expected one that others can reach"),
    (ALL[:2], (), "found addresses on lo, expected one that others can reach"),
    (ALL, ("nosuch0", "eth9"), "found addresses on eth0, lo, wlan0, expected one of nosuch0, eth9; connect it"),
])  # fmt: skip
def test_no_address_is_an_error_that_names_what_there_is(found, wanted, words):
    with pytest.raises(NoMulticast, match=words):
        addresses.choose(found, wanted)


def test_the_addresses_of_this_machine_are_found():
    assert LOOPBACK in addresses.present()


@pytest.mark.parametrize("netlink", [True, False])
def test_a_wait_ends_when_it_is_woken_however_often(monkeypatch, netlink):
    if not netlink:
        monkeypatch.setattr(addresses, "_netlink", lambda: None)
    watch = ChangeWatch()
    for _ in range(100_000 if netlink else 3):
        watch.wake()
    watch.wait(None)
    watch.wait(0)
    watch.close()


def test_where_the_system_does_not_tell_the_addresses_are_compared(monkeypatch):
    monkeypatch.setattr(addresses, "_netlink", lambda: None)
    watch = ChangeWatch()
    assert not watch.wait(0)
    monkeypatch.setattr(addresses, "present", lambda: ETH)
    assert watch.wait(0)
    assert not watch.wait(0)
    watch.close()


def test_the_configuration_is_checked():
    with pytest.raises(msgspec.ValidationError, match="min_interval_s"):
        msgspec.convert({"min_interval_s": 0.1}, Announcement)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"interface": "eth0"}, Announcement)
    assert msgspec.convert({"interfaces": ["eth0"]}, Announcement) == Announcement(interfaces=("eth0",))
