"""What a device says of itself on the local network, as data: names, hints, and whose name it is when two claim one."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from runtime.discovery.addresses import Address

SERVICE_TYPE: Final = "_geoshift._tcp.local."
TXT_VERSION: Final = "1"
MAX_VALUE_BYTES: Final = 80
"""A certificate's digest or a mode's name has 64; nine of them stay far below one packet."""
MAX_LABEL_BYTES: Final = 58
"""A label has at most 63 bytes, and a number may follow."""


class Hints(Struct, frozen=True, kw_only=True):
    """The TXT record, less its version. Everybody on the network reads it and anybody could have written it."""

    id: str
    """Stable id of the device."""
    api: str
    """Versions of its API, such as ``v1,v2``."""
    ver: str
    """Version of geoshift."""
    prof: str
    """Name of the device profile."""
    mode: str
    """Mode committed last."""
    st: str
    """Phase, such as ``idle``."""
    auth: str
    """What it asks of callers: ``token`` or ``none``."""
    tls: str
    """SHA-256 of its certificate, in hexadecimal digits; empty without TLS."""


def txt(hints: Hints) -> dict[str, str]:
    """Keys and values of the TXT record: printable, and each short enough for the wire whatever it was."""
    values = {"txtvers": TXT_VERSION} | {name: getattr(hints, name) for name in hints.__struct_fields__}
    return {name: _cut("".join(one if one.isprintable() else "?" for one in value)) for name, value in values.items()}


def labels(name: str, device: str, number: int) -> tuple[str, str]:
    """First labels of service and host, with the number that tells them from another device's of the same name."""
    plain = "".join(one if one.isprintable() and one not in ".\\" else "-" for one in name.strip(" _"))
    host = re.sub(r"[^a-z0-9]+", "-", device.lower())[:40].strip("-")
    suffix = "" if number == 1 else f"-{number}"
    return (_cut(plain, MAX_LABEL_BYTES) or "geoshift") + suffix, f"geoshift-{host or 'device'}{suffix}"


def _cut(text: str, most_bytes: int = MAX_VALUE_BYTES) -> str:
    """The text, or as many of its first characters as take so many bytes."""
    return text.encode(errors="replace")[:most_bytes].decode(errors="ignore")


@dataclass(frozen=True)
class Record:
    """What is announced.

    Attributes:
        label: Name that people see, the first part of the service's.
        host: First part of the host name.
        port: TCP port.
        txt: Keys and values of the TXT record.
        addresses: Addresses of the host.
    """

    label: str
    host: str
    port: int
    txt: Mapping[str, str]
    addresses: tuple[Address, ...]

    @property
    def instance(self) -> str:
        """Full name of the service."""
        return f"{self.label}.{SERVICE_TYPE}"

    @property
    def server(self) -> str:
        """Full host name."""
        return f"{self.host}.local."

    @property
    def packed(self) -> frozenset[bytes]:
        """Addresses as they stand in records."""
        families = {False: socket.AF_INET, True: socket.AF_INET6}
        return frozenset(socket.inet_pton(families[one.is_v6], one.ip) for one in self.addresses)

    def rival(self, name: str, claim: tuple[str, int] | bytes) -> bool | None:
        """What another device's claim to one of these names means.

        Both sides see the other's claim and compare the same two values, so exactly one of them gives way.

        Args:
            name: Name that is claimed, in lower case.
            claim: Host and port that it is said to lead to, or an address.

        Returns:
            None if it is this record itself or another name; else whether this device is to give way.
        """
        if isinstance(claim, tuple):
            ours = (self.server.lower(), self.port)
            return None if name != self.instance.lower() or claim == ours else claim > ours
        if name != self.server.lower() or claim in self.packed:
            return None
        return claim > max(self.packed, default=b"")
