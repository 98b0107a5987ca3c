"""Networks for tests of what is announced and found: loopback, and where namespaces can be made, a cable."""

import socket
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from uuid import uuid4

from runtime.discovery.addresses import Address
from runtime.discovery.announce import Announcement, Announcer, Hints
from tests.runtime import namespaces
from tests.runtime.mdns_peer import PATIENCE_S, TYPE, Peer

NAMESPACES = namespaces.possible()
LOOPBACK = Address("lo", socket.if_nametoindex("lo"), "127.0.0.1")
KEYS = {"txtvers", "id", "api", "ver", "prof", "mode", "st", "auth", "tls"}


@dataclass
class Network:
    """Where the device is, where others are, and how the device is reached."""

    device: namespaces.Namespace | None
    other: namespaces.Namespace | None
    interface: str
    ip: str
    id: str

    def hints(self, **changes):
        return hints(**{"id": self.id} | changes)

    @contextmanager
    def at(self, place):
        with nullcontext() if place is None else place.entered():
            yield

    def peer(self):
        with self.at(self.other):
            return Peer("127.0.0.1" if self.other is None else "10.9.0.2")

    def announcer(self, **changes):
        """A device; names are unique, since tests may run side by side on one loopback."""
        how = {"interfaces": (self.interface,), "min_interval_s": 1.0, "name": unique()} | changes.pop("how", {})
        return Announcer(
            changes.pop("port", 8443), self.hints(**changes.pop("hints", {})), Announcement(**how), **changes
        )

    @contextmanager
    def announced(self, **changes):
        one = self.announcer(**changes)
        with self.at(self.device):
            one.start()
        try:
            shown = one.settled(PATIENCE_S)
            assert shown.state == "announced", shown
            yield one, f"{shown.name}.{TYPE}"
        finally:
            one.close()


PLACES = ("loopback", "cable") if NAMESPACES else ("loopback",)


@contextmanager
def place(kind):
    """A network of a kind."""
    if kind == "loopback":
        yield Network(None, None, "lo", "127.0.0.1", uuid4().hex)
        return
    with namespaces.cabled() as (one, other):
        yield Network(one, other, "eth", "10.9.0.1", uuid4().hex)


def unique():
    return f"test {uuid4().hex[:12]}"


def hints(**changes):
    given_ = {
        "id": uuid4().hex, "api": "v1,v2", "ver": "0.1.0", "prof": "generic-x86", "mode": "C1", "st": "idle",
        "auth": "token", "tls": "ab" * 32,
    }  # fmt: skip
    return Hints(**given_ | changes)


def becomes(one, condition):
    """Wait until what is shown of the announcement is so."""
    with one._changed:
        assert one._changed.wait_for(lambda: condition(one._shown), PATIENCE_S), one._shown
