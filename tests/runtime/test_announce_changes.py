"""A device whose name is claimed by another one, or whose addresses change, as other machines see it."""

from uuid import uuid4

import dns.rrset
import pytest

from runtime import addresses
from runtime.addresses import Address
from tests.runtime.mdns_peer import TYPE
from tests.runtime.networks import LOOPBACK, PLACES, becomes, place, unique

pytestmark = pytest.mark.xdist_group("mdns")  # they hear each other on loopback


@pytest.fixture(params=PLACES)
def network(request):
    with place(request.param) as one:
        yield one


def test_the_second_of_a_name_takes_another(network):
    name = unique()
    second = f"{name}-2.{TYPE}"
    # Ids differ, as those of two devices do: by equal records neither would ever learn of the other.
    with (
        network.announced(how={"name": name}) as (one, _),
        network.announced(how={"name": name}, hints={"id": uuid4().hex}) as (other, _),
        network.peer() as peer,
    ):
        # On a busy machine an answer may come too late, and both have the name until they hear of each other.
        peer.until(
            lambda peer: (
                {f"{name}.{TYPE}", second} <= set(peer.instances())
                and {one.shown.name, other.shown.name} == {name, f"{name}-2"}
            ),
            ask=(TYPE, "PTR"),
        )
        (service,) = peer.until(lambda peer: peer.rdata(second, "SRV"), ask=(second, "SRV"))
        assert service.target.to_text().endswith("-2.local."), "the host's name is another one, too"


def claim(instance, host, port):
    return dns.rrset.from_text(instance.replace(" ", "\\032"), 120, "IN", "SRV", f"0 0 {port} {host}")


def test_a_greater_claim_of_the_name_makes_it_give_way(network):
    with network.peer() as peer, network.announced() as (one, instance):
        name = one.shown.name
        peer.answer(claim(instance, "zzz.local.", 9))
        peer.until(lambda peer: f"{name}-2.{TYPE}" in peer.instances())
        becomes(one, lambda shown: shown.name == f"{name}-2")


def test_a_lesser_claim_of_the_name_is_contradicted(network):
    with network.peer() as peer, network.announced() as (one, instance):
        name = one.shown.name
        peer.until(lambda peer: peer.rdata(instance, "SRV"))
        peer.forget()
        peer.answer(claim(instance, "a.local.", 9))
        peer.until(lambda peer: any(rdata.port == 8443 for rdata in peer.rdata(instance, "SRV")))
        assert one.shown.name == name


def test_two_devices_with_one_host_name_do_not_keep_it(network):
    with network.peer() as peer, network.announced() as (one, instance):
        host = peer.until(lambda peer: peer.rdata(instance, "SRV"))[0].target.to_text()
        peer.answer(dns.rrset.from_text(host, 120, "IN", "A", "254.0.0.1"))
        peer.until(lambda peer: peer.rdata(f"{one.shown.name}.{TYPE}", "SRV") and one.shown.name.endswith("-2"))


@pytest.mark.parametrize("alone", [False, True])
def test_a_new_address_is_told_and_used(network, monkeypatch, alone):
    """The machine gets an address, beside the one it has or in its place, as when it moves to another network."""
    with network.peer() as peer, network.announced() as (one, instance):
        host = peer.until(lambda peer: peer.rdata(instance, "SRV"))[0].target.to_text()
        if network.device is None:  # all of 127.0.0.0/8 is on loopback, listed or not
            more = Address("lo", LOOPBACK.index, new := "127.9.9.9")
            monkeypatch.setattr(addresses, "present", lambda: (more,) if alone else (LOOPBACK, more))
            one.update(network.hints(mode="C2"))
        else:
            network.device.ip("address", "add", f"{(new := '10.9.0.77')}/24", "dev", "eth")
            if alone:
                network.device.ip("address", "delete", f"{network.ip}/24", "dev", "eth")
                network.device.ip("address", "replace", f"{new}/24", "dev", "eth")
        peer.until(lambda peer: new in [one.address for one in peer.rdata(host, "A")])
        becomes(one, lambda shown: new in shown.addresses and (network.ip in shown.addresses) != alone)
        peer.until(lambda peer: {new, network.ip} & peer.sources)
        if alone:
            peer.until(lambda peer: new in peer.sources, ask=(TYPE, "PTR"))


def test_a_cable_that_is_plugged_in_makes_it_speak_once_more(network):
    now = [0.0]
    with network.peer() as peer, network.announced(clock=lambda: now[0]) as (one, instance):
        now[0] = 100.0
        peer.forget()
        if network.device is None:
            one._insist()
            one.update(network.hints())
        else:
            network.other.ip("link", "set", "eth", "down")
            network.other.ip("link", "set", "eth", "up")
        peer.until(lambda peer: instance in peer.instances())
