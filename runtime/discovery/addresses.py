"""The addresses of this machine, by interface, and word of when they change. The one door to ifaddr."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from runtime.errors import NoMulticast

LOOPBACK: Final = ("127.", "::1")
LINK_LOCAL: Final = ("169.254.", "fe80:")
EVERY: Final = ("::", "0.0.0.0")  # noqa: S104  # compared with, not bound to
POLL_S: Final = 15.0
"""How often to look where the system does not tell. A notebook that changes networks is found again by then."""
_CHANGES: Final = 0x10 | 0x100 | 0x1
"""Groups RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR and RTMGRP_LINK of rtnetlink(7)."""


@dataclass(frozen=True, order=True)
class Address:
    """One address of one interface.

    Attributes:
        interface: Name, such as ``eth0``.
        index: The system's number of the interface.
        ip: The address without a zone, such as ``192.0.2.7`` or ``fe80::1``.
    """

    interface: str
    index: int
    ip: str

    @property
    def is_v6(self) -> bool:
        """Whether it is an IPv6 address."""
        return ":" in self.ip

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.ip.startswith(LOOPBACK)

    @property
    def is_link_local(self) -> bool:
        """Whether it means something on its own interface only."""
        return self.ip.startswith(LINK_LOCAL)


def present() -> tuple[Address, ...]:
    """Every address that the machine can use now, in a fixed order."""
    import ifaddr

    found = {
        Address(adapter.name, adapter.index or 0, one.ip if isinstance(one.ip, str) else one.ip[0])
        for adapter in ifaddr.get_adapters()
        for one in adapter.ips
    }
    return tuple(sorted(address for address in found if _usable(address)))


def _usable(address: Address) -> bool:
    """Whether an address is ready: one of IPv6 is not while the system still asks whether anybody else has it."""
    if not address.is_v6:
        return True
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind((address.ip, 0, 0, address.index))
    except OSError:
        return False
    return True


def choose(found: Sequence[Address], interfaces: Sequence[str], listening: str = "::") -> tuple[Address, ...]:
    """The addresses to be reached at.

    Args:
        found: Every address of the machine.
        interfaces: Names of interfaces; without any, all but loopback.
        listening: Address that a service listens at: ``::`` for all, ``0.0.0.0`` for all of IPv4.

    Raises:
        NoMulticast: None is left.
    """
    if interfaces:
        chosen = tuple(address for address in found if address.interface in interfaces)
    else:
        chosen = tuple(address for address in found if not address.is_loopback)
    chosen = tuple(address for address in chosen if _leads_to(address, listening))
    if not chosen:
        wanted = f"one of {', '.join(interfaces)}" if interfaces else "one that others can reach"
        if listening not in EVERY:
            wanted += f" with {listening}"
        names = ", ".join(sorted({address.interface for address in found})) or "none"
        raise NoMulticast(
            f"network: found addresses on {names}, expected {wanted}; connect it, or choose other interfaces"
        )
    return chosen


def _leads_to(address: Address, listening: str) -> bool:
    """Whether a service that listens there is reached at an address."""
    if listening in EVERY:
        return listening == "::" or not address.is_v6
    return address.ip == listening.partition("%")[0]


class ChangeWatch:
    """Waits until addresses may have changed, or until it is woken.

    Linux tells by netlink, so that a quiet machine sleeps; elsewhere the addresses are looked at every 15 seconds.
    """

    def __init__(self) -> None:
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._netlink = _netlink()
        self._seen = present() if self._netlink is None else ()

    def wake(self) -> None:
        """End the wait, from any thread."""
        with suppress(BlockingIOError):  # it is full of wakes already
            self._wake.send(b"\0")

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for a change, a wake, or the time.

        Returns:
            Whether addresses may have changed.
        """
        sources = [self._woken] if self._netlink is None else [self._woken, self._netlink]
        if self._netlink is None:
            timeout_s = POLL_S if timeout_s is None else min(timeout_s, POLL_S)
        ready, _, _ = select.select(sources, [], [], timeout_s)
        for source in ready:
            _drain(source)
        if self._netlink is not None:
            return self._netlink in ready
        before, self._seen = self._seen, present()
        return before != self._seen

    def close(self) -> None:
        """Give the descriptors back."""
        for one in (self._woken, self._wake, self._netlink):
            if one is not None:
                one.close()


def _netlink() -> socket.socket | None:
    """A socket that turns readable when addresses change; None where the system has no such thing, or forbids it."""
    if sys.platform != "linux":
        return None
    try:
        one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            one.bind((0, _CHANGES))
        except OSError:
            one.close()
            raise
    except OSError:
        return None
    return one


def _drain(source: socket.socket) -> None:
    """Take everything that waits, whatever it says: that something did is all that counts."""
    try:
        while source.recv(65536):
            pass
    except BlockingIOError:
        return
    except OSError:
        # ENOBUFS: so many changes at once that the system dropped some. Something changed.
        return
