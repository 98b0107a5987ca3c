"""A device whose name is claimed by another one, or whose addresses change, as other machines see it."""

from uuid import uuid4

import dns.rrset
import pytest

from runtime.discovery import addresses, announce
from runtime.discovery.addresses import Address
from tests.runtime.mdns_peer import PATIENCE_S, TYPE
from tests.runtime.networks import LOOPBACK, PLACES, becomes, place, unique
from tests.runtime.threads import until

pytestmark = pytest.mark.xdist_group("mdns")  # they hear each other on loopback


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Closing waits until all is said: on a busy machine that takes longer than a service would wait."""
    monkeypatch.setattr(announce, "CLOSE_S", PATIENCE_S)


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


def unplug(network, one):
    if network.device is None:
        one._insist()
        one.update(network.hints())
    else:
        network.other.ip("link", "set", "eth", "down")


def plug_in(network, one):
    if network.device is None:
        unplug(network, one)
    else:
        network.other.ip("link", "set", "eth", "up")


def test_a_cable_that_is_plugged_in_again_makes_it_speak_once_more(network):
    """However fast that was: what nobody heard, the cable being out, does not count."""
    now = [0.0]
    with network.peer() as peer, network.announced(clock=lambda: now[0]) as (one, instance):
        now[0] = 100.0
        unplug(network, one)
        until(lambda: one._insisted_s == 100.0)
        plug_in(network, one)
        until(lambda: one._insists)
        peer.forget()

        def heard(peer):
            now[0] += 100.0
            one.update(network.hints())  # which changes nothing, and makes it look at its clock
            return instance in peer.instances()

        peer.until(heard)


def test_a_network_that_keeps_asking_for_it_has_to_wait(network):
    now = [0.0]
    with network.peer() as peer, network.announced(clock=lambda: now[0]) as (one, instance):
        now[0] = 100.0
        for _ in range(3):
            one._rivalled(gives_way=False)
        until(lambda: one._next_s == 101.0)  # it was said, and is not to be said again before that
        assert one._insisted_s == 100.0
        one._rivalled(gives_way=False)
        one.update(network.hints(mode="C2"))  # what changed is told all the same
        now[0] = 102.0
        one.update(network.hints(mode="C2"))
        peer.until(lambda peer: peer.txt(instance).get("mode") == "C2")
        assert one._insisted_s == 100.0
