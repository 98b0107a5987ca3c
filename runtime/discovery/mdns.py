"""Multicast DNS (RFC 6762, 6763): put one service on the network, look for those of a type. The one door to zeroconf.

Both sides keep to the interfaces of the addresses that they are given. They raise ``NoMulticast`` where the network
does not let them, and ``NameTaken`` where another device has the name.
"""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from runtime.discovery.addresses import Address
from runtime.discovery.device_record import SERVICE_TYPE, Record
from runtime.errors import NameTaken, NoMulticast

if TYPE_CHECKING:
    from zeroconf import RecordUpdate, RecordUpdateListener, ServiceInfo, Zeroconf
    from zeroconf._dns import DNSRecord

PORT: Final = 5353
TTL_S: Final = 120
"""How long others keep the records. RFC 6762 advises 75 minutes for most of them; but a board whose power is cut cannot
say goodbye, and two minutes later it should be gone from every list."""
RESOLVE_MS: Final = 1500
"""Longest wait for the rest of a device's records; nearly always they came with the first."""
MAX_WAITING: Final = 1000
"""News of devices that nobody has taken yet; a network that floods us loses what is beyond."""


class Responder:
    """Answers for one service on the network. Used by one thread; ``rivalled`` is called from another.

    Args:
        addresses: Where to answer.
        rivalled: Called when another device claims the name; its argument says whether this one is to give way.

    Raises:
        NoMulticast: The network does not let it.
    """

    def __init__(self, addresses: Sequence[Address], rivalled: Callable[[bool], None]) -> None:
        self.record: Record | None = None
        self._rivalled = rivalled
        self._sockets = _sockets(addresses)
        self._zeroconf = _open(addresses)
        self._zeroconf.add_listener(_listener(self._claimed), None)

    def register(self, record: Record) -> None:
        """Ask whether the name is free, which takes about a second, and announce it.

        Raises:
            NameTaken: Another device has it.
            NoMulticast: The network does not let it.
        """
        from zeroconf import NonUniqueNameException

        try:
            with _network():
                self._zeroconf.register_service(_info(record))
        except NonUniqueNameException as error:
            raise NameTaken(f"{record.instance}: found another device of this name, expected none") from error
        self.record = record

    def reaches(self, record: Record) -> bool:
        """Whether its sockets are on the interfaces of a record; if not, a new responder is needed."""
        return self._sockets == _sockets(record.addresses)

    def say(self, record: Record) -> None:
        """Announce a record of the same name, whatever changed about it.

        Raises:
            NoMulticast: The network does not let it.
        """
        self.record = record
        with _network():
            self._zeroconf.update_service(_info(record))

    def close(self) -> None:
        """Say goodbye and give the sockets back.

        Raises:
            NoMulticast: The network did not let it say goodbye.
        """
        with _network():
            self._zeroconf.close()

    def _claimed(self, record: DNSRecord) -> None:
        """Look at a record that came from the network, this device's own ones included."""
        from zeroconf import DNSAddress, DNSService  # type: ignore[attr-defined]  # left out of its __all__ only

        claim: tuple[str, int] | bytes
        if isinstance(record, DNSService):
            claim = (record.server.lower(), record.port)
        elif isinstance(record, DNSAddress):
            claim = record.address
        else:
            return
        ours = self.record
        gives_way = None if ours is None or not record.ttl else ours.rival(record.name.lower(), claim)
        if gives_way is not None:
            self._rivalled(gives_way)


@dataclass(frozen=True)
class News:
    """Something that changed about a service; ``service`` is None where it left.

    Attributes:
        instance: Full name.
        service: What its records say.
    """

    instance: str
    service: Service | None


@dataclass(frozen=True)
class Service:
    """Records of a service, as a stranger on the network wrote them.

    Attributes:
        host: Full host name.
        port: TCP port.
        txt: Keys and values of the TXT record, raw.
        addresses: Where it says it is; link-local ones with their zone.
    """

    host: str
    port: int
    txt: Mapping[bytes, bytes | None]
    addresses: tuple[str, ...]


@contextmanager
def browse(addresses: Sequence[Address]) -> Iterator[Callable[[float], News | None]]:
    """Look for services while the context is open.

    Args:
        addresses: Where to look.

    Yields:
        A function that waits for news, for so many seconds at most; None if there was none.

    Raises:
        NoMulticast: The network does not let it.
    """
    from zeroconf import ServiceBrowser, ServiceStateChange

    waiting: queue.Queue[tuple[str, bool]] = queue.Queue(MAX_WAITING)

    def changed(*, name: str, state_change: ServiceStateChange, **_: object) -> None:
        item = (name, state_change is not ServiceStateChange.Removed)
        if not waiting.full():
            waiting.put_nowait(item)

    zeroconf = _open(addresses)

    def take(timeout_s: float) -> News | None:
        try:
            name, there = waiting.get(timeout=max(timeout_s, 0))
        except queue.Empty:
            return None
        return News(name, _resolve(zeroconf, name) if there else None)

    with _network():
        browser = ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[changed])
    try:
        yield take
    finally:
        with _network():
            browser.cancel()
            zeroconf.close()


def _resolve(zeroconf: Zeroconf, name: str) -> Service | None:
    """The records of a service; None if they do not come."""
    from zeroconf import BadTypeInNameException, IPVersion, NamePartTooLongException

    try:
        with _network():
            info = zeroconf.get_service_info(SERVICE_TYPE, name, RESOLVE_MS)
    except (BadTypeInNameException, NamePartTooLongException):
        return None  # a stranger may send any name
    if info is None or info.server is None or info.port is None:
        return None
    addresses = tuple(info.parsed_scoped_addresses(IPVersion.All))
    return Service(info.server, info.port, dict(info.properties), addresses)


def _open(addresses: Sequence[Address]) -> Zeroconf:
    """Sockets on the interfaces of some addresses."""
    from zeroconf import Zeroconf

    _check_port()
    with _network():
        zeroconf = Zeroconf(_sockets(addresses))
        if not zeroconf.engine.senders:
            zeroconf.close()
            names = ", ".join(sorted({one.interface for one in addresses}))
            raise NoMulticast(f"network: found no multicast on {names}, expected it; enable it, or choose others")
    return zeroconf


def _check_port() -> None:
    """Check that the port of multicast DNS can be shared: zeroconf would find out, and leave a socket open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for name in ("SO_REUSEADDR", "SO_REUSEPORT"):
            if hasattr(socket, name):
                one.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 1)
        try:
            one.bind(("", PORT))
        except OSError as error:
            raise NoMulticast(
                f"network: port {PORT}: found {error.strerror}, expected to share it; "
                "have the other program share it, as Avahi does with disallow-other-stacks=no"
            ) from error


def _sockets(addresses: Sequence[Address]) -> list[str | int | tuple[tuple[str, int, int], int]]:
    """One address of each interface for IPv4, and one for IPv6, link-local if there is one; more would be refused."""
    least = sorted(addresses, key=lambda one: (not one.is_v6, one.is_v6 and not one.is_link_local, one), reverse=True)
    chosen = {(one.index, one.is_v6): one.ip for one in least}
    return [chosen[key] for key in sorted(chosen)]


def _info(record: Record) -> ServiceInfo:
    from zeroconf import ServiceInfo

    return ServiceInfo(
        SERVICE_TYPE,
        record.instance,
        port=record.port,
        properties=dict(record.txt),
        server=record.server,
        host_ttl=TTL_S,
        other_ttl=TTL_S,
        addresses=sorted(record.packed),
    )


def _listener(seen: Callable[[DNSRecord], None]) -> RecordUpdateListener:
    """Something that zeroconf shows every record to; a class of its own only once zeroconf is loaded."""
    from zeroconf import RecordUpdateListener

    class Listener(RecordUpdateListener):
        def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
            for update in records:
                seen(update.new)

    return Listener()


@contextmanager
def _network() -> Iterator[None]:
    """Say in one way what the network, the system's limits and zeroconf say in several."""
    from zeroconf import BadTypeInNameException, Error, NamePartTooLongException, NonUniqueNameException

    try:
        yield
    except (BadTypeInNameException, NamePartTooLongException, NonUniqueNameException):
        raise  # about a name, not about the network
    except (OSError, RuntimeError, Error) as error:
        what = str(error) or type(error).__name__
        raise NoMulticast(f"network: found {what!r}, expected multicast DNS to work; it is tried again") from error
